"""Approximate values: ``x \\approx 5``, ``\\approx 5``, ``\\sqrt{2} \\approx 1.414``.

- With a name, or nothing, before the sign the value counts as if it were ``=``: both of the first two equal 5 and
  nothing else.
- Between two values the left one counts, and the right one must be what it rounds, or is cut, to: ``\\frac{1}{3}
  \\approx 0.333`` equals 1/3, and ``\\frac{1}{3} \\approx 0.334`` and ``5 \\approx 6`` equal nothing.  They are two
  values, as a false equation is (:attr:`~hapo_lit.verify.conventions.Conventions.check_chains`).  A whole number may be
  rounded to tens and more if it keeps two digits, ``100\\pi \\approx 310``.
- A decimal reference equals the right one.
"""

from __future__ import annotations

from collections.abc import Sequence

from hapo_lit.verify.forms import Approximate, Bag, Form, Leaf, Named, Parse, TupleOrInterval
from hapo_lit.verify.kinds import numbers, quantities
from hapo_lit.verify.kinds.names import is_name
from hapo_lit.verify.rules import Rules, Truth, kleene_and

SIGN = "\\approx"


def read(parts: Sequence[str], text: str, depth: int, parse: Parse) -> Form:
    """A chain whose last sign is ``\\approx``; ``parts`` are what its signs separate."""
    decimal = parse(parts[-1], depth + 1)
    exact = text[: text.rindex(SIGN)].strip()
    if not exact:
        return decimal
    if is_name(exact):
        return Named(exact, decimal)
    inner = parse(exact, depth + 1)
    if isinstance(inner, Named):
        return inner._replace(value=Approximate(inner.value, decimal))
    return Approximate(inner, decimal)


def compare(rules: Rules, gold: Form, answer: Form) -> Truth:
    """At least one side is approximate."""
    rough = [form for form in (gold, answer) if isinstance(form, Approximate)]
    if len(rough) == 2:
        same = rules(rough[0].exact, rough[1].exact)
    else:
        turned = not isinstance(gold, Approximate)
        other = gold if turned else answer
        if isinstance(other, Named):
            other = other.value
        number = numbers.read(other.text) if isinstance(other, Leaf) else None
        pairs = [(other, part) if turned else (part, other) for part in (rough[0].decimal, rough[0].exact)]
        same = bool(number and number.places and rules(*pairs[0])) or rules(*pairs[1])
    if same is False or not rules.conventions.check_chains:
        return same
    return kleene_and([same, *(_is_rounded(rules, form.exact, form.decimal) for form in rough)])


def _is_rounded(rules: Rules, exact: Form, decimal: Form) -> Truth:
    """Whether a decimal is what an exact value rounds, or is cut, to; parts of tuples and lists one by one."""
    if isinstance(exact, Approximate):
        return kleene_and([_is_rounded(rules, exact.exact, exact.decimal), _is_rounded(rules, exact.exact, decimal)])
    for kind in (TupleOrInterval, Bag):
        if isinstance(exact, kind) and isinstance(decimal, kind):
            pairs = list(zip(exact.items, decimal.items, strict=False))
            return len(exact.items) == len(decimal.items) and kleene_and(_is_rounded(rules, *pair) for pair in pairs)
    if not isinstance(exact, Leaf) or not isinstance(decimal, Leaf):
        return False
    left, right = quantities.read(exact.text), quantities.read(decimal.text)
    number = numbers.read(right.value)
    if number is None or (left.unit and right.unit and left.unit != right.unit):
        return rules(exact, decimal)
    if right.percent and not left.percent:
        places = 2 + (number.places or 0)
        number = numbers.Number(number.value / 100, places, number.digits)
    return rules.leaves.rounds(left.value, number)

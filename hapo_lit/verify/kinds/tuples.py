"""Answers in order: ``(1, 2)``, ``A(1, 2)``, ``1:2:3``; and brackets that mean nothing."""

from __future__ import annotations

import re

from hapo_lit.verify.brackets import CLOSERS, OPENERS, PAIRS, TOKEN, split
from hapo_lit.verify.forms import Bag, Form, Grid, Leaf, Named, Parse, Ratio, TupleOrInterval
from hapo_lit.verify.kinds import sets
from hapo_lit.verify.rules import Rules, Truth

_WRITTEN_FRACTION = re.compile(r"\\frac\{.+\}|[^/]+/[^/]+")
_POINT = re.compile(r"([A-Z])(\([^()]*,[^()]*\))")


def read(text: str, depth: int, parse: Parse) -> Form | None:
    """What is in brackets as a whole, None if nothing is."""
    tokens = TOKEN.findall(text)
    opening, closing = tokens[0], tokens[-1]
    if opening not in PAIRS or closing not in PAIRS.values() or len(tokens) < 2:
        return None
    level = 0
    for place, token in enumerate(tokens):
        level += (token in OPENERS) - (token in CLOSERS)
        if level == 0 and place < len(tokens) - 1:
            return None
    inner = "".join(tokens[1:-1]).strip()
    kind = opening + closing
    if kind == "\\{\\}":
        return sets.in_braces(inner, depth, parse)
    if kind == "{}":
        return parse(inner, depth + 1)
    parts = split(inner, (",", ";"))
    if parts is None:
        return None
    if len(parts[0]) == 1:
        alone = parse(inner, depth + 1)
        return alone if kind == "()" or (kind == "[]" and isinstance(alone, Grid)) else None
    items = tuple(parse(part, depth + 1) for part in parts[0])
    if opening == "\\langle":
        opening, closing = "(", ")"
    if opening not in "([" or closing not in ")]":
        return None
    signed = [place for place, item in enumerate(items) if isinstance(item, Bag) and not item.braces]
    if len(signed) != 1 or "\\pm" not in parts[0][signed[0]]:
        return TupleOrInterval(opening, items, closing)
    place, bag = signed[0], items[signed[0]]
    assert isinstance(bag, Bag)
    return Bag(
        tuple(TupleOrInterval(opening, (*items[:place], item, *items[place + 1 :]), closing) for item in bag.items)
    )


def read_point(text: str, depth: int, parse: Parse) -> Form | None:
    """``A(1, 2)``."""
    if (match := _POINT.fullmatch(text)) and isinstance(point := parse(match[2], depth + 1), TupleOrInterval):
        return Named(match[1], point)
    return None


def read_ratio(text: str, depth: int, parse: Parse) -> Form | None:
    """``1:2:3``."""
    if ":" in text and (cut := split(text, (":",))) and len(cut[0]) > 1 and all(part.strip() for part in cut[0]):
        return Ratio(tuple(parse(part, depth + 1) for part in cut[0]))
    return None


def compare_ratios(rules: Rules, gold: Form, answer: Form) -> Truth:
    """At least one side is a ratio.  Part by part, since it may be a time of day; ``1:3`` is the fraction 1/3."""
    if isinstance(gold, Ratio) and isinstance(answer, Ratio):
        return rules.all_of(gold.items, answer.items)
    ratio, other = (gold, answer) if isinstance(gold, Ratio) else (answer, gold)
    if not isinstance(ratio, Ratio) or not isinstance(other, Leaf) or len(ratio.items) != 2:
        return False
    parts = [item.text for item in ratio.items if isinstance(item, Leaf)]
    if len(parts) != 2 or parts[1].startswith("0") or not _WRITTEN_FRACTION.fullmatch(other.text):
        return False
    fraction = Leaf(rf"\frac{{{parts[0]}}}{{{parts[1]}}}")
    return rules(fraction, other) if ratio is gold else rules(other, fraction)


def compare(rules: Rules, gold: TupleOrInterval, answer: TupleOrInterval) -> Truth:
    """The same brackets, and equal items in order."""
    if (gold.opening, gold.closing) != (answer.opening, answer.closing):
        return False
    return rules.all_of(gold.items, answer.items)

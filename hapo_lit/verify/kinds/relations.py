"""Relations: equations, inequalities, ``x \\in A``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hapo_lit.verify.brackets import split
from hapo_lit.verify.forms import FLIPPED, Bag, Form, Leaf, Named, Parse, Relation, Without
from hapo_lit.verify.kinds import approximations, functions, intervals
from hapo_lit.verify.kinds.names import are_names, is_name, names_in
from hapo_lit.verify.rules import Rules, Truth

_OPERATORS = frozenset(FLIPPED) | frozenset(
    "\\in \\approx \\equiv \\notin \\subset \\subseteq \\sim \\Rightarrow \\to \\rightarrow \\mapsto \\propto \\cong "
    "\\perp \\parallel".split()
)
_RELATED = re.compile(rf"[<>=]|{'|'.join(re.escape(word) for word in sorted(_OPERATORS) if len(word) > 1)}")


def read(text: str, depth: int, parse: Parse) -> Form | None:
    """A chain of relations, as a named value or interval where it is one; None if there is no relation."""
    cut = split(text, _OPERATORS) if _RELATED.search(text) else None
    if cut is None or not cut[1]:
        return None
    parts, operators = [part.strip() for part in cut[0]], cut[1]
    if not all(parts[1:] if operators == [approximations.SIGN] else parts):
        return Leaf(text)
    if operators[-1] == approximations.SIGN:
        return approximations.read(parts, text, depth, parse)
    sides = tuple(parse(part, depth + 1) for part in parts)
    relation = Relation(sides, tuple(operators))
    if set(operators) == {"="}:
        return _equation(parts, sides, relation)
    if operators == ["\\in"] or (operators == ["=", "\\in"] and is_name(parts[0])):
        return Named(parts[0], sides[-1]) if are_names(parts[0]) else relation
    if operators == ["\\ne"]:
        for side, point in ((0, 1), (1, 0)):
            if is_name(parts[side]) and not is_name(parts[point]):
                return Named(parts[side], Without(Bag((sides[point],))))
    interval = intervals.from_bounds(parts, sides, operators)
    return Named(*interval, (), relation) if interval else relation


def _equation(parts: Sequence[str], sides: tuple[Form, ...], relation: Relation) -> Form:
    if are_names(parts[0]):
        named = 1
        while named < len(parts) - 1 and are_names(parts[named]):
            named += 1
        return Named(functions.in_order(parts[0]), sides[-1], sides[named:-1], relation)
    if len(parts) == 2 and is_name(parts[1]) and not names_in(parts[0]):
        return Named(functions.in_order(parts[1]), sides[0], (), relation)
    if not any(names_in(part) for part in parts):
        return Named("", sides[-1], sides[:-1], relation)
    return relation


def compare(rules: Rules, gold: Form, answer: Form) -> Truth:
    """Two relations, or the relations that two named values were read from."""
    left = gold.relation if isinstance(gold, Named) else gold
    right = answer.relation if isinstance(answer, Named) else answer
    if not isinstance(left, Relation) or not isinstance(right, Relation):
        return False
    if left.operators == right.operators and rules.all_of(left.sides, right.sides):
        return True
    return rules.leaves.relations(left, right)


def last_side(form: Form) -> Form:
    """The last side of a chain of more than two equal sides; any other form itself."""
    chain = isinstance(form, Relation) and len(form.sides) > 2 and set(form.operators) == {"="}
    return form.sides[-1] if isinstance(form, Relation) and chain else form

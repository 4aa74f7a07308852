"""Sets: ``\\{1, 2\\}``, ``\\{x | x > 1\\}``, all numbers but some."""

from __future__ import annotations

from hapo_lit.verify.brackets import split
from hapo_lit.verify.forms import (
    EMPTY_SET,
    INFINITY,
    MINUS_INFINITY,
    Bag,
    Form,
    Leaf,
    Named,
    Parse,
    TupleOrInterval,
    Without,
    members,
)
from hapo_lit.verify.kinds import lists, numbers
from hapo_lit.verify.kinds.intervals import REALS
from hapo_lit.verify.rules import Rules, Truth


def read_difference(text: str, depth: int, parse: Parse) -> Form | None:
    """All real numbers but some: ``\\mathbb{R} \\setminus \\{1\\}``."""
    if (
        "\\setminus" in text
        and (cut := split(text, ("\\setminus",)))
        and len(cut[0]) == 2
        and cut[0][0].strip() in REALS
    ):
        removed = parse(cut[0][1], depth + 1)
        if isinstance(removed, Bag):
            return Without(removed)
    return None


def in_braces(inner: str, depth: int, parse: Parse) -> Form:
    """What stands in ``\\{ \\}``: items, or the condition that they meet."""
    if not inner:
        return EMPTY_SET
    for mark in ("|", ":"):
        cut = split(inner, (mark,))
        if cut and len(cut[0]) == 2:
            head, condition = (part.strip() for part in cut[0])
            head, _, domain = head.partition("\\in")
            if domain.strip() not in ("", *REALS):
                return Leaf("\\{" + inner + "\\}")
            form = parse(condition, depth + 1)
            if isinstance(form, Named) and form.name == head.strip():
                return form.value
            return Leaf("\\{" + inner + "\\}")
    parts = split(inner, (",", ";"))
    items = tuple(parse(part, depth + 1) for part in (parts[0] if parts else [inner]) if part.strip())
    return Bag(tuple(member for item in items for member in members(item)), True)


def compare_differences(rules: Rules, gold: Form, answer: Form) -> Truth:
    """At least one side is all real numbers but some."""
    if isinstance(gold, Without) and isinstance(answer, Without):
        return lists.compare(rules, gold.points, answer.points)
    without, other = (gold, answer) if isinstance(gold, Without) else (answer, gold)
    assert isinstance(without, Without)
    gaps = _gaps(without.points)
    return lists.compare(rules, gaps, other) if gaps and isinstance(other, Bag) else False


def _gaps(points: Bag) -> Bag | None:
    """The open intervals between points, None unless all are numbers."""
    read = [numbers.read(item.text) if isinstance(item, Leaf) else None for item in points.items]
    ordered = sorted((number.value, item) for number, item in zip(read, points.items, strict=True) if number)
    if len(ordered) != len(points.items):
        return None
    ends = [MINUS_INFINITY, *(item for _, item in ordered), INFINITY]
    return Bag(tuple(TupleOrInterval("(", (ends[n], ends[n + 1]), ")") for n in range(len(ends) - 1)))

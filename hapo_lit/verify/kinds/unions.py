"""Unions: ``A \\cup B``.

- Sets become one set, ``\\{1\\} \\cup \\{2\\}`` = ``\\{1, 2\\}``.
- Intervals with numbers as ends merge where they overlap or touch at an end that one of them has: ``(0,2) \\cup (1,3)``
  is ``(0,3)``, ``(0,1] \\cup (1,2)`` is ``(0,2)``, ``(0,1) \\cup \\{1\\}`` is ``(0,1]``; ``(0,1) \\cup (1,2)`` stays.
- Other ends, such as ``\\sqrt{2}`` or ``a``, merge where they touch and are written alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from hapo_lit.verify.brackets import split
from hapo_lit.verify.forms import INFINITY, MINUS_INFINITY, Bag, Form, Leaf, Parse, TupleOrInterval
from hapo_lit.verify.kinds import numbers


class _Stretch(NamedTuple):
    """An interval, or a point as one whose ends are the same: each end is its value, whether it is left out, its form.

    The lower end sorts as (value, left out), the upper one as (value, kept).
    """

    low: tuple[Fraction | float, bool]
    high: tuple[Fraction | float, bool]
    forms: tuple[Form, Form]

    @property
    def is_point(self) -> bool:
        return self.low[0] == self.high[0]


def read(text: str, depth: int, parse: Parse) -> Form | None:
    """``A \\cup B``."""
    if "\\cup" in text and (cut := split(text, ("\\cup",))) and len(cut[0]) > 1:
        return _union([parse(part, depth + 1) for part in cut[0]])
    return None


def _union(parts: Sequence[Form]) -> Form:
    """The union of sets as one set, of other things as a list."""
    if all(isinstance(part, Bag) and part.braces for part in parts):
        return Bag(tuple(item for part in parts if isinstance(part, Bag) for item in part.items), True)
    found = [_stretches(part) for part in parts]
    known = [stretch for stretches in found if stretches for stretch in stretches]
    merged = _merged(known) if all(found) else _joined(parts)
    return Bag(tuple(merged)) if len(merged) > 1 else merged[0]


def _stretches(part: Form) -> list[_Stretch]:
    """An interval, or the points of a set, if all ends are numbers; otherwise nothing."""
    if isinstance(part, TupleOrInterval) and len(part.items) == 2:
        low, high = (_value(item) for item in part.items)
        opened, shut = part.opening == "(", part.closing == "]"
        if low is None or high is None or low > high or (low == high and (opened or not shut)):
            return []
        return [_Stretch((low, opened), (high, shut), (part.items[0], part.items[1]))]
    if isinstance(part, Bag) and part.braces:
        values = [(_value(item), item) for item in part.items]
        points = [_Stretch((value, False), (value, True), (item, item)) for value, item in values if value is not None]
        return points if len(points) == len(values) else []
    return []


def _value(form: Form) -> Fraction | float | None:
    if form in (INFINITY, MINUS_INFINITY):
        return math.inf if form == INFINITY else -math.inf
    number = numbers.read(form.text) if isinstance(form, Leaf) else None
    return number.value if number else None


def _merged(stretches: Sequence[_Stretch]) -> list[Form]:
    """Intervals, from left to right, that neither overlap nor touch, and then the points that are left."""
    kept: list[_Stretch] = []
    for stretch in sorted(stretches, key=lambda stretch: (stretch.low, stretch.high)):
        last = kept[-1] if kept else None
        touching = last and (
            stretch.low[0] < last.high[0] or (stretch.low[0] == last.high[0] and (last.high[1] or not stretch.low[1]))
        )
        if last and touching:
            longer = stretch if stretch.high > last.high else last
            kept[-1] = _Stretch(last.low, longer.high, (last.forms[0], longer.forms[1]))
        else:
            kept.append(stretch)
    whole: list[Form] = [
        TupleOrInterval("(" if stretch.low[1] else "[", stretch.forms, "]" if stretch.high[1] else ")")
        for stretch in kept
        if not stretch.is_point
    ]
    points = tuple(stretch.forms[0] for stretch in kept if stretch.is_point)
    return [*whole, Bag(points, True)] if points else whole


def _joined(parts: Sequence[Form]) -> list[Form]:
    """Intervals side by side as one where the end of one is the beginning of the next, letter by letter."""
    merged = list(parts)
    for place in range(len(parts) - 1, 0, -1):
        before, after = merged[place - 1], merged[place]
        if (
            isinstance(before, TupleOrInterval)
            and isinstance(after, TupleOrInterval)
            and len(before.items) == len(after.items) == 2
        ):
            touching = before.items[1] == after.items[0] and (before.closing == "]" or after.opening == "[")
            if touching:
                merged[place - 1 : place + 1] = [
                    TupleOrInterval(before.opening, (before.items[0], after.items[1]), after.closing)
                ]
    return merged

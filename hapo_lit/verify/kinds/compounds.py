"""Quantities of several units: ``3 hours 20 minutes``, ``2h 5min``, ``5 ft 7 in``, ``1 hour and 30 minutes``.

The units are of one dimension, decrease, and stand once each: ``3 cm and 4 cm`` and ``3 apples and 2 pears`` are lists,
as is ``4 mm and 3 cm``.  All values but the last are whole numbers.

Days, hours, minutes and seconds are converted into each other exactly where both sides have units: ``3 hours 20
minutes`` are ``200 minutes``, and neither 200 nor ``3.33 hours``.  All other units are compared part by part, and no
other unit is converted: ``5 ft 7 in`` are ``5 feet, 7 inches`` and not ``67 in``.  A part that is zero says nothing:
``5 ft 0 in`` are ``5 ft``.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from hapo_lit.verify.kinds import numbers, quantities, units

MAX_LENGTH = 120
Parts = tuple[tuple[str, Fraction], ...]
"""The units, from large to small, and how many there are of each."""

_SECOND = re.compile(r"[a-zA-Z][^0-9]*[0-9]")
_MARKUP = re.compile(r"\\text ?\{([^{}]*)\}")
_VALUE = (
    r"(?:[0-9]++(?:(?:,|\{,\})[0-9]{3})*+(?:\.[0-9]++)?+"
    r"(?:/[0-9]++| [0-9]++/[0-9]++| ?\\frac\{[0-9]++\}\{[0-9]++\})?+|\\frac\{[0-9]++\}\{[0-9]++\})"
)
_PART = re.compile(rf"({_VALUE}) ?([a-zA-Z]++)\.?")
_JOINT = re.compile(" ?(?:, ?)?(?:and |\x02 ?)?")
"""\x02 is the ``and`` of a list that is being read."""
_ONE_LETTER = {
    "d": "day",
    "h": "hour",
    "m": "meter",
    "s": "second",
    "g": "gram",
    "l": "liter",
    "L": "liter",
    "c": "cent",
}
_TIME = units.DIMENSIONS[0]


@lru_cache(maxsize=8192)
def read(text: str) -> Parts | None:
    """The parts of a normalised quantity of two units or more, None if it is not one."""
    if not text[:1].isdigit() or len(text) > MAX_LENGTH or not _SECOND.search(text):
        return None
    plain = " ".join(_MARKUP.sub(r" \1 ", text).split())
    values: list[Fraction] = []
    words: list[str] = []
    place = 0
    while match := _PART.match(plain, place):
        value = numbers.read(match[1])
        if value is None:
            return None
        values.append(value.value)
        words.append(match[2])
        place = match.end()
        if place == len(plain):
            break
        joint = _JOINT.match(plain, place)
        assert joint is not None
        place = joint.end()
    if place != len(plain) or len(words) < 2 or not match or any(value.denominator != 1 for value in values[:-1]):
        return None
    names = _names(words)
    return tuple(zip(names, values, strict=True)) if names else None


def _names(words: list[str]) -> list[str] | None:
    """The units in their standard spelling, None if they are not of one dimension or do not decrease."""
    names = [_ONE_LETTER.get(word, "") if len(word) == 1 else units.spelled(word) for word in words]
    if "m" in words and any(name in _TIME for name in names):
        names[words.index("m")] = "minute"
    for dimension in units.DIMENSIONS:
        if set(names) <= set(dimension):
            places = [dimension.index(name) for name in names]
            return names if places == sorted(set(places)) else None
    return None


def compare(gold: str, answer: str) -> bool:
    """At least one side is a quantity of several units."""
    left, right = _parts(gold, read(answer)), _parts(answer, read(gold))
    return left is not None and left == right


def _parts(text: str, other: Parts | None) -> dict[str, Fraction] | None:
    """How many there are of each unit, with those of time that are converted in seconds; None without units.

    A single letter is the unit that it stands for beside an ``other`` quantity: ``65 s``, ``1 minute 5 seconds``.
    """
    parts = read(text)
    if parts is None and other is not None and (match := _PART.fullmatch(text)) and len(match[2]) == 1:
        name = "minute" if match[2] == "m" and other[0][0] in _TIME else _ONE_LETTER.get(match[2])
        number = numbers.read(match[1])
        if name is None or number is None:
            return None
        parts = ((name, number.value),)
    elif parts is None:
        quantity = quantities.read(text)
        number = numbers.read(quantity.value)
        if not quantity.unit or number is None:
            return None
        parts = ((quantity.unit, number.value),)
    converted = parts[0][0] != "degree"
    found: dict[str, Fraction] = {}
    for unit, value in parts:
        seconds = units.SECONDS.get(unit) if converted else None
        name = "second" if seconds else unit
        found[name] = found.get(name, Fraction(0)) + value * (seconds or 1)
    return {name: value for name, value in found.items() if value} or {next(iter(found)): Fraction(0)}

"""A value and its unit: ``5 cm``, ``\\$5``, ``30^\\circ``, ``28\\%``, ``72\\text{ clips}``, ``5\\text{ million}``.

A unit may be left out (``5 cm`` is 5; ``verifier.conventions.units_optional`` says by which side).  Two that differ
never agree, and none is converted, but for days, hours, minutes and seconds where both sides have one: ``2 hours`` are
``120 minutes``, and 120 is not ``2 hours``.  What is counted is such a unit too (``counted.py``): 72 is ``72 clips``,
``72 clips`` are not ``72 cups``, and ``5 thousand`` is neither 5 nor a count.  A word that is no part of a count is
kept as a unit with :data:`UNKNOWN` before it, which counts only if both sides have it: ``5 lakh`` is ``5 lakh``.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from hapo_lit.verify.kinds import counted, formulas, numbers, units
from hapo_lit.verify.kinds.names import names_in
from hapo_lit.verify.rules import Rules, Truth, kleene_or

UNKNOWN = "?"
"""Stands before a word that is a unit only if both sides have it."""
MAX_WORDS = 4


class Quantity(NamedTuple):
    """``value`` is what the text is without its ``unit``, which is spelled in one way, and empty if there is none."""

    value: str
    unit: str = ""
    percent: bool = False


_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALE = "|".join(_SCALES)
_SCALED = re.compile(rf"(.*[0-9]) ?(?:\\text\{{({_SCALE})(?: ([^{{}}]*))?\}}|({_SCALE})(?![a-z])) ?(.*)")
_POWER = r"(?:\^(?:\{?(-?[1-3])\}?))?"
_TEXT_UNIT = re.compile(rf"((?:[^\\]|\\(?!text))*?) ?((?:(?> ?(?:(?:/|\\cdot) ?)?\\text ?\{{[^{{}}]*\}}{_POWER}))++ ?)")
_TEXT_PART = re.compile(r"(/|\\cdot)? ?\\text ?\{([^{}]*)\}(?:\^\{?(-?[0-9])\}?)? ?")
_NAMES = "|".join(map(re.escape, units.PLAIN))
_PLAIN_UNIT = re.compile(rf"(.*?[0-9)}}]) ?((?:(?>(?:{_NAMES})s?(?: |/|(?![a-zA-Z]))))++(?:[a-z]+s?)?){_POWER}")
_GLUED_POWER = re.compile(r"(.*[0-9)}]) ?((?:[cdkm]m|ft|in|yd|(?<= )m)[23])")
_RATE = re.compile(
    r"(.*[0-9)}]) ((?:(?:k?m|[cm]m|ft)(?:\^[23])?/s(?:\^2)?)|km/h|mi/h|L/(?:s|min|h)|k?g/(?:c?m\^3|mL|L|s))"
)
"""Rates in plain letters, behind a blank: ``5 m/s``."""
_LETTERS = re.compile(r"(.*[0-9)}]) ?([a-zA-Z]+(?:\^[23])?(?:/[a-zA-Z]+(?:\^[23])?)?)")
_PLAIN_WORDS = re.compile(r"(.*[0-9}]) ([A-Za-z]++(?:[ -][A-Za-z]++){0,5})")
_DEGREE = re.compile(r"(.*?)\^\\circ ?(C|F|\\text\{ ?[CF] ?\})?")
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_CURRENCY = re.compile(
    r"(-?) ?(\\\$|[$€£¥₹]|\\text\{ ?(?:\\?\$|Rs\.?|USD|EUR|€|£) ?\}|\\pounds|\\euro|(?:USD|US\\\$|Rs\.?) ?)(.+)"
)
_CURRENCY_AFTER = re.compile(r"(.+?) ?(\\\$|[$€£¥₹¢]|\\pounds|\\euro|USD|EUR)")
_ORDINAL = re.compile(r"([0-9]+)\^?\{?(?:\\text\{)?(?:st|nd|rd|th)\}{0,2}")
_NO_VALUE = re.compile(r"[-+*/^_=(\\]\Z|\\text")
_SQUARE = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
_ARTICLES = frozenset("the a an his her their its".split())
_UNIT_WORD = re.compile(r"([A-Za-z$€£¥₹¢%.']+)(?:\^?\{?(-?[1-4])\}?)?")
_DIVISION = re.compile(r"(?:^| )per |(?<=\w) ?/ ?| an? (?=(?:second|minute|hour|day|week|month|year)(?![a-z]))")
_PER_CENT = re.compile(r"(?<![a-z])per cent(?![a-z])")
_ALTOGETHER = re.compile(r"(?:^| )(?:in total|in all|total|altogether|overall)\Z")


@lru_cache(maxsize=8192)
def read(text: str) -> Quantity:
    """The value and the unit of a normalised formula without top-level commas."""
    if text[-1:].isdigit() and text[:1] not in "\\$€£¥₹UR-" and "\\" not in text and not text.endswith("/s^2"):
        return _glued_power(text)
    if match := _ORDINAL.fullmatch(text):
        return Quantity(match[1])
    if match := _CURRENCY.fullmatch(text):
        return _money(text, match)
    if text.endswith("%"):
        share = text[:-1].strip()
        return Quantity(text) if re.search(r".[-+]|%", share) else Quantity(share, "", True)
    if (match := _SCALED.fullmatch(text)) and not match[5].startswith(("^", "_")):
        rest = (rf"\text{{{match[3]}}}" if match[3] else "") + match[5]
        inner = read(f"{match[1]} {rest}".strip())
        return Quantity(rf"{inner.value}\cdot{_SCALES[match[2] or match[4]]}", inner.unit)
    if (match := _DEGREE.fullmatch(text)) and not _FUNCTION.search(match[1]):
        scale = re.sub(r"\\text|[{} ]", "", match[2] or "")
        return Quantity(match[1], {"": "degree", "C": "celsius", "F": "fahrenheit"}[scale])
    if match := _CURRENCY_AFTER.fullmatch(text):
        return Quantity(match[1], units.SIGNS.get(match[2]) or units.spelled(match[2]))
    for pattern in (_TEXT_UNIT, _PLAIN_UNIT, _RATE, _PLAIN_WORDS):
        match = pattern.fullmatch(text)
        if match is None or not match[1].strip() or _NO_VALUE.search(match[1]):
            continue
        value = match[1].strip()
        if pattern is _TEXT_UNIT:
            unit = _text_unit(match[2], value)
        else:
            unit = _unit(match[2], value, match[3] if pattern is _PLAIN_UNIT else None, plain=pattern is _PLAIN_WORDS)
        if unit is not None:
            return Quantity(value, "", True) if unit == "percent" else Quantity(value, unit)
    return _glued_power(text)


def _glued_power(text: str) -> Quantity:
    """``20 cm2``."""
    match = _GLUED_POWER.fullmatch(text) if text[-1:] in ("2", "3") and text[-2:-1].isalpha() else None
    if match is None or _NO_VALUE.search(match[1]):
        return Quantity(text)
    return Quantity(match[1], f"{units.spelled(match[2][:-1])}^{match[2][-1]}")


def _money(text: str, match: re.Match[str]) -> Quantity:
    """``\\$5``, ``\\$5.20\\text{ profit}``, ``\\$15\\text{ per hour}``."""
    inner = read(match[3])
    sign = units.SIGNS.get(match[2]) or units.spelled(re.sub(r"\\text|[{}\\ .]", "", match[2]))
    if inner.unit in ("", sign):
        return Quantity(match[1] + inner.value, sign, inner.percent)
    if inner.unit.startswith("unit/") and UNKNOWN not in inner.unit:
        return Quantity(match[1] + inner.value, inner.unit.replace("unit", sign, 1))
    if UNKNOWN not in inner.unit and not units.NAMES.intersection(re.split("[ /^]", inner.unit)):
        return Quantity(match[1] + inner.value, sign)
    return Quantity(text)


def _text_unit(text: str, value: str) -> str | None:
    """The unit in one or more ``\\text{}``."""
    found = []
    for join, words, power in _TEXT_PART.findall(text):
        unit = _unit(words, value, power.removeprefix("-") or None)
        if unit is None:
            return None
        found.append(("/" if (join == "/") != power.startswith("-") else "") + unit)
    unit = "".join(found).strip()
    return f"unit{unit}" if unit.startswith("/") else unit


def _unit(words: str, value: str, power: str | None = None, plain: bool = False) -> str | None:
    """The standard spelling of a unit, None if the words are not one."""
    words = words.strip().strip(".").replace("°", "degree ").replace("-", " ")
    words = _ALTOGETHER.sub("", _PER_CENT.sub("percent", words)).replace("left over", "leftover")
    if not words:
        return ""
    parts = _DIVISION.split(words)
    spelled = []
    for place, part in enumerate(parts):
        if not part.strip():
            if place:
                return None
            spelled.append("unit")
            continue
        unit = _part(part.split(), value, power if place == len(parts) - 1 else None, plain)
        if unit is None:
            return None
        spelled.append(unit)
    unit = "/".join(spelled)
    return units.SPEEDS.get(unit, unit)


def _part(words: list[str], value: str, power: str | None, plain: bool) -> str | None:
    """The standard spelling of a unit without ``per``."""
    names: list[str] = []
    bare: list[str] = []
    for place, word in enumerate(words):
        match = _UNIT_WORD.fullmatch(word)
        if match is None or len(names) >= MAX_WORDS:
            return None
        lower = word.lower().rstrip(".")
        if lower == "of" and place == 0 and _is_share(value, words[1:]):
            return ""
        if lower in _SQUARE and place + 1 < len(words):
            power = _SQUARE[lower]
            continue
        if lower == "of" and names:
            if not all(counted.counts(other) or units.spelled(other) in units.NAMES for other in words[place + 1 :]):
                return None
            break
        name = units.spelled(match[1])
        if lower in counted.MEASURES and names and names[-1] in units.NAMES:
            continue
        if name in units.NAMES:
            known = word != "K" or len(words) == 1  # 5K dollars
        else:
            known = counted.counts(match[1]) and _is_number_of_things(value, name, match[2] or power)
        if not known and plain:
            return None
        bare.append(match[1])
        names.append(("" if known else UNKNOWN) + name + (f"^{match[2]}" if match[2] not in (None, "1") else ""))
    if bare and not counted.has_noun(bare, _at_most_one(value), plain):
        if plain:
            return None
        names[-1] = UNKNOWN + names[-1].removeprefix(UNKNOWN)
    return " ".join(names or ["unit"]) + (f"^{power}" if power and power != "1" else "")


def _is_share(value: str, whole: list[str]) -> bool:
    """``\\frac{3}{4}\\text{ of the cake}``: a part of something that is no number and no quantity."""
    number = numbers.read(value)
    if number is None or not 0 < number.value < 1 or len(whole) > MAX_WORDS:
        return False
    things = [word for word in whole if word.lower() not in _ARTICLES]
    return bool(things) and all(counted.counts(word) and units.spelled(word) not in units.NAMES for word in things)


def _at_most_one(value: str) -> bool:
    number = numbers.read(value)
    return number is not None and abs(number.value) <= 1


def _is_number_of_things(value: str, name: str, power: str | None) -> bool:
    """Whether a word that is no unit can be what the value counts: there are no squares of things."""
    if power is not None:
        return False
    return name in counted.NOUNS or name in counted.ADJECTIVES or not names_in(value)


def compare(rules: Rules, left: Quantity, right: Quantity) -> Truth:
    """At least one side, the reference or the answer, has a unit or a percent sign."""
    left, right = _in_letters(left, right.unit), _in_letters(right, left.unit)
    if left.unit.replace(UNKNOWN, "") != right.unit.replace(UNKNOWN, ""):
        if left.unit in units.SECONDS and right.unit in units.SECONDS:
            return formulas.compare(rules, _seconds(left), _seconds(right))
        if (left.unit and right.unit) or UNKNOWN in left.unit + right.unit:
            return False
        if rules.conventions.units_optional not in (True, "gold" if right.unit else "answer"):
            return False
    if left.percent == right.percent:
        return formulas.compare(rules, left.value, right.value)
    share, plain = (left, right) if left.percent else (right, left)
    truths = [formulas.compare(rules, share.value, plain.value) if rules.conventions.percent_optional else False]
    if rules.conventions.percent_as_ratio and not plain.unit and truths[0] is not True:
        truths.append(formulas.compare(rules, _hundredth(share.value), plain.value))
    return kleene_or(truths)


def _in_letters(quantity: Quantity, unit: str) -> Quantity:
    """``5 m`` beside ``3\\text{ m}``: letters that spell the unit of the other side are that unit."""
    if quantity.unit or not unit or quantity.percent:
        return quantity
    match = _LETTERS.fullmatch(quantity.value)
    if match is None or _NO_VALUE.search(match[1]):
        return quantity
    spelled = _unit(match[2], match[1])
    alike = spelled == unit or (spelled in units.SECONDS and unit in units.SECONDS)
    return Quantity(match[1].strip(), spelled or "") if alike else quantity


def _seconds(quantity: Quantity) -> str:
    """The value in seconds: exactly, and as a fraction, so that no rounded decimal stands for it."""
    number, factor = numbers.read(quantity.value), units.SECONDS[quantity.unit]
    if number is None:
        return rf"({quantity.value})\cdot{factor}"
    return _fraction(number.value * factor)


def _hundredth(value: str) -> str:
    number = numbers.read(value)
    return rf"\frac{{{value}}}{{100}}" if number is None else _fraction(number.value / 100)


def _fraction(value: Fraction) -> str:
    return f"{value.numerator}/{value.denominator}"

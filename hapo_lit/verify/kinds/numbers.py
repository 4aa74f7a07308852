"""Numbers as they are written, read exactly.  A pattern finds them and :class:`fractions.Fraction` reads them."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

MAX_LENGTH = 400
"""Longer texts are not numbers: reading digits costs time that grows with the square of their count."""
MAX_EXPONENT = 2000
MAX_ZEROS = 12
"""So many zeros at the end of a whole number may be due to rounding."""

_DIGITS = r"(?:[1-9][0-9]{0,2}(?:(?:,|\{,\}| )[0-9]{3})+|[0-9]+)"
_PLAIN = rf"(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)"
_INTEGER = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(
    rf"([+-]?)({_PLAIN})"
    r"(?:\\cdot10\^(?:\{([+-]?[0-9]{1,4})\}|([0-9]))|(?:(?<=\.[0-9])|(?<=\.[0-9][0-9])|(?<=[0-9]{3}))e([+-]?[0-9]{1,3})"
    r"|E([+-]?[0-9]{1,3})|e([0-9]{1,3}|[+-][0-9]{2,3}))?"
)
_POWER = re.compile(r"([+-]?)10\^(?:\{([+-]?[0-9]{1,4})\}|([0-9]))")
_FRACTION = re.compile(rf"([+-]?)\\frac\{{([+-]?)({_PLAIN})\}}\{{([+-]?)({_PLAIN})\}}")
_SLASH = re.compile(rf"([+-]?)({_PLAIN})/({_PLAIN})")
_MIXED = re.compile(
    r"([+-]?)([1-9][0-9]{0,2}(?:(?:,|\{,\})[0-9]{3})+|[0-9]+) ?"
    r"(?:\\frac\{([0-9]+)\}\{([0-9]+)\}|(?<= )([0-9]+)/([0-9]+))"
)
_REPEATING = re.compile(r"([+-]?)([0-9]*)\.([0-9]*)(?:\\(?:overline|bar|dot)\{?([0-9]+)\}?|\(([0-9]+)\))")

_UNITS = "zero one two three four five six seven eight nine".split()
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_WORDS = {word: value for value, word in enumerate((*_UNITS, *_TEENS))} | {
    f"{tens} {word}".strip(): 10 * place + value
    for place, tens in enumerate(_TENS, 2)
    for value, word in enumerate(["", *_UNITS[1:]])
}
_WORD = re.compile(r"(?:\\text ?\{ ?)?((?:[Nn]egative|[Mm]inus) )?([A-Za-z]{3,9}(?:[- ][A-Za-z]{3,5})?)(?: ?\})?")


class Number(NamedTuple):
    """A number and how it was written.

    ``places`` are the decimal places that were written, None for integers and fractions; ``digits`` the significant
    digits of a decimal.
    """

    value: Fraction
    places: int | None = None
    digits: int = 0


@lru_cache(maxsize=8192)
def read(text: str) -> Number | None:
    """The number that a normalised text is, None if it is not one.

    Integers, decimals, ``1,000``, fractions, mixed numbers (``2\\frac{1}{2}``, only with a proper fraction), powers of
    ten, repeating decimals, and words up to ``ninety-nine``.
    """
    if len(text) > MAX_LENGTH or not text:
        return None
    if _INTEGER.fullmatch(text):
        return Number(Fraction(int(text)))
    if match := _DECIMAL.fullmatch(text):
        sign, body, *exponents = match.groups()
        return _decimal(sign, body, int(next((e for e in exponents if e), "0")))
    if match := _FRACTION.fullmatch(text):
        signs = (match[1] + match[2] + match[4]).count("-")
        return _quotient("-" * (signs % 2), match[3], match[5])
    if match := _SLASH.fullmatch(text):
        return _quotient(match[1], match[2], match[3])
    if match := _MIXED.fullmatch(text):
        top, bottom = int(match[3] or match[5]), int(match[4] or match[6])
        whole = int(match[2].replace("{,}", "").replace(",", ""))
        return Number(_signed(match[1], whole + Fraction(top, bottom))) if top < bottom else None
    if match := _POWER.fullmatch(text):
        return _decimal(match[1], "1", int(match[2] or match[3]))
    if match := _REPEATING.fullmatch(text):
        return _repeating(match[1], match[2] or "0", match[3], match[4] or match[5])
    if (match := _WORD.fullmatch(text)) and (value := _WORDS.get(match[2].lower().replace("-", " "))) is not None:
        return Number(Fraction(-value if match[1] else value))
    return None


def equal(left: Number, right: Number, digits: int | None) -> bool:
    """Whether two numbers agree: exactly, or one is a decimal that the other rounds or is cut to.

    Args:
        digits: how many significant digits a decimal below 1 needs to stand for a fraction, and one more from 1 on;
            None = it never does.  Two decimals, or a decimal and an integer, must be equal, except for the noise of
            floating point in the last of 15 digits or more.
    """
    if left.value == right.value:
        return True
    for decimal, other in ((left, right), (right, left)):
        if decimal.places is None:
            continue
        if (
            decimal.digits >= 15
            and other.value.denominator != 1
            and abs(decimal.value - other.value) <= abs(other.value) / 10**14
        ):
            return True
        exact = other.places is None and other.value.denominator != 1
        if exact and stands_for(decimal, other.value, digits):
            return True
    return False


def stands_for(decimal: Number, value: Fraction, digits: int | None) -> bool:
    """Whether a decimal with enough significant digits is ``value`` rounded or cut to its decimal places."""
    if digits is None or decimal.places is None or decimal.digits < digits + (abs(value) >= 1):
        return False
    unit = Fraction(1, 10**decimal.places) if decimal.places >= 0 else Fraction(10**-decimal.places)
    return (decimal.value < 0) == (value < 0) and _is_rounded(decimal.value, value, unit)


def rounds(decimal: Number, value: Fraction) -> bool:
    """Whether a number is ``value`` rounded or cut to its decimal places, or to two digits and more of a whole one."""
    if decimal.value == value:
        return True
    units = [Fraction(10) ** -decimal.places] if decimal.places is not None else []
    if decimal.places is None and decimal.value.denominator == 1:
        size = str(abs(decimal.value.numerator))
        zeros = min(len(size) - len(size.rstrip("0")), len(size) - 2, MAX_ZEROS)
        units = [Fraction(10**power) for power in range(max(zeros, 0) + 1)]
    return (decimal.value < 0) == (value < 0) and any(_is_rounded(decimal.value, value, unit) for unit in units)


def _is_rounded(decimal: Fraction, value: Fraction, unit: Fraction) -> bool:
    steps, magnitude = abs(decimal) / unit, abs(value) / unit
    return steps in (magnitude // 1, (magnitude + Fraction(1, 2)) // 1)


def _decimal(sign: str, body: str, exponent: int) -> Number | None:
    body = body.replace("{,}", "").replace(",", "").replace(" ", "")
    whole, point, part = body.partition(".")
    value = _signed(sign, Fraction(int((whole + part) or "0"), 10 ** len(part)))
    if not point and not exponent:
        return Number(value)
    if abs(exponent) > MAX_EXPONENT:
        return None
    value = value * 10**exponent if exponent >= 0 else value / 10**-exponent
    places = None if not point and exponent >= 0 else len(part) - exponent
    return Number(value, places, len((whole + part).lstrip("0")))


def _quotient(sign: str, top: str, bottom: str) -> Number | None:
    above, below = _decimal(sign, top, 0), _decimal("", bottom, 0)
    return Number(above.value / below.value) if above and below and below.value else None


def _repeating(sign: str, whole: str, fixed: str, cycle: str) -> Number:
    shift, nines = 10 ** len(fixed), 10 ** len(cycle) - 1
    return Number(_signed(sign, int(whole) + Fraction(int(fixed or "0"), shift) + Fraction(int(cycle), shift * nines)))


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value

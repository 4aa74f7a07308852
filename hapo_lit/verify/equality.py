"""Deciding cheaply whether two answers are equal: equal strings, and plain numbers in exact arithmetic.

Nothing here evaluates text: numbers are matched by a pattern and read by :class:`fractions.Fraction`.
"""

from __future__ import annotations

import re
from fractions import Fraction

_SPACING = re.compile(r"\\[,;:! ]|\\(?:left|right|displaystyle|quad)(?![a-zA-Z])|(?<!\d)\s+|\s+(?!\d)")
_DIGIT_GAP = re.compile(r"(?<=\d)\s+(?=\d)")
_FRACTION = re.compile(r"([-+]?)\\[dt]?frac\{(\d{1,40})\}\{(\d{1,40})\}")
_NUMBER = re.compile(r"[-+]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40}|\d{1,40}/\d{1,40})")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:(?:,|\{,\})\d{3})+(?:\.\d+)?")


def normalised(answer: str) -> str:
    """The answer without spacing commands, dollar signs and a trailing full stop; a lone ``\\frac{a}{b}`` as ``a/b``.

    A space between digits stays: ``1 2`` is not twelve.  So does a fraction with anything before it: in
    ``2\\frac{1}{2}`` it is part of a mixed number.
    """
    answer = " ".join(answer.strip().strip("$").split())
    answer = _DIGIT_GAP.sub(" ", _SPACING.sub("", answer)).rstrip(".")
    if _THOUSANDS.fullmatch(answer):
        answer = answer.replace("{,}", "").replace(",", "")
    if fraction := _FRACTION.fullmatch(answer):
        return "{}{}/{}".format(*fraction.groups())
    return answer


def number(answer: str) -> Fraction | None:
    """The exact value of a plain decimal or simple fraction, None for anything else."""
    return _value(normalised(answer))


def _value(answer: str) -> Fraction | None:
    """:func:`number` of an answer that is normalised already."""
    if not _NUMBER.fullmatch(answer):
        return None
    numerator, _, denominator = answer.partition("/")
    if denominator and not int(denominator):
        return None
    return Fraction(numerator) / Fraction(denominator or 1)


def plainly_equal(gold: str, answer: str) -> bool | None:
    """True or False where strings or plain numbers decide, None where only algebra can tell."""
    gold, answer = normalised(gold), normalised(answer)
    if not gold or not answer:
        return False
    if gold == answer:
        return True
    left, right = _value(gold), _value(answer)
    return left == right if left is not None and right is not None else None

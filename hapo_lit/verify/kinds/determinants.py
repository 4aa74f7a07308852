"""Determinants of numbers: ``\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix}`` and ``\\det`` or ``|...|`` of a matrix are -2.

They are read before anything else, alone and in larger formulas, and are their value from then on.  One with other
cells than numbers, or larger than :data:`MAX_ROWS`, stays as it is and is not read.
"""

from __future__ import annotations

import re
from fractions import Fraction

from hapo_lit.verify.kinds import numbers
from hapo_lit.verify.latex import ROW_END

MAX_ROWS = 6
MAX_BITS = 2000
"""A determinant with a larger numerator or denominator stays as it is."""

_BODY = r"((?:(?!\\begin|\\end).)*)"
_GRID = (
    r"\\begin\{(?:[pbB]?matrix|smallmatrix|array)\}(?:\{[clr| ]*\})?"
    + _BODY
    + r"\\end\{(?:[pbB]?matrix|smallmatrix|array)\}"
)
_DETERMINANT = re.compile(
    r"\\begin\{vmatrix\}" + _BODY + r"\\end\{vmatrix\}"
    rf"|\|{_GRID}\||\\det ?\({_GRID}\)|\\det ?{_GRID}"
)


def evaluated(text: str) -> str:
    """A normalised answer with the values of its determinants in their place."""
    if "matrix}" not in text and "array}" not in text:
        return text
    return _DETERMINANT.sub(_written, text)


def _written(match: re.Match[str]) -> str:
    value = _value(next(body for body in match.groups() if body is not None))
    if value is None:
        return match[0]
    size = (
        str(abs(value.numerator))
        if value.denominator == 1
        else rf"\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    )
    text = size if value >= 0 else f"-{size}"
    return text if match[0] == match.string else f"({text})"


def _value(body: str) -> Fraction | None:
    rows = [row.split("&") for row in body.split(ROW_END) if row.strip()]
    if not 1 <= len(rows) <= MAX_ROWS or any(len(row) != len(rows) for row in rows):
        return None
    read = [[numbers.read(cell.strip()) for cell in row] for row in rows]
    cells = [[number.value for number in row if number] for row in read]
    if any(len(row) != len(rows) for row in cells):
        return None
    value = _determinant(cells)
    return value if max(value.numerator.bit_length(), value.denominator.bit_length()) <= MAX_BITS else None


def _determinant(cells: list[list[Fraction]]) -> Fraction:
    """By elimination."""
    value = Fraction(1)
    while cells:
        pivot = next((row for row in cells if row[0]), None)
        if pivot is None:
            return Fraction(0)
        place = cells.index(pivot)
        value *= pivot[0] * (-1) ** place
        rest = [row for number, row in enumerate(cells) if number != place]
        cells = [
            [entry - row[0] / pivot[0] * above for entry, above in zip(row[1:], pivot[1:], strict=True)] for row in rest
        ]
    return value

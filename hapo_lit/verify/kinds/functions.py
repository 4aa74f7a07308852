"""Functions of several arguments in any order: ``\\min(m, n)``, ``\\max\\{1, 2\\}``, ``2\\gcd(a, b) + 1``.

Calls are cut out of a formula before it is parsed, so SymPy's own, which are expensive, never see them.

- All arguments are numbers: the call is its value, exactly.  ``\\gcd(12, 18)`` is 6, and of numbers that are not whole
  there is neither ``gcd`` nor ``lcm``.
- Otherwise two calls of one function are equal if their arguments are, in any order and counted once.  ``\\max`` and
  ``\\min`` are also compared with other formulas by their values: ``\\max(x, -x)`` is ``|x|``.

``\\gcd(12)``, ``\\gcd(a,,b)`` and ``\\gcd 12, 18`` are no calls and cannot be read, nor can ``\\gcd(1,000, 5)``, which
may be either of two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from hapo_lit.verify.brackets import CLOSERS, OPENERS, TOKEN, split

NAMES = ("gcd", "lcm", "max", "min")
MAX_ARGUMENTS = 12
MAX_BITS = 2000
"""A call of larger numbers has no value here."""
MAX_CALLS = 20
"""A formula with more of them, side by side or in each other, is not read."""

_CALL = re.compile(r"\\(gcd|lcm|max|min)(?![a-zA-Z]) ?(?=(\(|\[|\\\{))")
_CLOSING = {"(": ")", "[": "]", "\\{": "\\}"}
_MIXED_THOUSANDS = re.compile(r"[0-9],[0-9]{3}(?![0-9])")


class Call(NamedTuple):
    """A function and its arguments, which are text."""

    name: str
    arguments: tuple[str, ...]


class Piece(NamedTuple):
    """A call and where it stands in a formula."""

    begin: int
    end: int
    call: Call


def calls(formula: str) -> list[Piece] | None:
    """The calls of a normalised formula that are in no other, from left to right; None if one is malformed."""
    found: list[Piece] = []
    place = 0
    if len(_CALL.findall(formula)) > MAX_CALLS:
        return None
    while match := _CALL.search(formula, place):
        end = _end(formula, match.end(), match[2])
        if end is None:
            return None
        inner = formula[match.end() + len(match[2]) : end - len(_CLOSING[match[2]])]
        parts = split(inner, (",",))
        if parts is None or not 2 <= len(parts[0]) <= MAX_ARGUMENTS or not all(part.strip() for part in parts[0]):
            return None
        blanks = {part[:1] == " " for part in parts[0][1:]}
        if len(blanks) > 1 and _MIXED_THOUSANDS.search(inner):
            return None
        found.append(Piece(match.start(), end, Call(match[1], tuple(part.strip() for part in parts[0]))))
        place = end
    return found


def in_order(name: str) -> str:
    """A name that is one call, with its arguments in alphabetical order; any other name itself."""
    pieces = calls(name) if name.startswith("\\") else None
    if not pieces or (pieces[0].begin, pieces[0].end) != (0, len(name)):
        return name
    return f"\\{pieces[0].call.name}({', '.join(sorted(pieces[0].call.arguments))})"


def _end(formula: str, begin: int, opening: str) -> int | None:
    """Where the bracket that opens at ``begin`` has closed."""
    level = 0
    for match in TOKEN.finditer(formula, begin):
        token = match.group()
        level += (token in OPENERS) - (token in CLOSERS)
        if level == 0:
            return match.end() if token == _CLOSING[opening] else None
    return None


def value(name: str, arguments: Sequence[Fraction]) -> Fraction | None:
    """The value of a call whose arguments are numbers, None if there is none."""
    if any(
        max(argument.numerator.bit_length(), argument.denominator.bit_length()) > MAX_BITS for argument in arguments
    ):
        return None
    if name in ("max", "min"):
        return max(arguments) if name == "max" else min(arguments)
    if any(argument.denominator != 1 for argument in arguments):
        return None
    whole = [argument.numerator for argument in arguments]
    return Fraction(math.gcd(*whole) if name == "gcd" else math.lcm(*whole))

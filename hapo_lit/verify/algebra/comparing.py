"""Whether two SymPy trees have the same value, or one is a multiple of the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import mpmath
import sympy

from hapo_lit.verify.algebra.evaluating import NotEvaluable, evaluate, exact
from hapo_lit.verify.kinds import numbers

DIGITS = (30, 60)
"""Decimal digits of the two evaluations; more where a formula has larger numbers than that, see ``_digits``."""
FURTHER_DIGITS = 150
"""One point is evaluated with so many digits more."""
MAX_SIZE = 1000
"""Decimal digits of numbers beyond which precision grows no more."""
SHRINK = 1e-15
"""A difference that falls at least so far from the first to the second is zero."""
ENOUGH_POINTS = 3
PLENTY_OF_POINTS = 10

_POINTS = tuple(
    Fraction(text)
    for text in (
        "0.7391 2.3147 -1.2718 2048.37 -523.71 1234567.9 -0.4419 -40961.3 11.417 0.1379 5.0573 -3.6123 1.6183 23.91 "
        "0.9137 -7.313 101.3 3.3331"
    ).split()
)
"""Near 0, around 1, and far out on both sides: where roots, bounds and remainders bend."""
_WHOLE_POINTS = tuple(Fraction(value) for value in (1, 2, 3, 1001, 5003, -2500, 100003, -1, 0, 4, 5, 7, 10, 13, -2))
_WHOLE_NAMES = frozenset("nkmj")


def same_value(left: sympy.Expr, right: sympy.Expr) -> bool:
    """Whether two trees have the same value wherever both are real; as complex numbers if they have an ``i``."""
    one, two = exact(left), exact(right)
    if one is not None and two is not None:
        return one == two
    names = sorted({symbol.name for symbol in left.free_symbols | right.free_symbols})
    general = _agree(left, right, names, _points(names, _POINTS))
    if general is None:
        general = _same_tree(left, right)
    if not general and names and _WHOLE_NAMES.issuperset(names):
        return _agree(left, right, names, _points(names, _WHOLE_POINTS), enough=6) is True
    return general


def proportional(left: sympy.Expr, right: sympy.Expr, positive: bool) -> bool:
    """Whether ``left`` is a constant times ``right``, the constant not zero, or above zero if ``positive``."""
    names = sorted({symbol.name for symbol in left.free_symbols | right.free_symbols})
    if {symbol.name for symbol in left.free_symbols} != {symbol.name for symbol in right.free_symbols} or not names:
        return False
    quotient = sympy.Mul(left, sympy.Pow(right, -1, evaluate=False), evaluate=False)
    agreed = 0
    constants: list[Any] | None = None
    for point in _points(names, _POINTS):
        try:
            values = [evaluate(quotient, point, digits) for digits in DIGITS]
        except (NotEvaluable, ZeroDivisionError):
            continue
        if not values[0] or mpmath.im(values[1]):
            return False
        if constants is None:
            constants = values
        else:
            gaps = [abs(value - constant) for value, constant in zip(values, constants, strict=True)]
            if not _vanishes(gaps[0], gaps[1], abs(values[1]), DIGITS[1]):
                return False
        agreed += 1
    return agreed >= ENOUGH_POINTS and constants is not None and (not positive or constants[0] > 0)


def is_decimal_of(decimal: numbers.Number, tree: sympy.Expr, digits: int | None) -> bool:
    """Whether a decimal is the value of a constant tree, exactly or as its rounding."""
    value = constant(tree)
    if value is None:
        return False
    if value == decimal.value:
        return True
    if value.denominator == 1:
        return False
    close = abs(decimal.value - value) <= abs(value) / 10**14
    return (decimal.digits >= 15 and close) or numbers.stands_for(decimal, value, digits)


def constant(tree: sympy.Expr) -> Fraction | None:
    """The value of a tree without letters, exactly or to many digits; None if it has letters or is not real."""
    if (value := exact(tree)) is not None:
        return value
    if tree.free_symbols:
        return None
    try:
        found = evaluate(tree, {}, DIGITS[1])
    except (NotEvaluable, ZeroDivisionError):
        return None
    return None if mpmath.im(found) else _fraction(mpmath.re(found))


def _agree(
    left: sympy.Expr,
    right: sympy.Expr,
    names: list[str],
    points: Iterator[Mapping[str, Fraction]],
    enough: int = ENOUGH_POINTS,
) -> bool | None:
    """Whether two trees agree at all points where both are real, None if there are too few points."""
    complex_matters = left.has(sympy.I) or right.has(sympy.I)
    precisions = _digits(left, right)
    real = other = 0
    differs = checked = False
    for point in points:
        try:
            rough = evaluate(left, point, precisions[0]), evaluate(right, point, precisions[0])
            fine = (
                rough if _far_apart(*rough) else tuple(evaluate(tree, point, precisions[1]) for tree in (left, right))
            )
        except (NotEvaluable, ZeroDivisionError):
            continue
        is_real = [not mpmath.im(value) for value in fine]
        gaps = abs(rough[0] - rough[1]), abs(fine[0] - fine[1])
        same = fine is not rough and _vanishes(*gaps, max(map(abs, fine)), precisions[1])
        if same and not checked:
            same = checked = _vanishes_further(left, right, point, gaps[1], precisions[1])
        if all(is_real) or complex_matters:
            if not same:
                return False
            real += 1
            if real == PLENTY_OF_POINTS:
                break
        elif same:
            other += 1
        else:
            differs = True
        if not names:
            return same
    if real >= enough:
        return True
    if differs:
        return False
    return True if real + other >= enough else None


def _far_apart(one: Any, two: Any) -> bool:
    """Whether two values differ by so much that no further digit can bring them together."""
    scale = max(abs(one), abs(two))
    return bool(scale > 1e-6 and abs(one - two) > scale / 1000)


def _vanishes_further(
    left: sympy.Expr, right: sympy.Expr, point: Mapping[str, Fraction], gap: Any, digits: int
) -> bool:
    """The same at a precision that no formula of an answer's length is likely to have been made for."""
    digits += FURTHER_DIGITS
    one, two = evaluate(left, point, digits), evaluate(right, point, digits)
    with mpmath.workdps(digits):
        return _vanishes(gap, abs(one - two), max(abs(one), abs(two)), digits)


def _digits(*trees: sympy.Basic) -> tuple[int, int]:
    """Two precisions that tell ``\\ln(2^{3000}+1)`` from ``\\ln(2^{3000})``."""
    largest = min(max(_size(tree) for tree in trees), MAX_SIZE)
    return (DIGITS[0], DIGITS[1]) if largest < 15 else (DIGITS[0] + 2 * largest, DIGITS[1] + 4 * largest)


def _size(tree: sympy.Basic) -> int:
    """Decimal digits of the largest rational number that is a part of a tree."""
    if (value := exact(tree)) is not None:
        return max(value.numerator.bit_length(), value.denominator.bit_length()) * 3 // 10
    return max((_size(part) for part in tree.args), default=0)


def _vanishes(rough: Any, fine: Any, scale: Any, digits: int) -> bool:
    """Whether a difference evaluated at the two precisions, the finer of ``digits``, is zero."""
    if not fine:
        return True
    return bool(fine <= rough * SHRINK if rough else fine <= scale * mpmath.mpf(10) ** (10 - digits))


def _points(names: list[str], values: tuple[Fraction, ...]) -> Iterator[Mapping[str, Fraction]]:
    if not names:
        yield {}
        return
    count = len(values)
    for turn in range(count):
        yield {name: values[(turn + (5 + turn % 3) * place) % count] for place, name in enumerate(names)}


def _same_tree(left: sympy.Expr, right: sympy.Expr) -> bool:
    one, two = _canonical(left), _canonical(right)
    return bool(one == two) and not one.has(sympy.zoo, sympy.nan, sympy.oo)


def _canonical(tree: sympy.Basic) -> sympy.Basic:
    """The tree with sums and products in SymPy's order; powers are left as they are, since some fill the memory."""
    parts = [_canonical(part) for part in tree.args]
    if not parts or isinstance(tree, sympy.Pow | sympy.factorial):
        return tree
    return tree.func(*parts)


def _fraction(value: Any) -> Fraction:
    sign, mantissa, exponent, _ = value._mpf_
    whole = Fraction(int(mantissa)) * (Fraction(2**exponent) if exponent >= 0 else Fraction(1, 2**-exponent))
    return -whole if sign else whole

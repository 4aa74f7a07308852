"""The value of a SymPy tree: exactly if it has rational numbers only, else at a point and to so many digits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import mpmath
import sympy
from sympy.core.function import AppliedUndef

from hapo_lit.verify.kinds import functions

MAX_BITS = 1 << 20
"""Numbers beyond 2^(this) are not evaluated."""
MAX_EXACT_BITS = 20_000
MAX_SUM_TERMS = 200


class NotEvaluable(ValueError):
    """A tree with no number at this point."""


class TooLarge(NotEvaluable):
    """A number that is not worth its memory."""


def exact(tree: sympy.Basic) -> Fraction | None:
    """The value of a tree of rational numbers, None if it has anything else or grows too large."""
    if isinstance(tree, sympy.Rational):
        return Fraction(int(tree.p), int(tree.q)) if tree.q else None
    if isinstance(tree, sympy.UnevaluatedExpr):
        return exact(tree.args[0])
    if not isinstance(tree, sympy.Add | sympy.Mul | sympy.Pow | sympy.factorial):
        return None
    parts = [exact(argument) for argument in tree.args]
    if any(part is None for part in parts):
        return None
    known = [part for part in parts if part is not None]
    if isinstance(tree, sympy.factorial):
        whole = known[0]
        return (
            Fraction(int(sympy.factorial(whole.numerator))) if whole.denominator == 1 and 0 <= whole <= 1000 else None
        )
    if isinstance(tree, sympy.Pow):
        base, power = known
        size = max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(power)
        if power.denominator != 1 or size > MAX_EXACT_BITS or (not base and power <= 0):
            return None
        return Fraction(base**power.numerator)
    result = Fraction(0 if isinstance(tree, sympy.Add) else 1)
    for part in known:
        result = result + part if isinstance(tree, sympy.Add) else result * part
        if max(result.numerator.bit_length(), result.denominator.bit_length()) > MAX_EXACT_BITS:
            return None
    return result


def evaluate(tree: sympy.Basic, point: Mapping[str, Fraction], digits: int) -> Any:
    """The value of a tree at a point, as an ``mpmath`` number.

    Raises:
        NotEvaluable: there is none, or it cannot be computed here.
    """
    with mpmath.workdps(digits):
        try:
            value = _value(tree, point)
        except (ArithmeticError, mpmath.libmp.NoConvergence) as error:
            raise NotEvaluable(str(tree.func)) from error
        if not mpmath.isfinite(value):
            raise NotEvaluable("not finite")
        imaginary = mpmath.im(value)
        if imaginary and abs(imaginary) <= abs(value) * mpmath.mpf(10) ** (3 - digits):
            return mpmath.re(value)  # rounding noise of complex arithmetic
        return +value


def _value(tree: sympy.Basic, point: Mapping[str, Fraction]) -> Any:
    if isinstance(tree, sympy.Rational):
        if not tree.q:
            raise NotEvaluable("infinite")
        return mpmath.mpf(int(tree.p)) / int(tree.q)
    if isinstance(tree, sympy.Symbol):
        value = point[tree.name]
        return mpmath.mpf(value.numerator) / value.denominator
    if tree in _CONSTANTS:
        return _CONSTANTS[tree]()
    if isinstance(tree, sympy.Sum | sympy.Product):
        return _repeated(tree, point)
    values = [_value(argument, point) for argument in tree.args]
    if isinstance(tree, sympy.Add):
        return mpmath.fsum(values)
    if isinstance(tree, sympy.Mul):
        return mpmath.fprod(values)
    if isinstance(tree, sympy.Pow):
        return _power(values[0], values[1], tree.exp)
    if isinstance(tree, sympy.exp):
        return _power(mpmath.e, values[0], None)
    if isinstance(tree, AppliedUndef):
        name = tree.func.__name__
        return _of_several(name, values) if name in functions.NAMES else _unknown(name, values)
    function = _FUNCTIONS.get(type(tree).__name__)
    if function is None:
        raise NotEvaluable(type(tree).__name__)
    return function(*values)


def _power(base: Any, power: Any, written: sympy.Basic | None) -> Any:
    if not base:
        if mpmath.re(power) <= 0:
            raise NotEvaluable("zero to the power of zero or less")
        return mpmath.mpf(0)
    if abs(power) * abs(mpmath.log(abs(base), 2)) > MAX_BITS:
        raise TooLarge
    root = exact(written) if written is not None else None
    if root is not None and root.denominator % 2 and root.denominator > 1 and not mpmath.im(base) and base < 0:
        size = mpmath.power(-base, power)  # the real root, as schools teach
        return -size if root.numerator % 2 else size
    return mpmath.power(base, power)


def _repeated(tree: sympy.Sum | sympy.Product, point: Mapping[str, Fraction]) -> Any:
    body, (name, first, last) = tree.args[0], tree.args[1]
    if len(tree.args) != 2 or not isinstance(name, sympy.Symbol):
        raise NotEvaluable("several indices")
    ends = [_value(end, point) for end in (first, last)]
    if (
        any(not mpmath.isfinite(end) or end != mpmath.floor(mpmath.re(end)) for end in ends)
        or ends[1] - ends[0] > MAX_SUM_TERMS
    ):
        raise NotEvaluable("an index that is no small whole number")
    values = [_value(body, {**point, name.name: Fraction(index)}) for index in range(int(ends[0]), int(ends[1]) + 1)]
    return mpmath.fsum(values) if isinstance(tree, sympy.Sum) else mpmath.fprod(values)


def _unknown(name: str, values: list[Any]) -> Any:
    """A value for a function that is not defined, such as ``f(2)``: the same for equal names and arguments."""
    with mpmath.workdps(15):
        seed = mpmath.mpf(sum((place + 3) * ord(letter) for place, letter in enumerate(name)))
        mixed = mpmath.fsum((place + 1) * mpmath.mpf("1.37") * +mpmath.re(value) for place, value in enumerate(values))
        rough = mpmath.nstr(seed + mixed, 10)
    return mpmath.sin(mpmath.mpf(rough)) + 2


def _of_several(name: str, values: list[Any]) -> Any:
    """The value of ``max`` or ``min``; for ``gcd`` and ``lcm`` one that is the same for equal arguments in any order.

    Their true values at some whole numbers would prove nothing: ``\\gcd(n + 3, 17)`` is 1 at most of them.
    """
    if any(mpmath.im(value) for value in values):
        raise NotEvaluable("of complex numbers")
    values = [mpmath.re(value) for value in values]
    if name in ("max", "min"):
        return max(values) if name == "max" else min(values)
    distinct = {mpmath.nstr(value, 15): value for value in values}
    return _unknown(name, sorted(distinct.values()))


def _factorial(value: Any) -> Any:
    if abs(value) > 10_000:
        raise TooLarge
    return mpmath.gamma(value + 1)


def _logarithm(value: Any, base: Any = None) -> Any:
    if not value:
        raise NotEvaluable("the logarithm of zero")
    return mpmath.log(value) if base is None else mpmath.log(value) / mpmath.log(base)


def _real(function: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*values: Any) -> Any:
        if any(mpmath.im(value) for value in values):
            raise NotEvaluable("of complex numbers")
        return function(*map(mpmath.re, values))

    return checked


_CONSTANTS: dict[sympy.Basic, Callable[[], Any]] = {
    sympy.pi: lambda: +mpmath.pi,
    sympy.E: lambda: +mpmath.e,
    sympy.I: lambda: mpmath.mpc(0, 1),
    sympy.EulerGamma: lambda: +mpmath.euler,
    sympy.GoldenRatio: lambda: +mpmath.phi,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(mpmath, name)
        for name in (
            "sin cos tan cot sec csc asin acos atan acot asec acsc sinh cosh tanh asinh acosh atanh sign"
        ).split()
    },
    "log": _logarithm,
    "Abs": abs,
    "factorial": _factorial,
    "gamma": lambda value: _factorial(value - 1),
    "binomial": lambda n, k: mpmath.binomial(n, k) if max(abs(n), abs(k)) <= 10_000 else _factorial(n),
    "floor": _real(mpmath.floor),
    "ceiling": _real(mpmath.ceil),
    "Max": _real(max),
    "Min": _real(min),
    "Mod": _real(lambda a, b: a - b * mpmath.floor(a / b)),
    "re": mpmath.re,
    "im": mpmath.im,
    "conjugate": mpmath.conj,
    "arg": mpmath.arg,
    "UnevaluatedExpr": lambda value: value,
}

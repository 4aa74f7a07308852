"""Algebra on formulas that a model wrote.  Runs in worker processes only: see :mod:`hapo_lit.verify.pool`.

``latex2sympy2_extended`` reads a formula into a SymPy tree; nothing is simplified or evaluated by SymPy.  The tree is
evaluated with ``mpmath`` at fixed points and at two precisions: a difference that is zero shrinks with the precision,
one that is not stays.  So there is neither an absolute nor a relative tolerance, and 10^-20 is not 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath
import sympy
from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, _Latex2Sympy, normalize_latex
from sympy.core.function import AppliedUndef

from hapo_lit.verify import numbers
from hapo_lit.verify.conventions import Conventions
from hapo_lit.verify.equality import Quick, Truth, every
from hapo_lit.verify.forms import FLIPPED, Grid, Leaf, Relation
from hapo_lit.verify.latex import ROW_END

DIGITS = (30, 60)
"""Decimal digits of the two evaluations; more where a formula has larger numbers than that, see :func:`_digits`."""
FURTHER_DIGITS = 150
"""One point is evaluated with so many digits more."""
MAX_SIZE = 1000
"""Decimal digits of numbers beyond which precision grows no more."""
SHRINK = 1e-15
"""A difference that falls at least so far from the first to the second is zero."""
MAX_BITS = 1 << 20
"""Numbers beyond 2^(this) are not evaluated."""
MAX_EXACT_BITS = 20_000
MAX_SUM_TERMS = 200
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

_DECIMAL = re.compile(r"(?<![0-9])([0-9]*)\.([0-9]+)")
_MIXED = re.compile(r"(?<![0-9.^_}a-zA-Z)])([0-9]+) ?\\frac\{([0-9]+)\}\{([0-9]+)\}")
_GLUED = re.compile(r"(?<![_^0-9.])([0-9]+) ?(?=\((?!x\))|\\(?:binom|Gamma|gcd|lcm|max|min)(?![a-zA-Z]))")
_DEGREES = re.compile(r"([0-9]+|\([^()]*\)|\{[^{}]*\}|\\[a-z]+|[a-z])\^\\circ")
_SUBSCRIPT = re.compile(r"_([0-9]) ")
_PRIMED = re.compile(r"((?<!\\)(?<![a-zA-Z])[a-zA-Z])('+)")
_SCRIPTS = r"(?:_(?:[0-9a-zA-Z]|\{[^{}]*\}))?(?:\^(?:[0-9a-zA-Z]|\{[^{}]*\}))?"
_FUNCTION = r"\\(?:arcsin|arccos|arctan|arccot|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|lg|log|exp)" + _SCRIPTS
_BRACED_ARGUMENT = re.compile(rf"({_FUNCTION}) ?\{{([^{{}}]*)\}}")
_GREEK = r"\\(?:pi|alpha|beta|gamma|delta|theta|phi|varphi|omega|lambda|mu)"
_ATOM = rf"(?:[0-9]+|\\frac\{{[^{{}}]*\}}\{{[^{{}}]*\}}|\\sqrt\{{[^{{}}]*\}}|{_GREEK}|[a-zA-Z])"
_BARE_ARGUMENT = re.compile(rf"({_FUNCTION}) ?((?:{_ATOM}{_SCRIPTS} ?)++)")
"""A function with its argument behind it: in ``\\sin 2x \\cdot 3`` it ends at the sign."""
_UNREADABLE = re.compile(
    r"\\text|\\ldots|[0-9] [0-9]|\^[0-9][0-9.]|[^\x20-\x7e]|[#@~`\"?;,$:]|\\(?:begin|end)"
    r"|[0-9)}\]]_|[0-9]\{|(?<![a-zA-Z}\]^_])\{|(?<!\\sqrt)\[|\^(?:T|\{T\}|\{?\()(?![a-zA-Z])"
    r"|(?<![a-zA-Z\\])[fghFG]'*(?:\^|\((?![a-zA-Z0-9]\)))"
)
"""What the parser reads as something else, or drops."""
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_COMMANDS = frozenset(
    "frac sqrt cdot pi infty sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh ln log lg exp binom "
    "sum prod circ lfloor rfloor lceil rceil max min gcd lcm overline bar vec hat tilde bmod mod Gamma emptyset "
    "mathbb alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi varphi chi psi omega Delta Theta Lambda Omega Sigma Phi Psi Pi ell".split()
)
_CONVERSION = ConversionConfig(lowercase_symbols=False)


class _Converter(_Latex2Sympy):
    """The parser in one of its two modes, reading digits without ``sympify``, which would execute them."""

    def __init__(self, mode: Any) -> None:
        super().__init__(config=_CONVERSION)
        self._mode = mode

    def create_parser(self, formula: str) -> Any:
        parser = super().create_parser(formula)
        parser._interp.predictionMode = self._mode
        return parser

    def parse_number(self, text: str) -> Any:
        """Whole numbers only: decimals are fractions by now."""
        return sympy.Integer(int(text))


def _tree(formula: str) -> Any:
    """What the parser makes of a formula; it raises whatever it likes.

    Its quick mode finds the same tree as the thorough one or none: so says ANTLR, and it takes a third of the time.
    """
    formula = normalize_latex(formula, NormalizationConfig())
    try:
        return _Converter(PredictionMode.SLL).parse(formula)
    except Exception:
        return _Converter(PredictionMode.LL).parse(formula)


class NotEvaluable(ValueError):
    """A tree with no number at this point."""


class TooLarge(NotEvaluable):
    """A number that is not worth its memory."""


class Algebra:
    """Leaves compared by value.

    Args:
        conventions: what counts as equal where opinions differ.
    """

    def __init__(self, conventions: Conventions) -> None:
        self._quick = Quick(conventions)
        self._digits = conventions.decimal_digits
        self.unread: set[str] = set()
        """The formulas that could not be read since the last :meth:`clear`."""

    def clear(self) -> None:
        self.unread.clear()

    def values(self, left: str, right: str) -> Truth:
        if (quick := self._quick.values(left, right)) is not None:
            return quick
        one, two = self._read(left), self._read(right)
        if one is None or two is None:
            return None
        for text, tree in ((left, two), (right, one)):
            number = numbers.read(text)
            if number and number.places is not None and not tree.free_symbols:
                return _is_decimal_of(number, tree, self._digits)
        return same_value(one, two)

    def relations(self, left: Relation, right: Relation) -> Truth:
        """Two-sided ones agree up to a factor: any but zero for equations, a positive one for inequalities."""
        if len(left.sides) != 2 or len(right.sides) != 2:
            return self._chains(left, right)
        one, two = self._difference(left), self._difference(right)
        if one is None or two is None:
            return None if _readable(left) and _readable(right) else False
        (kind, tree), (other_kind, other_tree) = one, two
        return kind == other_kind and proportional(tree, other_tree, positive=kind in ("<", "\\le"))

    def matrices(self, grid: Grid, formula: str) -> Truth:
        value = _matrix(formula.replace(ROW_END, "\\\\"))
        if value is None:
            self.unread.add(formula)
            return None
        if value.shape != (len(grid.rows), len(grid.rows[0])):
            return False
        cells = [cell for row in grid.rows for cell in row]
        trees = [self._read(cell.text) if isinstance(cell, Leaf) else None for cell in cells]
        if any(tree is None for tree in trees):
            return None
        return all(same_value(tree, entry) for tree, entry in zip(trees, value.flat(), strict=True) if tree is not None)

    def _chains(self, left: Relation, right: Relation) -> Truth:
        if len(left.sides) != len(right.sides) or not (_readable(left) and _readable(right)):
            return False
        flipped = tuple(FLIPPED.get(operator, "") for operator in right.operators[::-1])
        if left.operators == right.operators:
            sides = right.sides
        elif left.operators == flipped:
            sides = right.sides[::-1]
        else:
            return False
        return every(
            self.values(one.text, two.text)
            for one, two in zip(left.sides, sides, strict=True)
            if isinstance(one, Leaf) and isinstance(two, Leaf)
        )

    def _difference(self, relation: Relation) -> tuple[str, sympy.Expr] | None:
        """The kind of a two-sided relation and what is compared with zero: ``left - right``, turned to ``<``."""
        operator = relation.operators[0]
        if not _readable(relation) or operator not in FLIPPED:
            return None
        left, right = (self._read(side.text) for side in relation.sides if isinstance(side, Leaf))
        if left is None or right is None:
            return None
        if operator in (">", "\\ge"):
            left, right, operator = right, left, FLIPPED[operator]
        return operator, sympy.Add(left, sympy.Mul(-1, right, evaluate=False), evaluate=False)

    def _read(self, text: str) -> sympy.Expr | None:
        tree = read(text)
        if tree is None:
            self.unread.add(text)
        return tree


def _readable(relation: Relation) -> bool:
    return all(isinstance(side, Leaf) for side in relation.sides)


@lru_cache(maxsize=4096)
def read(formula: str) -> sympy.Expr | None:
    """The tree of a normalised formula, None if it cannot be read."""
    if number := numbers.read(formula):
        return sympy.Rational(number.value.numerator, number.value.denominator)
    formula = _SUBSCRIPT.sub(r"_{\1}", formula).replace("{,}", "").replace("%", "\\%")
    formula = _BRACED_ARGUMENT.sub(r"\1(\2)", formula)
    if not formula or _UNREADABLE.search(formula) or not _COMMANDS.issuperset(_COMMAND.findall(formula)):
        return None
    text = _without_decimals(formula)
    if any(int(top) >= int(bottom) for _, top, bottom in _MIXED.findall(text)):
        return None  # 2\frac{3}{2}: a product or a slip
    text = _MIXED.sub(r"(\1+\\frac{\2}{\3})", text)
    text = _DEGREES.sub(r"(\1\\cdot\\frac{\\pi}{180})", text)
    text = _BARE_ARGUMENT.sub(r"\1(\2)", text)
    text = _GLUED.sub(r"\1\\cdot ", text)
    text = re.sub(r"\) ?(?=\(|[0-9]|\\frac)", r")\\cdot ", text)
    text = _PRIMED.sub(lambda m: f"{m[1]}_{{{'qz' * len(m[2])}}}", text)
    if "'" in text:
        return None
    text = re.sub(r"\\gamma(?![a-zA-Z])", "g_{gamma}", text)
    text = re.sub(r"\\log_(?:e|\{e\})(?![a-zA-Z])", r"\\ln ", text)
    text = re.sub(r"\\lg(?![a-zA-Z])", r"\\log_{10}", text)
    text = re.sub(r"(?<![a-zA-Z\\{])I(?![a-zA-Z])", "I_{0}", text)
    try:
        tree = _tree(text)
    except Exception:  # untrusted text: the parser raises whatever it likes
        return None
    if not isinstance(tree, sympy.Expr):
        return None
    if not re.search(r"\\(?:sum|prod) ?_ ?\{ ?i", text):
        tree = tree.xreplace({symbol: sympy.I for symbol in tree.free_symbols if symbol.name == "i"})
    return tree


def _without_decimals(formula: str) -> str:
    """Decimals as fractions, since SymPy's would be rounded to binary."""
    return _DECIMAL.sub(lambda m: rf"\frac{{{int(m[1] + m[2])}}}{{1{'0' * len(m[2])}}}", formula)


def _matrix(formula: str) -> sympy.MatrixBase | None:
    """The value of a sum or product of small matrices, None if it cannot be read."""
    try:
        value = _tree(_without_decimals(formula)).doit()
    except Exception:  # untrusted text, as above
        return None
    return value if isinstance(value, sympy.MatrixBase) else None


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


def _is_decimal_of(decimal: numbers.Number, tree: sympy.Expr, digits: int | None) -> bool:
    """Whether a decimal is the value of a constant tree, exactly or as its rounding."""
    value = exact(tree)
    if value is None:
        try:
            found = evaluate(tree, {}, DIGITS[1])
        except (NotEvaluable, ZeroDivisionError):
            return False
        if mpmath.im(found):
            return False
        value = _fraction(mpmath.re(found))
    if value == decimal.value:
        return True
    if value.denominator == 1:
        return False
    close = abs(decimal.value - value) <= abs(value) / 10**14
    return (decimal.digits >= 15 and close) or numbers.stands_for(decimal, value, digits)


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
        return _unknown(tree.func.__name__, values)
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
    """A value for a function nobody defined: any, as long as equal arguments give the same."""
    with mpmath.workdps(15):
        seed = mpmath.mpf(sum((place + 3) * ord(letter) for place, letter in enumerate(name)))
        mixed = mpmath.fsum((place + 1) * mpmath.mpf("1.37") * +mpmath.re(value) for place, value in enumerate(values))
        rough = mpmath.nstr(seed + mixed, 10)
    return mpmath.sin(mpmath.mpf(rough)) + 2


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

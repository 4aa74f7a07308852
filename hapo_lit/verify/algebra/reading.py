"""From a normalised formula to a SymPy tree, with ``latex2sympy2_extended``.

Its grammar reads some formulas as something else and drops parts of others.  What it gets wrong is either respelled
before (:func:`read`) or refused (``_UNREADABLE``, ``_COMMANDS``).
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy
from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, _Latex2Sympy, normalize_latex

from hapo_lit.verify.algebra import slashes
from hapo_lit.verify.algebra.evaluating import exact
from hapo_lit.verify.kinds import functions, numbers

_DECIMAL = re.compile(r"(?<![0-9])([0-9]*)\.([0-9]+)")
_MIXED = re.compile(r"(?<![0-9.^_}a-zA-Z)])([0-9]+) ?\\frac\{([0-9]+)\}\{([0-9]+)\}")
_GLUED = re.compile(r"(?<![_^0-9.])([0-9]+) ?(?=\((?!x\))|\\(?:binom|Gamma)(?![a-zA-Z]))")
_BINOMIAL = re.compile(r"(?<=[}!]) ?(?=\\binom(?![a-zA-Z]))")
_DEGREES = re.compile(r"([0-9]+|\([^()]*\)|\{[^{}]*\}|\\[a-z]+|[a-z])\^\\circ")
_VECTOR = re.compile(r"\\vec ?(?:\{([a-zA-Z]{1,2})(?:_\{?([0-9])\}?)?\}|([a-zA-Z]))(?:_(?:\{([0-9])\}|([0-9])))?")
"""A vector, which is a letter of its own: ``\\vec{a}``, ``\\vec{AB}``, ``\\vec{e_1}``."""
_SUBSCRIPT = re.compile(r"_([0-9]) ")
_GLUED_INDEX = re.compile(r"\\[a-zA-Z]+|([A-Za-hj-z])([0-9]+)(?![0-9^!({.\\])")
"""Digits right after a letter are its index, as in ``CO2+H2O``; in ``n2^{n-1}`` and ``i2\\sqrt{3}`` they are not."""
_PRIMED = re.compile(r"((?<!\\)(?<![a-zA-Z])[a-zA-Z])('+)")
_SCRIPTS = r"(?:_(?:[0-9a-zA-Z]|\{[^{}]*\}))?(?:\^(?:[0-9a-zA-Z]|\{[^{}]*\}))?"
_FUNCTION = (
    r"\\(?:arcsin|arccos|arctan|arccot|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|lg|log|exp)(?![a-zA-Z])" + _SCRIPTS
)
_BRACED_ARGUMENT = re.compile(rf"({_FUNCTION}) ?\{{([^{{}}]*)\}}")
_GREEK = r"\\(?:pi|alpha|beta|gamma|delta|theta|phi|varphi|omega|lambda|mu)"
_ATOM = rf"(?:[0-9]+|\\frac\{{[^{{}}]*\}}\{{[^{{}}]*\}}|\\sqrt\{{[^{{}}]*\}}|{_GREEK}|[a-zA-Z])"
_BARE_ARGUMENT = re.compile(rf"({_FUNCTION}) ?((?:{_ATOM}{_SCRIPTS} ?)++)")
"""A function followed by its argument: in ``\\sin 2x \\cdot 3`` it ends at the sign."""
_UNREADABLE = re.compile(
    r"\\text|\\ldots|\*\*|[0-9] [0-9]|\^[0-9][0-9.]|[^\x20-\x7e]|[#@~`\"?;,$:]|\\(?:begin|end)"
    r"|[0-9)}\]]_|[0-9]\{|(?<![a-zA-Z}\]^_])\{|(?<!\\sqrt)\[|\^(?:T|\{T\}|\()(?![a-zA-Z])|\^\{\([^a-zA-Z()][^()]*\)\}"
    r"|(?<![a-zA-Z\\])(?:sqrt|cbrt|abs|exp|floor|ceil|log|gcd|lcm|max|min)(?![a-zA-Z])"
    r"|(?<![a-zA-Z\\])[fghFG]'*(?:\^|\((?![a-zA-Z0-9]\)))"
)
"""What the parser reads as something else, or drops."""
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_COMMANDS = frozenset(
    "frac sqrt cdot pi infty sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh ln log lg exp binom "
    "sum prod circ lfloor rfloor lceil rceil overline bar vec hat tilde bmod mod Gamma emptyset "
    "mathbb alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi varphi chi psi omega Delta Theta Lambda Omega Sigma Phi Psi Pi ell".split()
)
_CONVERSION = ConversionConfig(lowercase_symbols=False)


@lru_cache(maxsize=4096)
def read(formula: str, log_base: str = "ten") -> sympy.Expr | None:
    """The tree of a normalised formula, None if it cannot be read.

    Args:
        formula: one formula, without unit and structure.
        log_base: what ``\\log`` without a base is: ``ten`` or ``natural``.
    """
    if number := numbers.read(formula):
        return sympy.Rational(number.value.numerator, number.value.denominator)
    cut = _without_calls(formula, log_base)
    if cut is None:
        return None
    formula, calls = cut
    if number := numbers.read(formula):
        return sympy.Rational(number.value.numerator, number.value.denominator)
    text = _respelled(formula, log_base)
    if text is None:
        return None
    try:
        tree = _tree(text)
    except Exception:  # untrusted text: the parser may raise anything
        return None
    if not isinstance(tree, sympy.Expr):
        return None
    named: dict[str, sympy.Expr] = dict(calls)
    if not re.search(r"\\(?:sum|prod) ?_ ?\{ ?i", text):
        named["i"] = sympy.I
    return tree.xreplace({symbol: named[symbol.name] for symbol in tree.free_symbols if symbol.name in named})


def _respelled(formula: str, log_base: str) -> str | None:
    """A formula as the parser reads it rightly, None if it would not."""
    if "\\vec" in formula:
        formula = _VECTOR.sub(_vector, formula)
    formula = _SUBSCRIPT.sub(r"_{\1}", formula).replace("{,}", "").replace("%", "\\%")
    formula = _GLUED_INDEX.sub(lambda m: f"{m[1]}_{{{m[2]}}}" if m[1] else m[0], formula)
    formula = _BRACED_ARGUMENT.sub(r"\1(\2)", formula)
    if not formula or _UNREADABLE.search(formula) or not _COMMANDS.issuperset(_COMMAND.findall(formula)):
        return None
    clear = slashes.respelled(formula)
    if clear is None:
        return None
    text = _without_decimals(clear)
    if any(int(top) >= int(bottom) for _, top, bottom in _MIXED.findall(text)):
        return None  # 2\frac{3}{2}: a product or a slip
    text = _MIXED.sub(r"(\1+\\frac{\2}{\3})", text)
    text = _DEGREES.sub(r"(\1\\cdot\\frac{\\pi}{180})", text)
    text = _BARE_ARGUMENT.sub(r"\1(\2)", text)
    text = _BINOMIAL.sub(r"\\cdot ", _GLUED.sub(r"\1\\cdot ", text))
    text = re.sub(r"\) ?(?=\(|[0-9]|\\frac)", r")\\cdot ", text)
    text = _PRIMED.sub(lambda m: f"{m[1]}_{{{'qz' * len(m[2])}}}", text)
    if "'" in text:
        return None
    text = re.sub(r"\\gamma(?![a-zA-Z])", "g_{gamma}", text)
    text = re.sub(r"\\log_(?:e|\{e\})(?![a-zA-Z])", r"\\ln ", text)
    text = re.sub(r"\\lg(?![a-zA-Z])", r"\\log_{10}", text)
    text = re.sub(r"\\log(?![a-zA-Z_])", r"\\ln " if log_base == "natural" else r"\\log_{10}", text)
    text = re.sub(r"\^e(?![a-zA-Z])", "^{e}", text)
    return re.sub(r"(?<![a-zA-Z\\{])I(?![a-zA-Z])", "I_{0}", text)


def _vector(match: re.Match[str]) -> str:
    index = match[2] or match[4] or match[5]
    return f" V_{{qv{match[1] or match[3]}{'zyxwutsrqp'[int(index)] if index else ''}}}"


def _without_calls(formula: str, log_base: str) -> tuple[str, dict[str, sympy.Expr]] | None:
    """A formula with a number or a letter in the place of each call, and what the letters are; None if unreadable."""
    pieces = functions.calls(formula)
    if not pieces:
        return None if pieces is None else (formula, {})
    text, place, named = "", 0, {}
    for number, (begin, end, call) in enumerate(pieces):
        trees = [read(argument, log_base) for argument in call.arguments]
        if any(tree is None for tree in trees):
            return None
        values = [exact(tree) for tree in trees]
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            value = functions.value(call.name, known)
            if value is None:
                return None
            spelled = _number(value)
        else:
            spelled = f"K_{{qq{chr(ord('a') + number % 26) * (number // 26 + 1)}}}"
            named[spelled] = sympy.Function(call.name)(*trees, evaluate=False)
        before, after = formula[place:begin], formula[end:]
        text += before + _joint(text + before) + spelled
        text += "\\cdot " if re.match(r" ?(?:[0-9a-zA-Z(]|\\(?!cdot|b?mod|r(?:floor|ceil))[a-zA-Z])", after) else ""
        place = end
    return text + formula[place:], named


def _joint(before: str) -> str:
    """What keeps a factor apart from what stands before it."""
    if re.search(r"\\[a-zA-Z]+ ?\Z", before[-20:]):
        return " "
    return "\\cdot " if re.search(r"[0-9a-zA-Z)}!] ?\Z", before[-2:]) else ""


def _number(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value) if value >= 0 else f"({value})"
    size = rf"\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    return f"({size})" if value >= 0 else f"(-{size})"


def _without_decimals(formula: str) -> str:
    """Decimals as fractions, since SymPy's would be rounded to binary."""
    return _DECIMAL.sub(lambda m: rf"\frac{{{int(m[1] + m[2])}}}{{1{'0' * len(m[2])}}}", formula)


def read_matrix(formula: str) -> sympy.MatrixBase | None:
    """The value of a sum or product of matrices, None if it cannot be read."""
    try:
        value = _tree(_without_decimals(slashes.respelled(formula) or formula)).doit()
    except Exception:  # untrusted text, as above
        return None
    return value if isinstance(value, sympy.MatrixBase) else None


class _Converter(_Latex2Sympy):
    """The parser in one of its two modes, reading digits without ``sympify``, which would execute them."""

    def __init__(self, mode: Any) -> None:
        super().__init__(config=_CONVERSION)
        self._mode = mode

    def create_parser(self, formula: str) -> Any:
        parser = super().create_parser(formula)
        parser._interp.predictionMode = self._mode
        return parser

    def convert_func(self, func: Any) -> Any:
        """Logarithms of a base stay apart: SymPy takes their base for e, and ``e^{\\log_{10} 5}`` for 5."""
        value = super().convert_func(func)
        based = isinstance(value, sympy.log) and len(value.args) == 2 and value.args[1] != sympy.E
        return sympy.UnevaluatedExpr(value) if based else value

    def parse_number(self, text: str) -> Any:
        """Whole numbers only: decimals are fractions by now."""
        return sympy.Integer(int(text))


def _tree(formula: str) -> Any:
    """What the parser makes of a formula; it may raise anything.

    The quick mode is tried first: by ANTLR's manual it finds the same tree as the thorough one or none, and it takes a
    third of the time.
    """
    formula = normalize_latex(formula, NormalizationConfig())
    try:
        return _Converter(PredictionMode.SLL).parse(formula)
    except Exception:
        return _Converter(PredictionMode.LL).parse(formula)


def repair_percent_signs() -> None:
    """Give the parser generated for ANTLR 4.9.3 the rule it lacks.

    latex2sympy2_extended 1.11.0 asks each atom for ``FUNC_GAMMA`` before it looks at percent signs; without the rule
    every formula with a percent sign raises.  Hydra pins ANTLR 4.9, so this is the parser we get.
    """
    from latex2sympy2_extended.gen.antlr4_9_3.PSParser import PSParser

    if not hasattr(PSParser.AtomContext, "FUNC_GAMMA"):
        PSParser.AtomContext.FUNC_GAMMA = lambda _: None

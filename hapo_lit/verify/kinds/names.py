"""Names: ``x``, ``f(x)``, ``AB``, ``a_1``, ``\\angle ABC``, ``\\text{Area}``."""

from __future__ import annotations

import re

COMMAND_OR_LETTER = r"(?:\\[a-zA-Z]+|[a-zA-Z])"
_SUB = r"(?:_(?:[a-zA-Z0-9]|\{[^{}]*\}))?'*"
_SYMBOL = rf"{COMMAND_OR_LETTER}{_SUB}"
_ARGUMENT = rf"(?:-?[0-9.]+|{_SYMBOL})"
_UPPER = rf"(?:[A-Z]{_SUB})+"
_POINTS = (
    rf"(?:{_UPPER}|\|{_UPPER}\||\|\\(?:vec|overrightarrow|overline) ?\{{?[a-zA-Z]+\}}?\||\\overline\{{{_UPPER}\}})"
)
_DRAWN = r"angle|triangle|overline|overrightarrow|vec|bar|hat|tilde|Delta|measuredangle"
_NAME = re.compile(
    rf"{_SYMBOL}(?:\^\{{-1\}})?(?:\({_ARGUMENT}(?:, ?{_ARGUMENT})*\))?|{_UPPER}"
    rf"|{_POINTS}:{_POINTS}|{_POINTS}/{_POINTS}|\\frac\{{{_POINTS}\}}\{{{_POINTS}\}}|{_POINTS}"
    rf"|\[[A-Z]{{3,}}\]|m?\\(?:{_DRAWN}) ?\{{?[a-zA-Z]+\}}?"
    rf"|\\text\{{[^{{}}]*\}}(?:_(?:[a-zA-Z0-9]|\{{[^{{}}]*\}}))?(?:\([^()]*\))?"
    rf"|\\(?:deg|arg|dim|Re|Im|max|min) ?(?:{_SYMBOL}|\([^()]*\))"
)
_DENIAL = re.compile(r"\b(?:not|wrong|incorrect|false|never)\b")
_CALL = re.compile(r"\\(?:gcd|lcm|max|min) ?\(")
"""Of numbers alone it is a number: ``\\gcd(12, 18)``."""
_NOT_A_NAME = frozenset(("i \\pi \\infty \\emptyset \\pm \\mp \\sqrt \\ldots \\circ").split())
_VARIABLES = re.compile(r"\\(?:text|mathbb)\{[^{}]*\}|\\[a-zA-Z]+|([a-zA-Z])")
_CONSTANTS = frozenset("ei")
_GREEK_COMMANDS = frozenset(
    (
        "\\alpha \\beta \\gamma \\delta \\epsilon \\varepsilon \\zeta \\eta \\theta \\vartheta \\iota \\kappa "
        "\\lambda \\mu \\nu \\xi \\rho \\sigma \\tau \\upsilon \\phi \\varphi \\chi \\psi \\omega \\Gamma \\Delta "
        "\\Theta \\Lambda \\Omega"
    ).split()
)


def names_in(text: str) -> bool:
    """Whether a formula has letters other than the constants e and i."""
    return any(
        match.group(1) not in _CONSTANTS if match.group(1) else match.group() in _GREEK_COMMANDS
        for match in _VARIABLES.finditer(text)
    )


def is_name(text: str) -> bool:
    """Whether a text names one quantity: ``x``, ``f(x)``, ``AB``, ``a_1``, ``\\angle ABC``, ``\\text{Area}``."""
    if text in _NOT_A_NAME or not _NAME.fullmatch(text) or _DENIAL.search(text):
        return False
    return not _CALL.match(text) or names_in(text)


def without_index(name: str) -> str:
    """A name without its index: ``x`` for ``x_1``."""
    return re.sub(r"_(?:[0-9]|\{[0-9]+\})", "", name)


def are_names(text: str) -> bool:
    """Whether a text is a name or a tuple of names."""
    return is_name(text) or (
        text[:1] == "(" and text[-1:] == ")" and all(is_name(p.strip()) for p in text[1:-1].split(","))
    )

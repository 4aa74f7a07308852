"""How far a denominator after a slash goes.

============================  =======================  ==========================================================
``1/2x``, ``3/4\\pi``           ``(1/2)x``, ``(3/4)\\pi``   a number, its power, or its root is the denominator alone
``(x+1)/2y``, ``1/2(x+1)``     ``((x+1)/2)y``            the same
``1/(2x)``, ``\\frac{1}{2x}``   ``1/(2x)``               what they say
``1/xy``, ``1/2^nx``           ``1/(xy)``, ``1/(2^nx)``   letters after the slash stay together: who means y/x writes it
``1/(x+1)(x+2)``, ``1/(2x)y``  not read                 people write either for both
============================  =======================  ==========================================================
"""

from __future__ import annotations

import re

_NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:\^(?:[0-9]|\{-?[0-9]+\})|!)?|\\sqrt(?:\[[0-9]+\])?\{[0-9]+\}"
_FACTOR = r" ?(?:[a-zA-Z(]|\\(?!cdot|bmod|mod|r(?:floor|ceil)|circ)[a-zA-Z])"
_DENOMINATOR = re.compile(rf"/({_NUMBER})(?![0-9.^_!])(?={_FACTOR})")
_BEFORE_BAR = re.compile(rf"/({_NUMBER})(?=\|)")
_NEXT = re.compile(_FACTOR)


def respelled(formula: str) -> str | None:
    """A formula with its short denominators as fractions, None if it is not clear where one ends."""
    if "/" not in formula:
        return formula
    if _is_unclear(formula):
        return None
    formula = _DENOMINATOR.sub(r"\\cdot\\frac{1}{\1}\\cdot ", formula)
    return _BEFORE_BAR.sub(r"\\cdot\\frac{1}{\1}", formula)


def _is_unclear(formula: str) -> bool:
    """Whether a factor follows a bracket that follows a slash."""
    after_slash: list[bool] = []
    for place, character in enumerate(formula):
        if character == "(":
            after_slash.append(formula[place - 1 : place] == "/")
        elif character == ")" and after_slash and after_slash.pop() and _NEXT.match(formula, place + 1):
            return True
    return False

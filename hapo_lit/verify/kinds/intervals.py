"""Intervals: ``[1, 2)``, ``]1, 2[``, ``1 < x \\le 2``, ``|x| < 3``, ``\\mathbb{R}``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from hapo_lit.verify.forms import (
    FLIPPED,
    INFINITY,
    MINUS_INFINITY,
    Bag,
    Form,
    Leaf,
    Named,
    TupleOrInterval,
)
from hapo_lit.verify.kinds import numbers
from hapo_lit.verify.kinds.names import COMMAND_OR_LETTER, is_name

_ABSOLUTE = re.compile(rf"\|({COMMAND_OR_LETTER})\|")
_MIRRORED = {"(": ")", ")": "(", "[": "]", "]": "["}
_OUTWARD = re.compile(r"([\[\]])([^\[\]()]*[,;][^\[\]()]*)([\[\]])")
"""An interval with brackets that are square and turned outward where it is open."""
REALS = frozenset(["\\mathbb{R}", "\\text{R}", "\\mathbf{R}"])
"""How the set of all real numbers is written."""
REAL_LINE = TupleOrInterval("(", (MINUS_INFINITY, INFINITY), ")")


def turned_inward(text: str) -> str:
    """``(1, 2)`` for ``]1, 2[``, as the French write open intervals."""
    if "[" in text or "]" in text:
        return _OUTWARD.sub(lambda m: "[("[m[1] == "]"] + m[2] + "])"[m[3] == "["], text)
    return text


def all_intervals(forms: Iterable[Form]) -> bool:
    return all(isinstance(form, TupleOrInterval) and len(form.items) == 2 for form in forms)


def between(named: Sequence[Named]) -> TupleOrInterval | None:
    """``x > a`` and ``x < b`` together, as an interval."""
    values = [item.value for item in named]
    if len(values) != 2 or not all_intervals(values):
        return None
    first, second = values
    if not (isinstance(first, TupleOrInterval) and isinstance(second, TupleOrInterval)):
        return None
    if first.items[0] == MINUS_INFINITY:
        first, second = second, first
    if first.items[1] != INFINITY or second.items[0] != MINUS_INFINITY:
        return None
    below, above = (
        numbers.read(form.text) if isinstance(form, Leaf) else None for form in (first.items[0], second.items[1])
    )
    if below and above and below.value > above.value:
        return None
    return TupleOrInterval(first.opening, (first.items[0], second.items[1]), second.closing)


def from_bounds(parts: Sequence[str], sides: tuple[Form, ...], operators: Sequence[str]) -> tuple[str, Form] | None:
    """``a < x \\le b`` or ``x > a`` as the name and its interval."""
    if len(parts) == 3 and len({operator in ("<", "\\le") for operator in operators}) == 1:
        if not _bounded(parts[1]) or not set(operators) <= {"<", "\\le", ">", "\\ge"}:
            return None
        if operators[0] in (">", "\\ge"):
            sides, operators = sides[::-1], [FLIPPED[operator] for operator in operators[::-1]]
        brackets = "(" if operators[0] == "<" else "[", ")" if operators[1] == "<" else "]"
        if match := _ABSOLUTE.fullmatch(parts[1]):
            below = TupleOrInterval(
                _MIRRORED[brackets[1]], (_negative(sides[2]), _negative(sides[0])), _MIRRORED[brackets[0]]
            )
            return match[1], Bag((below, TupleOrInterval(brackets[0], (sides[0], sides[2]), brackets[1])))
        return parts[1], TupleOrInterval(brackets[0], (sides[0], sides[2]), brackets[1])
    if len(parts) != 2 or operators[0] not in ("<", "\\le", ">", "\\ge"):
        return None
    if _bounded(parts[0]) and not is_name(parts[1]):
        name, operator, end = parts[0], operators[0], sides[1]
    elif _bounded(parts[1]) and not is_name(parts[0]):
        name, operator, end = parts[1], FLIPPED[operators[0]], sides[0]
    else:
        return None
    if match := _ABSOLUTE.fullmatch(name):
        return match[1], _absolute(operator, end)
    if operator in ("<", "\\le"):
        return name, TupleOrInterval("(", (MINUS_INFINITY, end), ")" if operator == "<" else "]")
    return name, TupleOrInterval("(" if operator == ">" else "[", (end, INFINITY), ")")


def _bounded(text: str) -> bool:
    """Whether bounds on a text are an interval: it is a name or the absolute value of one."""
    return is_name(text) or bool(_ABSOLUTE.fullmatch(text))


def _negative(form: Form) -> Form:
    text = form.text if isinstance(form, Leaf) else ""
    if text in ("", "0"):
        return form
    if re.search(r".[-+]", text):
        return Leaf(f"-({text})")
    return Leaf(text[1:] if text[0] == "-" else f"-{text}")


def _absolute(operator: str, end: Form) -> Form:
    """Where ``|x|`` is below or above a bound."""
    if operator in ("<", "\\le"):
        brackets = ("(", ")") if operator == "<" else ("[", "]")
        return TupleOrInterval(brackets[0], (_negative(end), end), brackets[1])
    inner = (")", "(") if operator == ">" else ("]", "[")
    below = TupleOrInterval("(", (MINUS_INFINITY, _negative(end)), inner[0])
    return Bag((below, TupleOrInterval(inner[1], (end, INFINITY), ")")))

"""Whether an answer is a result, or has arithmetic left to do: ``3+4`` where the reference is 7.

Equal is not enough where the task is to compute: the question itself equals its answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import gcd, isqrt

from hapo_lit.verify.forms import Approximate, Choice, Form, Leaf, Named, Relation
from hapo_lit.verify.kinds import bases, compounds, numbers, quantities, relations
from hapo_lit.verify.latex import normalise

LONGEST_PROBLEM = 10_000
"""Only so many characters of a problem are searched."""

_SIGN = re.compile(
    r"[-+*/^!|]|\\(?:cdot|frac|sqrt|binom|sum|sin|cos|tan|cot|sec|csc|arc[a-z]+|log|ln|lg|exp|gcd|lcm|min|max|lfloor"
    r"|lceil|[bp]?mod)(?![a-zA-Z])"
)
"""What each operation is written with."""
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_FIRST, _LAST = r"(?:\A|(?<=[-+(\[{=|<>]))", r"(?=\Z|[-+)\]}=|<>])"
_FRACTION = re.compile(r"\\frac\{-?([0-9]+)\}\{-?([0-9]+)\}|(?<![0-9.}^])([0-9]+)/([0-9]+)(?![0-9.])")
_ROOT = re.compile(r"\\sqrt\{([0-9]{1,40})\}")
_TEN = re.compile(r"10\^[2-6]")
_LEFT = re.compile(
    rf"{_FIRST}{_NUMBER}[-+]{_NUMBER}{_LAST}"
    rf"|{_FIRST}(?:{_NUMBER})?(\\pi|[a-zA-Z]|\\sqrt\{{[0-9]+\}})[-+](?:{_NUMBER})?\1{_LAST}"
    rf"|(?<![\^_.0-9]){_NUMBER}(?:\\cdot|\*){_NUMBER}(?![\^!._0-9])"
    rf"|(?<![\^_.0-9])(?!10\^){_NUMBER}\^(?:[0-9]|\{{-?[0-9]+\}})"
    r"|[0-9]!|\\binom\{[0-9]+\}\{[0-9]+\}"
)
"""Sums of numbers and of like terms, products, powers, factorials: what is left in ``3\\pi+4\\pi``, ``2\\cdot3x``."""
_TIMES = re.compile(r"\*(?=[0-9])")
_SIMPLE_FRACTION = re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}")


def unevaluated(gold: Form, answer: Form) -> list[str]:
    """The parts of a right answer that have an operation left that evaluates; none if the reference has one too.

    Where the reference is made of numbers, so must the answer be.  Elsewhere no arithmetic between numbers may be left.
    A fraction in lowest terms, a mixed number and ``3\\cdot10^8`` are numbers; ``6/4`` and ``10^3`` are not.

    Example:
        >>> unevaluated(Leaf("7"), Leaf("3+4"))
        ['3+4']
        >>> unevaluated(Leaf("7\\\\pi"), Leaf("3\\\\pi+4\\\\pi"))
        ['3\\\\pi+4\\\\pi']
    """
    golds = list(_values(gold))
    numeric = all(numbers.read(text) for text in golds)
    if any(_is_left(text, numeric) for text in golds):
        return []
    if isinstance(answer, Approximate):
        answer = answer.decimal
    elif not isinstance(gold, Relation):
        answer = relations.last_side(answer)
    return [text for text in _values(answer) if _is_left(text, numeric)]


def has_operation(answer: str) -> bool:
    """Whether a normalised answer may have an operation in it; a look that costs less than reading it."""
    return _SIGN.search(answer.lstrip("+-")) is not None


def any_stands_in(expressions: Sequence[str], problem: str) -> bool:
    """Whether a problem's text has one of these, whatever its spaces and its signs for products and quotients."""
    text = _in_signs(normalise(problem[:LONGEST_PROBLEM]))
    for expression in expressions:
        pattern = " ?".join(re.escape(character) for character in _in_signs(expression) if character != " ")
        if re.search(rf"(?<![0-9.]){pattern}(?![0-9])", text):
            return True
    return False


def _values(form: object) -> Iterator[str]:
    """The numbers and formulas in an answer, without names of values and without units."""
    if isinstance(form, Leaf):
        if not compounds.read(form.text) and not bases.read(form.text):
            yield _TIMES.sub(r"\\cdot", _without_brackets(quantities.read(form.text).value))
    elif isinstance(form, Named | Choice):
        yield from _values(form.value)
    elif isinstance(form, tuple):
        for part in form:
            yield from _values(part)


def _is_left(text: str, numeric: bool) -> bool:
    if numbers.read(text):
        return _TEN.fullmatch(text) is not None or (has_operation(text) and _has_unreduced(text))
    if numeric:
        return has_operation(text)
    roots = any(isqrt(int(root)) ** 2 == int(root) for root in _ROOT.findall(text))
    return roots or _has_unreduced(text) or _LEFT.search(text) is not None


def _has_unreduced(text: str) -> bool:
    found = (map(int, filter(None, match.groups())) for match in _FRACTION.finditer(text))
    return any(gcd(top, bottom) > 1 or bottom == 1 for top, bottom in found)


def _without_brackets(text: str) -> str:
    while text[:1] == "(" and text[-1:] == ")" and not {"(", ")"} & set(text[1:-1]):
        text = text[1:-1]
    return text


def _in_signs(text: str) -> str:
    return _SIMPLE_FRACTION.sub(r"\1/\2", text).replace("\\cdot", "*")

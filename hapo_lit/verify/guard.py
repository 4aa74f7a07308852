"""Answers too expensive or unsafe to parse are refused before anything is parsed."""

from __future__ import annotations

import re

MAX_NESTING = 12
MAX_DIGITS = 40
"""Longest run of digits."""
MAX_FACTORIAL = 999
MAX_TERMS = 60
"""Maximum number of operators in one answer."""

MAX_MARKS = 8
"""Maximum number of bars and of primes, and half that of indices: the grammar has to guess at each of them."""

_TOO_EXPENSIVE = re.compile(
    r"\\(?:i*int|oint|lim|limsup|liminf|prod|coprod|rank|frac\{d\}|partial|operatorname)(?![a-zA-Z])"
    r"|\\det(?! ?\(?\\begin|[a-zA-Z])"
)
_DIGIT_RUN = re.compile(rf"[0-9]{{{MAX_DIGITS + 1}}}")
_POWER = re.compile(r"\^ ?\{? ?[-+]? ?\(?([0-9]{5,})")
_TOWER = re.compile(r"\^ ?(?:\{[^{}]*\^|[^{} ] ?\^|\{[^{}]*\{[^{}]*\^)")
_FACTORIAL = re.compile(r"([0-9]+) ?\}?\)? ?!|! ?\^|\^ ?\{?[^{}]*!")
_FACTORIALS = re.compile(r"!(?: ?[)}\]])* ?!")
_BINOMIAL = re.compile(r"\\binom ?\{[^{}]*(?:[0-9]{4,}|\\binom|!|\^)|\\binom ?\{[^{}]*\} ?\{[^{}]*\\binom")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_OPERATORS = re.compile(r"[-+*/^=<>,;&]|\\(?:cdot|times|frac|sqrt|pm|mp|le|ge|ne|cup|cap|sin|cos|tan|log|ln)")
_SUM = re.compile(r"\\sum ?_ ?\{[^{}]*\} ?\^ ?(?:\{[^{}]*[0-9]{4,}|[0-9]{4,})")
_BIG_SUM_POWER = re.compile(r"[)}\]] ?\^ ?\{? ?[-+]? ?([0-9]{3,})")


def refusal(answer: str) -> str | None:
    """Why a normalised answer is not given to a parser, None if it may be.  Linear in its length."""
    depth = deepest = 0
    for character in answer:
        if character in "{([":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "})]":
            depth -= 1
    if deepest > MAX_NESTING:
        return "nested too deeply"
    if _DIGIT_RUN.search(answer):
        return "too many digits"
    if _TOO_EXPENSIVE.search(answer):
        return "integrals, limits and the like"
    if _POWER.search(answer) or _TOWER.search(answer) or _BIG_SUM_POWER.search(answer):
        return "a power too high"
    if _FACTORIALS.search(answer):
        return "factorials of factorials"
    for match in _FACTORIAL.finditer(answer):
        if match.group(1) is None or int(match.group(1)[:9]) > MAX_FACTORIAL:
            return "a factorial too large"
    if _BINOMIAL.search(answer) or _SUM.search(answer):
        return "a number too large"
    if len(_OPERATORS.findall(answer)) > MAX_TERMS:
        return "too many terms"
    if answer.count("|") > MAX_MARKS or answer.count("'") > MAX_MARKS or answer.count("_") > 2 * MAX_MARKS:
        return "too many bars, primes or indices"
    return None

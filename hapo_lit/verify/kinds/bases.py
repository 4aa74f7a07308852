"""Numbers written in a base: ``1011_2``, ``1011 base two``."""

from __future__ import annotations

import re
from typing import NamedTuple

from hapo_lit.verify.rules import Rules

_TEXT = re.compile(r"\\text ?\{([^{}]*)\}")
_BASE = re.compile(
    r"\(?([0-9A-Fa-f]+(?:\.[0-9A-Fa-f]+)?)\)?_\{?\(? ?([0-9]{1,2}|[a-z]{3,12}) ?\)?\}?"
    r"|([0-9A-Fa-f]+) ?\(? ?base[- ]? ?([0-9]{1,2}|[a-z]{3,12})\)?"
)
_BASE_NAMES = dict(
    zip(
        ("two three four five six seven eight nine ten eleven twelve sixteen").split(),
        (*range(2, 13), 16),
        strict=True,
    )
)


class Numeral(NamedTuple):
    """Digits, in upper case and without leading zeros, and the base in which they stand for a number."""

    digits: str
    base: int


def read(text: str) -> Numeral | None:
    """The digits and the base of ``1011_2``, None if no base is given."""
    if "_" not in text and "base" not in text:
        return None
    match = _BASE.fullmatch(_TEXT.sub(r"\1", text))
    if match is None:
        return None
    digits, base = match[1] or match[3], match[2] or match[4]
    if base.isdigit():
        value = int(base)
    elif base in _BASE_NAMES:
        value = _BASE_NAMES[base]
    else:
        return None
    return Numeral(digits.upper().lstrip("0") or "0", value) if digits[0].isdigit() or value > 10 else None


def compare(rules: Rules, gold: str, answer: str, left: Numeral | None, right: Numeral | None) -> bool:
    """At least one side gives a base, as :func:`read` finds it.  Digits and base must agree."""
    if rules.conventions.base_optional and not (left and right):
        return (left.digits if left else gold) == (right.digits if right else answer)
    return left == right

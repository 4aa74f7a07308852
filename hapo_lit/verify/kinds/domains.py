"""What a letter ranges over: ``2\\pi k, k \\in \\mathbb{Z}``, ``a_n = 2n (n \\in \\mathbf{N}^*)``.

Natural numbers are left out for the number of a term alone: ``k\\pi, k \\in \\mathbb{N}`` is not ``k\\pi``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hapo_lit.verify.forms import Bag, Form, Leaf, Named, Record

_WHOLE_NUMBERS = r"(?:\\mathbb ?\{[ZN]\}|[ZN])(?:[_^]?[*+])?"
_DOMAIN = re.compile(_WHOLE_NUMBERS)
_IN_BRACKETS = re.compile(
    rf"(.*[^ (,]) ?\((?:(?:[a-zA-Z](?:,[a-zA-Z])*)\\in ?(?:\\mathbb ?\{{R\}}|R)|([a-zA-Z]\\in ?{_WHOLE_NUMBERS}"
    r"|[^()=]*(?:[<>]|\\(?:le|ge|ne)(?![a-zA-Z]))[^()=]*))\)"
)


_CONDITION = re.compile(r"[<>]|\\(?:in|le|ge|ne)(?![a-zA-Z])")


def without_brackets(text: str) -> str:
    """``2n(n \\in N)`` as ``2n, n \\in N``, ``2x(x > 0)`` as ``2x, x > 0``, ``2x(x \\in R)`` as ``2x``."""
    match = _IN_BRACKETS.fullmatch(text) if text.endswith(")") and _CONDITION.search(text) else None
    return ",".join(filter(None, match.groups())) if match else text


def without_domains(gold: Form, answer: Form) -> tuple[Form, Form]:
    """Both sides without ``k \\in \\mathbb{Z}`` if only one has it; with the same letter if they use two letters."""
    left, plain_left = _domains(gold)
    right, plain_right = _domains(answer)
    if len(left) == len(right) == 1 and _set(left[0]) == _set(right[0]):
        old, new = right[0].name, left[0].name
        if old == new:
            return plain_left, plain_right
        if len(old) == len(new) == 1:
            return plain_left, _renamed(plain_right, old, new)
    return (plain_left, plain_right) if bool(left) != bool(right) else (gold, answer)


def _set(domain: Named) -> str:
    """``Z``, ``N``, ``N+``: in whatever type."""
    name = re.sub(r"\\mathbb|[{}^_ ]", "", domain.value.text if isinstance(domain.value, Leaf) else "")
    return name.replace("*", "+")


def _renamed(form: Any, old: str, new: str) -> Any:
    """A form with one letter in the place of another."""
    if isinstance(form, str):
        return re.sub(rf"(?<![a-zA-Z\\]){old}(?![a-zA-Z])", new, form)
    if not isinstance(form, tuple):
        return form
    parts = [_renamed(part, old, new) for part in form]
    return type(form)(*parts) if hasattr(form, "_fields") else tuple(parts)


def _domains(form: Form) -> tuple[list[Named], Form]:
    items: Sequence[Form] = form.items if isinstance(form, Bag) else form.entries if isinstance(form, Record) else ()
    found = [
        item
        for item in items
        if isinstance(item, Named) and isinstance(item.value, Leaf) and _DOMAIN.fullmatch(item.value.text)
    ]
    rest = [item for item in items if item not in found]
    spelled = repr(rest)
    names = " ".join(item.name for item in rest if isinstance(item, Named))
    found = [item for item in found if "Z" in _set(item) or re.search(rf"[_({{]{re.escape(item.name)}", names)]
    found = [item for item in found if re.search(rf"(?<![a-zA-Z]){re.escape(item.name)}(?![a-zA-Z])", spelled)]
    if not found or not rest:
        return [], form
    if len(rest) == 1:
        return list(found), rest[0]
    if isinstance(form, Record):
        return list(found), Record(tuple(item for item in rest if isinstance(item, Named)))
    return list(found), Bag(tuple(rest), isinstance(form, Bag) and form.braces)

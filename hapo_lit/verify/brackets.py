"""Cutting a text where no bracket is open."""

from __future__ import annotations

import re
from collections.abc import Iterable

TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\{,\}|.", re.DOTALL)
OPENERS = frozenset(["(", "[", "{", "\\{", "\\langle", "\\lfloor", "\\lceil", "\\begin"])
CLOSERS = frozenset([")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil", "\\end"])
PAIRS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\langle": "\\rangle"}


def split(text: str, separators: Iterable[str]) -> tuple[list[str], list[str]] | None:
    """A text cut at the separators that stand in no bracket, and those separators; None if brackets do not match."""
    separators = separators if isinstance(separators, frozenset) else frozenset(separators)
    parts, found, begin, level, bars = [], [], 0, 0, 0
    for match in TOKEN.finditer(text):
        token = match.group()
        if token in OPENERS:
            level += 1
        elif token in CLOSERS:
            level -= 1
            if level < 0:
                return None
        elif level == 0 and token == "|" and "|" not in separators:
            bars ^= 1
        elif level == 0 and not bars and token in separators:
            parts.append(text[begin : match.start()])
            found.append(token)
            begin = match.end()
    if level:
        return None
    parts.append(text[begin:])
    return parts, found

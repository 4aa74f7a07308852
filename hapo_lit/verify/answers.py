"""Finding the answer in a response."""

from __future__ import annotations

BOX = r"\boxed{"
THOUGHT_END = "</think>"


def last_box(text: str) -> str | None:
    """The content of the last ``\\boxed{...}`` after the last ``</think>``, braces balanced.

    A box that is there but empty or never closed gives None: there is no falling back to an earlier number, which
    would reward broken answers.  Linear in the length of ``text``.
    """
    _, _, text = text.rpartition(THOUGHT_END)
    start = text.rfind(BOX)
    end = _closing_brace(text, start + len(BOX)) if start >= 0 else None
    return None if end is None else text[start + len(BOX) : end].strip() or None


def only_box(text: str) -> str | None:
    """The content of the box if the text has exactly one and ends with it, else None."""
    text = text.rstrip()
    start = text.find(BOX)
    if start < 0 or text.count(BOX) != 1 or _closing_brace(text, start + len(BOX)) != len(text) - 1:
        return None
    return text[start + len(BOX) : -1].strip() or None


def _closing_brace(text: str, begin: int) -> int | None:
    """Where the brace that was opened just before ``begin`` closes."""
    depth = 1
    for position in range(begin, len(text)):
        depth += (text[position] == "{") - (text[position] == "}")
        if depth == 0:
            return position
    return None

"""Words, and letters that stand for themselves."""

from __future__ import annotations

import re

from hapo_lit.verify.kinds import numbers
from hapo_lit.verify.kinds.choices import is_letter

_MARKUP = re.compile(r"\\text ?\{([^{}]*)\}|[{}]")
_SHORT_WORDS = frozenset(["yes", "no", "true", "odd", "even", "does not exist"])
"""Other short words in capitals are names, such as ABC, and are not abc."""
_SAID = {
    "dne": "does not exist",
    **dict.fromkeys(("no solutions", "empty set", "the empty set"), "no solution"),
}
"""What is said in several ways: an equation without solution has the empty set of solutions."""


def read(text: str) -> str | None:
    """Words in lower case without markup; None for a formula.

    Three letters in a row and nothing else are a word too: as a product they would equal each of their anagrams.
    """
    if not text or text.isdigit() or numbers.read(text):
        return None
    if text == "\\emptyset":
        return "no solution"
    words = _read(text)
    return _SAID.get(words, words) if words else words


def _read(text: str) -> str | None:
    bare = re.sub(r"[^\w]+", " ", _MARKUP.sub(lambda m: f" {m[1] or ''} ", text)).strip()
    if "\\text" in text:
        plain = re.fullmatch(r"[^\\+*/^_=<>|!0-9{}-]*", _MARKUP.sub(lambda m: "" if m[1] else m[0], text))
        return " ".join(bare.lower().split()) if plain and re.search(r"[a-zA-Z]{2}", bare) else None
    if "\\" in text or re.search(r"[-+*/^_=(){}|!0-9]", text):
        return None
    return " ".join(text.lower().split()) if re.search(r"[a-zA-Z]{3}", text) or not text.isascii() else None


def _letters(text: str, exact: bool = False) -> str:
    """The letters of words, however they are marked up; nothing for a formula."""
    plain = _MARKUP.sub(lambda m: m[1] or "", text)
    return (
        re.sub(r"[^a-zA-Z]", "", plain if exact else plain.lower())
        if re.fullmatch(r"[A-Za-z][A-Za-z .'-]*", plain)
        else ""
    )


def compare(gold: str, answer: str, words: str | None, others: str | None) -> bool:
    """At least one side is words, as :func:`read` finds them."""
    if words not in _SHORT_WORDS and min(len(gold), len(answer)) <= 4 and (gold.isupper() or answer.isupper()):
        return _letters(gold, exact=True) == _letters(answer, exact=True) != ""
    return words == others or _letters(gold) == _letters(answer) != ""


def are_letters(gold: str, answer: str) -> bool:
    """Whether both are single letters."""
    return is_letter(gold) and is_letter(answer)

"""Letters of multiple choice: ``B``, ``Option B``, and with the text of the option ``(B) 12``, ``B: 12``, ``B. blue``.

A letter with its text equals the letter, and it equals the text.  Two of them must agree in both.
"""

from __future__ import annotations

import re

from hapo_lit.verify.forms import Choice, Form, Leaf, Parse
from hapo_lit.verify.kinds import quantities
from hapo_lit.verify.rules import Rules, Truth

_WORD = r"(?:[Oo]ption|[Cc]hoice|[Aa]lternative)"
_CALLED = rf"(?:{_WORD} ?|\\text\{{ ?{_WORD} ?\}} ?)?"
_VALUE = r"(?=[0-9\\(]|[a-z]{2}| -[0-9]|(?:(?<=[):}])|(?<=[):}] ))[A-Z][a-z]|[A-Z][a-z]* [a-z]{2})(.+)"
"""The text of an option; a single name behind a full stop is none, as in ``A. Smith``."""
_CHOICE = re.compile(
    rf"(?:\\text\{{)?{_CALLED}\(?([A-J])(?:[).:]|\)[.:])\}}? ?{_VALUE}"
    rf"|\\text\{{{_CALLED}\(?([A-J])\)?\}}(?=[0-9\\(])(.+)"
)
_SECOND_CHOICE = re.compile(
    r"\([A-J]|(?<![A-Za-z])[A-J]\)|\b(?i:or|and|is|not|false|wrong|incorrect|options?|choices?|choose)\b"
)
_LETTER = re.compile(rf"(?:\\text\{{)?{_CALLED}\(?([A-Za-z])[).:]?\}}?[.:)]?")
_WHOLE_TEXT = re.compile(r"\\text ?\{([^{}]*)\}")
_PLAIN_LETTER = re.compile(r"[A-Za-z]|\\[a-zA-Z]+")


def read(text: str, parse: Parse) -> Form | None:
    """A whole answer that is a letter, with or without the value that it stands for."""
    if whole := _WHOLE_TEXT.fullmatch(text):
        text = whole[1].strip()
    if match := _CHOICE.fullmatch(text):
        value = match[2] or match[4]
        if not _SECOND_CHOICE.search(quantities.read(value).value):
            return Choice(match[1] or match[3], parse(value, 1))
    if match := _LETTER.fullmatch(text):
        return Leaf(match[1])
    return None


def compare(rules: Rules, gold: Form, answer: Form) -> Truth:
    """At least one side has a letter and its value."""
    if isinstance(gold, Choice) and isinstance(answer, Choice):
        return gold.letter == answer.letter and rules(gold.value, answer.value)
    choice, other = (gold, answer) if isinstance(gold, Choice) else (answer, gold)
    assert isinstance(choice, Choice)
    if not rules.conventions.letter_or_value:
        return False
    if isinstance(other, Leaf) and is_letter(other.text):
        return other.text == choice.letter
    return rules(choice.value, other) if choice is gold else rules(other, choice.value)


def is_letter(text: str) -> bool:
    """Whether a text is one letter, of any alphabet."""
    return bool(_PLAIN_LETTER.fullmatch(text))

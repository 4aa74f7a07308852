"""What stands around an answer and is no part of it: dollars, bold, colour, "the answer is", a leading equals sign.

The same rules hold however an answer was found: in a box, in tags, after a phrase or alone.

========================================  ============
``$\\text{Answer: } 241$``                 ``241``
``**73**``, ``<b>73</b>``, `` `73` ``      ``73``
``\\textcolor{blue}{7}``                   ``7``
``= 5``, ``\\therefore 5``                  ``5``
``$\\frac34$ of the total``                ``\\frac34``
``5 \\checkmark``                         ``5``
========================================  ============
"""

from __future__ import annotations

import re

from hapo_lit.verify.latex import closing_brace

ROUNDS = 8
"""An answer in more layers than this keeps the others."""
LONGEST = 2000
"""Longer texts are left alone: no answer is as long."""

_SAYS = (
    r"(?:(?:so|thus|hence|therefore|and)\b,? {0,3})?(?:(?:the|my|our|your) )?(?:(?:final|correct|right) )?"
    r"(?:answers?|ans\.?|result|solution)(?:\*\*)?(?: {0,3}(?:is|are|equals)\b(?: {0,3}:)?| {0,3}[:=])(?:\*\*)?"
)
_ANNOUNCED = re.compile(rf"(?:\*\*)?{_SAYS} {{0,3}}", re.IGNORECASE)
_ANNOUNCED_IN_TEXT = re.compile(
    rf"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox) ?\{{ ?(?:{_SAYS} ?\}}|(?:(?:the )?final )?answer ?\}} ?[:=])"
    r"(?:\\[ ,:;!])? ?",
    re.IGNORECASE,
)
_ANNOUNCED_INSIDE = re.compile(
    rf"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox) ?\{{ ?{_SAYS} {{0,3}}([^{{}}]+)\}}", re.IGNORECASE
)
_LEADING = re.compile(r"(?:=(?!=)|:|\\(?:therefore|implies|Rightarrow|Longrightarrow|quad|qquad)(?![a-zA-Z])|\}) ?")
_AROUND = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("__", "__"), ("`", "`"), ("*", "*"))
_TAGS = re.compile(r"<(b|strong|em|i|u|span|font|code|center)(?: [^<>]*)?>([^<>]*)</\1>", re.IGNORECASE)
_TYPE = re.compile(r"\\(?:textbf|mathbf|boldsymbol|bm|emph|textit|underline|underbrace|ensuremath|mathit) ?\{")
_COLOUR = re.compile(
    r"\\(?:(textcolor|colorbox)|fcolorbox ?\{[^{}]{0,40}\}|color)(?:\[[^\[\]]{0,40}\])? ?\{[^{}]{0,40}\} ?"
)
_DONE = re.compile(
    r"(?:\\[ ,;:!]| |\\q?quad(?![a-zA-Z])|~)*(?:\\(?:checkmark|blacksquare|qed|qedhere)(?![a-zA-Z])|[✓✔✅∎■]\ufe0f?)\Z"
)
"""The mark of an end."""
_CLOSERS = (("\\]", "\\["), ("\\)", "\\("))
_CUT_BRACE = re.compile(r"[^{}]*(\}\$?)")
_OF_SOMETHING = re.compile(
    r"(?:\$([^$]+)\$|\\\(((?:[^\\]|\\(?![()]))+)\\\)) (?:of|in total|in all)(?![a-z])([a-z ]*)\.?"
)
_CHANGES = re.compile(
    r"\b(?:not?|or|and|to|than|if|is|are|was|wrong|false|incorrect|half|third|quarter|dozen|hundred|thousand|[mb]illion"
    r"|twice|double|times|minus|plus|percent|[a-z]*n't)\b"
)


_SIGN = re.compile(
    r"[$`<:\]✓✔✅∎■]|\*|__|color|^=|^[^{}]*\}|\\(?:text|math|bold|bm|emph|under|ensure|there|impl|check|black|[RLq()\[\]])"
    r"|(?i:^(?:so|thus|hence|therefore|and|the|my|our|your|final|correct|right|answers?|ans|result|solution)\b)"
)
"""What every decoration has one of."""


def without_decoration(answer: str) -> str:
    """An answer without what stands around it."""
    answer = answer.strip()
    if not _SIGN.search(answer):
        return answer
    for _ in range(ROUNDS if len(answer) <= LONGEST else 0):
        before, answer = answer, _without_layer(answer.strip())
        if answer == before:
            break
    return answer


def _without_layer(text: str) -> str:
    if text[:1].isdigit() and text[-1:].isdigit():
        return text
    if "<" in text and (match := _TAGS.fullmatch(text)):
        return match[2]
    for opening, closing in _AROUND:
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            inner = text[len(opening) : -len(closing)]
            if opening not in inner and closing not in inner:
                return inner
    if "\\" in text or "{" in text or "}" in text:
        text = _without_type(text)
    for closing, opening in _CLOSERS:  # the other one was cut off with the words before the answer
        if text.endswith(closing) and opening not in text:
            return text[:-2]
        if text.startswith(opening) and closing not in text:
            return text[2:]
    if (match := _DONE.search(text, max(0, len(text) - 40))) and match.start():
        return text[: match.start()]
    if match := _CUT_BRACE.fullmatch(text):
        return text[: match.start(1)]
    if match := _ANNOUNCED.match(text) or _ANNOUNCED_IN_TEXT.match(text) or _LEADING.match(text):
        return text[match.end() :]
    if match := _ANNOUNCED_INSIDE.fullmatch(text):
        return match[1]
    if (match := _OF_SOMETHING.fullmatch(text)) and not _CHANGES.search(match[3]):
        return match[1] or match[2]
    return text


def _without_type(text: str) -> str:
    """Without bold around the whole, and without colours anywhere."""
    match = _TYPE.match(text)
    if match and closing_brace(text, match.end()) == len(text) - 1:
        return text[match.end() : -1]
    if "color" not in text:
        return text
    parts: list[str] = []
    place = 0
    for match in _COLOUR.finditer(text):
        if match.start() < place:
            continue
        parts.append(text[place : match.start()])
        place = match.end()
        if text[place : place + 1] == "{" and (end := closing_brace(text, place + 1)) is not None:
            parts.append(text[place + 1 : end])
            place = end + 1
    text = "".join(parts) + text[place:]
    whole = text.startswith("{") and closing_brace(text, 1) == len(text) - 1
    return text[1:-1] if whole else text

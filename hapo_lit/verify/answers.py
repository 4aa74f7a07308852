"""Finding the answer in a response.  Everything is linear in the length of the text."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from hapo_lit.verify.conventions import ROUTES
from hapo_lit.verify.decoration import without_decoration
from hapo_lit.verify.latex import closing_brace

BOXES = ("\\boxed", "\\fbox")
THOUGHT, THOUGHT_END = "<think>", "</think>"
TAIL = 20_000
"""Only so many characters at the end of a response are looked at."""

_ONLY_BOX = "\\boxed{"
_SPACE = re.compile(r"\s*")
_TAG_END = re.compile(r"</answer>", re.IGNORECASE)
_TAG = re.compile(r"<answer>", re.IGNORECASE)
_PHRASE = re.compile(
    r"answer\s{0,3}(?:\*\*|\*|:|\s){0,6}(?:\bis\b|\bare\b|[:：])(?:\*\*|\*|:|\s){0,6}|####\s{0,3}|答案(?:是|为)?\s{0,3}[:：]?\s{0,3}",
    re.IGNORECASE,
)
_FORMULA = re.compile(r"\$\$([^$]+)\$\$|\\\[(.+?)\\\]|(?<!\\)\$((?:[^$\n\\]|\\.)+)\$|\\\(([^\n]+?)\\\)", re.DOTALL)
_JOINT = re.compile(r"\b(?:and|or)\b|[,;]")
_NUMBER = re.compile(
    r"(?<![\w.])(?:[-+]?[$€£]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:[.,][0-9]+)?(?:/[0-9]+)?|\([-+0-9., /]+\))(?: ?%)?"
)
_SENTENCE_END = re.compile(r"[.!?。](?=\s|\*|$)")
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}")
_TEXT = re.compile(r"\\[a-z]*text[a-z]*\s?\{[^{}]*\}")
_TEXT_COMMAND = re.compile(r"\\[a-z]*text[a-z]*\s?|[{}$]")
MAX_BARE = 200
MAX_BARE_WORDS = 3
NO_ANSWERS = frozenset(
    (
        "qed|notfound|not found|not available|not provided|not given|n/a|nan|null|tbd|unknown|?|-|...|no answer"
        "|no answer given|answers may vary|answers vary|answers will vary|omitted|as above|as shown above|proved|proven"
        "|to be proved|to be proven|to prove|to be determined|not specified|not stated|not known|not applicable"
        "|none given|none provided|no answer provided|no solution given|no solution provided|missing|todo|error|blank"
        "|left to the reader|q.e.d|q. e. d|\\square|\\quad|___|__"
    ).split("|")
)
"""What data sets write where there is no answer."""
_ELSEWHERE = re.compile(
    r"(?:see|refer to|as (?:shown|given|stated|required|desired|claimed|above|below))(?: .*)?"
    r"|no answers?(?: [a-z]+){1,3}"
    r"|(?:the )?(?:final )?answers? (?:is |was |are )?(?:not|un[a-z]+|omitted|missing|above|below)\b.*"
    r"|(?:the )?(?:proof|solution)(?: (?:is |was )?(?:given|shown|omitted|complete|completed|below|above)\b.*)?"
)


class Found(NamedTuple):
    """An answer and how it was found: ``box``, one of the fallbacks, or ``none``."""

    answer: str | None
    route: str


def find(
    text: str, fallbacks: Collection[str] = ROUTES, unfinished_thought_fails: bool = True, join_boxes: bool = False
) -> Found:
    """The answer in a response.

    The last box after the last ``</think>`` counts.  If that box is empty or broken there is no answer: falling back to
    an earlier box or number would reward broken answers.  Without any box the ``fallbacks`` are tried in the order tag,
    phrase, bare, formula, number; see :class:`~hapo_lit.verify.conventions.Conventions`.  What stands around the answer
    is taken off (:mod:`hapo_lit.verify.decoration`).
    """
    found = _find(text, fallbacks, unfinished_thought_fails, join_boxes)
    return found if found.answer is None else Found(without_decoration(found.answer) or None, found.route)


def _find(text: str, fallbacks: Collection[str], unfinished_thought_fails: bool, join_boxes: bool) -> Found:
    thought_end = text.rfind(THOUGHT_END)
    if unfinished_thought_fails and text.rfind(THOUGHT) > thought_end:
        return Found(None, "none")
    begin = max(thought_end + len(THOUGHT_END) if thought_end >= 0 else 0, len(text) - TAIL)
    after = max(thought_end, 0)
    if (start := max(text.rfind(box, after) for box in BOXES)) >= 0:
        return Found(_joined(text[after:]) if join_boxes else _box(text[start : start + TAIL], 0), "box")
    tail = text[begin:]
    if "tag" in fallbacks and (answer := _tagged(tail)) is not None:
        return Found(answer or None, "tag")
    if "phrase" in fallbacks and (answer := _phrased(tail)) is not None:
        if "number" not in fallbacks or bare(answer):
            return Found(answer or None, "phrase")
        tail = answer
    if "bare" in fallbacks and len(tail) < TAIL and (answer := bare(tail)):
        return Found(answer, "bare")
    patterns = [
        (route, pattern) for route, pattern in (("formula", _FORMULA), ("number", _NUMBER)) if route in fallbacks
    ]
    matches = [(match.end(), match, route) for route, pattern in patterns for match in pattern.finditer(tail)]
    if matches:
        _, match, route = max(matches, key=lambda found: found[0])
        return Found(next((group for group in match.groups() if group), match.group()).strip(), route)
    return Found(None, "none")


def _joined(text: str) -> str | None:
    """The last box and those that stand beside it, as a list."""
    contents: list[str] = []
    end = following = len(text)
    while (start := max(text.rfind(box, 0, end) for box in BOXES)) >= 0:
        content = _box(text[:following], start)
        if content is None:
            break
        between = text[text.index(content, start) + len(content) + 1 : following] if contents else ""
        if len(between) >= 10 and not (len(between) < 70 and _JOINT.search(between)):
            break
        if not contents or contents[-1] != content:
            contents.append(content)
        end = following = start
    return ", ".join(reversed(contents)) or None


def last_box(text: str) -> str | None:
    """The content of the last box after the last ``</think>``; None if there is none, or it is empty or broken."""
    return find(text, (), False).answer


def reference(gold: str, fallbacks: Collection[str] = ROUTES, join_boxes: bool = False) -> str | None:
    """The reference answer: the last box of a solution, or the text itself if it has none.

    None if that is empty or says that there is none, as "proof" and "see below" do.
    """
    if bare(gold) and not any(box in gold for box in BOXES):
        answer: str | None = without_decoration(gold)
    else:
        found = find(gold, fallbacks, False, join_boxes)
        answer = found.answer if found.route != "none" else without_decoration(gold)
    return None if not answer or is_no_answer(answer) else answer


def is_no_answer(answer: str) -> bool:
    """Whether a reference says that there is no answer, which a response must not match."""
    plain = " ".join(_TEXT_COMMAND.sub(" ", answer[:60]).lower().split())
    bare_plain = plain.strip("().[]* ")
    return bool({plain, bare_plain} & NO_ANSWERS or _ELSEWHERE.fullmatch(bare_plain))


def only_box(text: str) -> str | None:
    """The content of the box if the text has exactly one and ends with it, else None."""
    text = text.rstrip()
    start = text.find(_ONLY_BOX)
    if start < 0 or text.count(_ONLY_BOX) != 1 or closing_brace(text, start + len(_ONLY_BOX)) != len(text) - 1:
        return None
    return text[start + len(_ONLY_BOX) : -1].strip() or None


def bare(text: str) -> str | None:
    """The text itself if it is an answer and nothing else: one line without prose."""
    text = text.strip()
    if not text or len(text) > MAX_BARE or "\n" in text:
        return None
    plain = re.sub(r"\b(?:and|or)\b", " ", _TEXT.sub(" ", text))
    words = list(_WORD.finditer(plain))
    digit = re.search("[0-9]", plain)
    before = [word for word in words if digit and word.start() < digit.start()]
    formula = re.search(r"(?<!\\)\$", plain)
    return None if len(words) > MAX_BARE_WORDS or len(before) > plain.count("=") or (formula and before) else text


def _box(text: str, start: int) -> str | None:
    """The content of the box whose command begins at ``start``."""
    opening = _SPACE.match(text, start + len("\\boxed" if text.startswith("\\boxed", start) else "\\fbox"))
    assert opening is not None
    if text[opening.end() : opening.end() + 1] != "{":
        return None
    end = closing_brace(text, opening.end() + 1)
    return None if end is None else text[opening.end() + 1 : end].strip() or None


def _tagged(text: str) -> str | None:
    starts = list(_TAG.finditer(text))
    if not starts:
        return None
    begin = starts[-1].end()
    end = _TAG_END.search(text, begin)
    return text[begin : end.start()].strip() if end else ""


def _phrased(text: str) -> str | None:
    last = None
    for last in _PHRASE.finditer(text):  # noqa: B007
        pass
    if last is None:
        return None
    lines = text[last.end() :].lstrip().split("\n", 1)
    line = lines[0].strip()
    if line in ("$$", "\\[") and len(lines) > 1:
        line = lines[1].split("\n", 1)[0]
    stop = _SENTENCE_END.search(line)
    if stop and stop.group() == "?":
        return None
    if stop:
        line = line[: stop.start()]
    return line.strip().strip("*").strip()

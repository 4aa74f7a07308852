"""Filters: one small class for each reason not to train on a row, so that drops are counted by reason.

All of them take time linear in the length of a row: patterns are bounded or cannot backtrack.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Protocol

from hapo_lit.data.schemas import Candidate
from hapo_lit.numerics.hashing import stable_int
from hapo_lit.verify.answers import is_no_answer

PROOF, CHOICE = "proof", "mcq"
"""NuminaMath-1.5's sentinel of a proof and question types, in lower case."""

_DASHES = str.maketrans("\u2010\u2011\u2012\u2013\u2014\u2212", "------")
_LATEX = re.compile(
    r"\\[,;:!>$\\()\[\] \n]"
    r"|\\(?:left|right|displaystyle|q?quad|text(?:bf|it|rm)?|math(?:rm|bf|it)|operatorname)(?![a-z])"
    r"|\\(?=[%&#])|(?<=\\)[dt](?=frac)|[$~]"
)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NUMBER = re.compile(
    r"\A[\s#*]{0,8}(?:(?:problem|question|exercise|example|task|ex|q)\.? {0,2}#?\d{1,4}[.):\]]{0,2}"
    r"|[(\[]?\d{1,4}[.):\]])\*{0,2}\s{1,8}(?=[^\W\d_]|[$\\(*\"])"
)
"""The number of a problem in a list: ``1.``, ``(12)``, ``**Problem 3.**``."""
_SPACE = re.compile(r"(?<!\d) | (?!\d)")
_PUNCTUATION = re.compile(
    r"[{}?;\"'`\u2018\u2019\u201c\u201d]|[.,:](?!\d)|(?<!\d)[,:]|_{2,}|(?<=[a-z]{2})-(?=[a-z]{2})"
)

_MARKUP = re.compile(r"\\(?:(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|q?quad)(?![a-zA-Z])|[,;:! ])|[{}$*~]")
_LETTER = re.compile(r"\([A-E]\)|[A-E]\)?[.:]?\Z")
_OPTION = re.compile(
    r"(?<![A-Za-z0-9'_(\\])(?:\\(?:text(?:bf|rm)?|math(?:rm|bf)|bf|rm)[{ ]?)?\(?([A-E])\}?(?:[).]|:(?=\s))"
)

_PICTURES = ("figure", "diagram", "picture", "graph", "drawing", "image", "chart", "illustration", "sketch")
_PICTURE = f"(?:{'|'.join(_PICTURES)})"
_PICTURE_WORDS = (*_PICTURES, "fig.", "shaded", "如图", "下图")
"""Only a problem with one of these is searched for a mention of a picture, which takes longer."""
_DRAWN = re.compile(
    r"\[asy\]|\\begin\{(?:asy|tikzpicture|picture)\}|\\includegraphics|<(?:img|image)\b|\[(?:img|attach)\b"
    r"|!\[[^\]]{0,300}\]\("
    r"|https?://(?:cdn|img|images?|i)\.|https?://[^\s)]{1,300}\.(?:png|jpe?g|gif|svg|bmp|webp)\b",
)
_MENTIONED = re.compile(
    r"\b(?:shown|illustrated|depicted|pictured|drawn|seen|given|marked|indicated|labell?ed) (?:in|on) (?:the|this) "
    rf"(?:[a-z]{{1,20}} )?{_PICTURE}s?\b"
    r"|\b(?:in|see|refer to) (?:the |this )?"
    r"(?:(?:following|adjoining|accompanying|adjacent|attached|above|given|provided) )?"
    r"(?:figure|diagram)(?! (?:skat|formed|bounded|enclosed))\b"
    r"|\bin (?:the|this) picture\b(?! frame)|\bfig\. ?\d"
    rf"|\b{_PICTURE}s? (?:(?:is|are|as) )?"
    r"(?:(?:below|above)(?! (?:the|its|an?|[xy])\b| ?[$\\])|shown|(?:on|to|at) the (?:right|left))\b"
    r"|\b(?:figure|diagram|picture|drawing|illustration|chart) (?:below |above )?(?:shows|depicts|illustrates)\b"
    r"|\b(?:adjoining|accompanying|attached|following) (?:figure|diagram|picture|drawing|illustration|sketch)\b"
    r"|\bpictured (?:below|above|here)\b"
    r"|\b(?:un)?shaded (?:region|area|part|portion|section)s?\b"
    r"|如图|下图",
)

_EMPTY_BOX = re.compile(r"\\boxed\s*+\{\s*+\}(?:\\[a-zA-Z]++|[\W_]|Q\.?E\.?D)*+")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_CJK = re.compile("[\u3040-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]")
_PARTS = [
    (
        re.compile(rf"(?:(?:for|in|part|question) )*+{shape.format(first)}", re.IGNORECASE),
        re.compile(rf"(?<![\w()]){shape.format(second)}", re.IGNORECASE),
    )
    for first, second in (("1", "2"), ("a", "b"), ("i", "ii"))
    for shape in (r"\({}\)", r"{}\)", r"{}\.(?=\s)")
]
"""Labels of the first and the second part of an answer."""


class Filter(Protocol):
    reason: str
    """The name under which drops are counted."""

    def __call__(self, candidate: Candidate) -> bool:
        """Whether to drop the row."""


class NoAnswer:
    """There is no reference answer, or it says so ("notfound", "see below"), and so no response can be judged."""

    reason = "no_answer"

    def __call__(self, candidate: Candidate) -> bool:
        return not candidate.answer.strip() or (is_no_answer(candidate.answer) and not _is_proof(candidate.answer))


class Proof:
    """A proof cannot be checked by its answer.

    Three things mark a proof, and none of them covers the others: the sentinel in the answer, the question type, and
    the empty box with which the rewriting model of NuminaMath ends a proof.
    """

    reason = "proof"

    def __call__(self, candidate: Candidate) -> bool:
        return (
            _is_proof(candidate.answer)
            or candidate.kind == PROOF
            or any(_ends_in_empty_box(solution) for solution in candidate.solutions)
        )


class MultipleChoice:
    """One guess in four or five is right, so that the reward says little about the reasoning.

    An answer that is a letter, alone or before its option's value, counts only where the problem lists options;
    elsewhere it is a variable, a point or a set.
    """

    reason = "multiple_choice"

    def __call__(self, candidate: Candidate) -> bool:
        if candidate.kind == CHOICE:
            return True
        return bool(_LETTER.match(_bare(candidate.answer))) and _lists_options(candidate.problem)


class Figure:
    """The problem needs a picture, and the policy sees text only."""

    reason = "figure"

    def __call__(self, candidate: Candidate) -> bool:
        problem = " ".join(candidate.problem.lower().split())
        return bool(_DRAWN.search(problem)) or (
            any(word in problem for word in _PICTURE_WORDS) and bool(_MENTIONED.search(problem))
        )


class MarkedInvalid:
    """The makers of the data set call the problem or its solution invalid."""

    reason = "marked_invalid"

    def __call__(self, candidate: Candidate) -> bool:
        return candidate.invalid


class AnswerUnparsable:
    """No verifier can compare a response with the reference: it is long, cut off, in prose, or several answers.

    Args:
        max_characters: the longest answer to keep.
    """

    reason = "answer_unparsable"

    def __init__(self, max_characters: int = 200) -> None:
        if max_characters < 1:
            raise ValueError(f"max_characters must be at least 1, got {max_characters}")
        self.max_characters = max_characters

    def __call__(self, candidate: Candidate) -> bool:
        answer = candidate.answer.strip()
        return (
            len(answer) > self.max_characters
            or _breaks_lines(answer)
            or not _balanced(answer)
            or bool(_CJK.search(answer))
            or _has_parts(answer)
        )


class SourceNotAllowed:
    """The row comes from a source that is not among the allowed ones.

    Args:
        allowed: names of sources, in upper or lower case; None = all, also rows without a source.
    """

    reason = "source_not_allowed"

    def __init__(self, allowed: Sequence[str] | None = None) -> None:
        if isinstance(allowed, str):
            raise ValueError(f"allowed must be a list of sources, got the text {allowed!r}")
        self.allowed = None if allowed is None else frozenset(name.strip().lower() for name in allowed)

    def __call__(self, candidate: Candidate) -> bool:
        return self.allowed is not None and candidate.source.strip().lower() not in self.allowed


class OverlapsEvaluation:
    """The problem is in an evaluation set, whose score would then measure memory.

    Args:
        texts: the problems of the evaluation sets.
    """

    reason = "overlaps_evaluation"

    def __init__(self, texts: Iterable[str]) -> None:
        if isinstance(texts, str):
            raise ValueError(f"texts must be the problems of an evaluation set, got one text {texts[:40]!r}")
        self.fingerprints = frozenset(fingerprint64(text) for text in texts if normalised(text))

    def __call__(self, candidate: Candidate) -> bool:
        return bool(self.fingerprints) and fingerprint64(candidate.problem) in self.fingerprints


def normalised(problem: str) -> str:
    """The problem in lower case without whitespace, prose punctuation, braces and LaTeX's spacing and delimiters, and
    without its number in a list.

    Operators and parentheses stay, and so does everything between two digits, but for a comma that groups thousands:
    ``7-2`` is not ``7+2``, ``1.5`` is not ``15`` and ``1, 12`` is not ``11, 2``.
    """
    text = unicodedata.normalize("NFKC", problem).lower().translate(_DASHES)
    text = _NUMBER.sub("", text, count=1)
    text = _THOUSANDS.sub("", _LATEX.sub("", text))
    text = _SPACE.sub("", " ".join(text.split()))
    return _PUNCTUATION.sub("", text)


def fingerprint64(problem: str) -> int:
    """64-bit hash of the normalised problem, from 0 to 2^64 - 1: equal for copies that differ in layout only."""
    return stable_int(normalised(problem).encode("utf-8", "surrogatepass"))


def _is_proof(answer: str) -> bool:
    return answer.strip().lower() == PROOF


def _bare(answer: str) -> str:
    """The answer without dollars, braces and commands that only set type."""
    return _MARKUP.sub("", answer).strip()


def _ends_in_empty_box(solution: str) -> bool:
    """Whether the last box is empty and only symbols come after it."""
    start = solution.rfind(r"\boxed")
    return start >= 0 and _EMPTY_BOX.fullmatch(solution, start) is not None


def _lists_options(problem: str) -> bool:
    """Whether options A, B and C are marked in this order."""
    marks = iter(_OPTION.findall(problem))
    return all(letter in marks for letter in "ABC")


def _breaks_lines(answer: str) -> bool:
    """Whether there are several lines that are not those of a matrix."""
    return r"\begin{" not in answer and (len(answer.splitlines()) > 1 or r"\\ " in answer)


def _balanced(answer: str) -> bool:
    """Whether the braces close in order; those of sets, which are escaped, are not counted."""
    depth = 0
    for token in _BRACES.findall(answer):
        depth += (token == "{") - (token == "}")
        if depth < 0:
            return False
    return depth == 0


def _has_parts(answer: str) -> bool:
    """Whether the answer consists of parts: the label of a first one, a value, the label of a second one.

    ``(1)(2)``, a permutation or a choice of statements, has no value between the labels; in ``(a)x + (b)y`` an
    operator joins them.  Neither has parts.
    """
    text = " ".join(_MARKUP.sub(" ", unicodedata.normalize("NFKC", answer)).split())
    for first, second in _PARTS:
        if (begin := first.match(text)) and (after := second.search(text, begin.end())):
            between = text[begin.end() : after.start()].strip()
            return bool(re.search(r"\w", between)) and between[-1] not in "+-*/=<>^|&"
    return False

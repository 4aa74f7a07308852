"""What becomes of a source's rows, how long prompts, teachers and answers are, and examples; no policy is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from hapo_lit.data.collate import PROMPT_TOO_LONG, READS_OTHERWISE, TEACHER_READS_OTHERWISE, EncodedProblem, encode
from hapo_lit.data.corpus import CachedCorpus, Corpus
from hapo_lit.data.filters import fingerprint64
from hapo_lit.data.outcomes import HELD_OUT, KEPT, nothing_left
from hapo_lit.data.problems import HasNotes, Problem, ProblemSource, problem_of
from hapo_lit.data.reader import Origin, Position, RawRow, Reader, Unreadable
from hapo_lit.data.teachers import SAME_LETTERS, TeacherCheck, unread_references
from hapo_lit.data.templates import Template
from hapo_lit.data.tokens import TextEncoder, too_long, unknown_warning
from hapo_lit.errors import one_line
from hapo_lit.protocols import Verifier

STREAM_ROWS = 20_000
"""How many rows of a stream are read; a source that is not streamed is read to its end."""
EXAMPLES = 1000
"""How many problems have their teachers judged."""
CHUNK = 256
"""Prompts tokenised at once."""
UNREAD_SHOWN = 5
"""How many references that cannot be read are printed."""


class Example(NamedTuple):
    """A training problem that was encoded."""

    problem: Problem
    source: str
    """Where the data set says that the problem comes from; may be empty."""
    encoded: EncodedProblem


class Inspection(NamedTuple):
    """What was found in a source."""

    rows: Counter[str]
    """Rows by what became of them."""
    prompt_tokens: list[int]
    """The length of every training problem's prompt."""
    teacher_tokens: list[int]
    """The length of each example's solution with its end-of-sequence token, whether or not it fits."""
    answer_characters: list[int]
    """The length of every training problem's answer."""
    examples: list[Example]
    """Training problems with prompts that fit, chosen at random if there are more than :data:`EXAMPLES`."""
    stopped: bool
    """Whether a stream was left after :data:`STREAM_ROWS` rows."""
    notes: list[str]
    """What a run would say of the data besides."""
    lacks_heldout: bool
    """Whether the problems to hold out should be among the rows, and none is."""


def inspect(
    source: ProblemSource | Corpus,
    tokenizer: Any,
    template: Template,
    teacher_check: TeacherCheck,
    max_prompt_tokens: int,
    max_response_tokens: int,
    seed: int,
) -> Inspection:
    """Read a source as a run would.

    Duplicates are counted over all that is read; a run on a stream drops those within a block only.

    Args:
        source, tokenizer, template, teacher_check, max_prompt_tokens, max_response_tokens: as those of
            :class:`~hapo_lit.data.datamodule.MathDataModule`.
        seed: of the choice of examples.

    Raises:
        ValueError: no row is left; the message says what became of the rows.
    """
    rows: Counter[str] = Counter()
    prompts, answers, sample = list[int](), list[int](), _Sample(seed)
    encoder = TextEncoder(tokenizer, template)
    pairs = _training_problems(source, rows)
    while chunk := list(islice(pairs, CHUNK)):
        ids = encoder.prompts([problem.problem for problem, _ in chunk])
        prompts += [len(tokens) for tokens in ids]
        answers += [len(problem.answer) for problem, _ in chunk]
        for pair, tokens in zip(chunk, ids, strict=True):
            if len(tokens) <= max_prompt_tokens:
                sample.add(pair)
            else:
                rows[KEPT] -= 1
                rows[PROMPT_TOO_LONG] += 1
    if not sample.pairs:
        corpus = _corpus(source)
        said = corpus.nothing_left(rows) if corpus else f"{source_name(source)}: {nothing_left(rows)}"
        raise ValueError(said + (f"; {too_long(prompts, tokenizer, max_prompt_tokens)}" if prompts else ""))
    chosen = [problem for problem, _ in sample.pairs]
    tally: Counter[str] = Counter()
    encoded = encode(chosen, tokenizer, template, teacher_check, max_prompt_tokens, max_response_tokens, tally)
    teachers = encoder.responses([encoder.without_end(problem.solution) for problem in chosen if problem.solution])
    corpus = _corpus(source)
    notes = [line for part in (corpus, teacher_check) if isinstance(part, HasNotes) for line in part.notes()]
    if changed := tally[TEACHER_READS_OTHERWISE]:
        notes.append(f"{changed:,} {READS_OTHERWISE}")
    return Inspection(
        rows,
        prompts,
        [len(tokens) + 1 for tokens in teachers],
        answers,
        [Example(problem, origin, item) for (problem, origin), item in zip(sample.pairs, encoded, strict=True)],
        stopped=isinstance(source, Corpus) and rows.total() == STREAM_ROWS,
        notes=[*notes, *unknown_warning([item.tokens for item in encoded], tokenizer)],
        lacks_heldout=corpus is not None and corpus.heldout_reader is None and not rows[HELD_OUT],
    )


def unread_warning(verifier: Verifier, answers: Sequence[str]) -> str:
    """A line on reference answers that the verifier cannot read, with some of them; empty if there are none."""
    unread = unread_references(verifier, answers)
    if not unread:
        return ""
    some = ", ".join(repr(one_line(answer, 60)) for answer in sorted(set(unread), key=len)[:UNREAD_SHOWN])
    return f"warning: {len(unread):,} of {len(answers):,} reference answers cannot be read ({some}): {SAME_LETTERS}"


def source_name(source: ProblemSource | Corpus) -> str:
    """What a source reads: files, a data set, or the name of its class."""
    corpus = _corpus(source)
    return type(source).__name__ if corpus is None else corpus.reader.name


def _corpus(source: ProblemSource | Corpus) -> Corpus | None:
    """The corpus behind a source, if there is one."""
    if isinstance(source, CachedCorpus):
        return source.corpus
    return source if isinstance(source, Corpus) else None


class _Sample:
    """Problems with their sources, each with the same probability (reservoir sampling)."""

    def __init__(self, seed: int) -> None:
        self.pairs: list[tuple[Problem, str]] = []
        self._seen = 0
        self._generator = np.random.default_rng(seed)

    def add(self, pair: tuple[Problem, str]) -> None:
        self._seen += 1
        if len(self.pairs) < EXAMPLES:
            self.pairs.append(pair)
        elif (place := int(self._generator.integers(self._seen))) < EXAMPLES:
            self.pairs[place] = pair


def _training_problems(source: ProblemSource | Corpus, tally: Counter[str]) -> Iterator[tuple[Problem, str]]:
    """The training problems with their sources, each once; ``tally`` counts what became of all rows."""
    corpus = _corpus(source)
    if corpus is None:
        for problem in source.train():  # type: ignore[union-attr]
            tally[KEPT] += 1
            yield problem, ""
        return
    reader = _FirstRows(corpus.reader, STREAM_ROWS if isinstance(source, Corpus) else None)
    known = set[int]()
    for candidate, _ in corpus.candidates(reader, Position(), tally):
        key = fingerprint64(candidate.problem)
        outcome = corpus.outcome(key, known)
        tally[outcome] += 1
        if outcome == KEPT:
            known.add(key)
            yield problem_of(candidate), candidate.source


class _FirstRows:
    """Another reader's first ``limit`` rows, or all where it is None, with a progress bar."""

    def __init__(self, reader: Reader, limit: int | None) -> None:
        self.reader, self.limit, self.name = reader, limit, reader.name

    def rows(self, start: Position) -> Iterator[tuple[RawRow | Unreadable, Origin, Position]]:
        rows = islice(self.reader.rows(start), self.limit)
        bar = Console(stderr=True)
        yield from track(rows, "reading rows", self.limit, transient=True, console=bar, disable=not bar.is_terminal)

    def require(self, columns: Sequence[str]) -> None:
        self.reader.require(columns)

    def fingerprint(self) -> str:
        return self.reader.fingerprint()

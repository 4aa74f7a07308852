"""The training problems in the order of a run: held in memory, read from a file when needed, or streamed.

Each of the three classes is a :class:`TrainingSet`; :class:`~hapo_lit.data.datamodule.MathDataModule` chooses one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import count
from typing import NamedTuple, Protocol

import numpy as np
from rich.progress import track

from hapo_lit.data.collate import PROMPT_TOO_LONG, EncodedProblem, fingerprint
from hapo_lit.data.corpus import Corpus
from hapo_lit.data.ordering import BlockShuffler, Cursor, EpochShuffler
from hapo_lit.data.problems import Problem
from hapo_lit.errors import PartError

Encode = Callable[[Sequence[Problem], Counter[str]], list[EncodedProblem]]
"""Encodes problems and counts their outcomes."""
Fits = Callable[[Sequence[Problem]], list[bool]]
"""Which of some problems have a prompt that is short enough."""

DESCRIBED_TEACHERS = 1000
"""How many solutions of a set in memory are described."""
DESCRIBED_PROBLEMS = 256
"""How many problems of a larger set are described."""
CHUNK = 1000
"""How many prompts are measured at once."""


class Description(NamedTuple):
    """What is reported of a training set before training starts."""

    teachers: list[Problem]
    """Problems with a solution, not too many to judge them all."""
    tally: Counter[str]
    """Problems by their outcomes."""
    encoded: int
    """How many problems were encoded for ``tally``."""


class TrainingSet(Protocol):
    """Training problems in the order of a run."""

    size: int
    """How many problems there are; 0 = not known."""
    duplicates: int
    """How many problems were left out because another one has the same prompt."""
    start: Cursor

    def batches(
        self, cursor: Cursor, part: slice, worker: int = 0, workers: int = 1
    ) -> Iterator[tuple[list[EncodedProblem], Cursor]]:
        """Batches from ``cursor`` on without end, each as the problems in its ``part`` and the cursor after it.

        Of ``workers`` loader processes each makes every ``workers``-th batch, beginning with its own number.
        """

    def difficulties(self) -> Counter[str]:
        """How often each label of difficulty occurs, in all problems or in the first ones."""

    def describe(self) -> Description:
        """What all problems are like, or the first ones where there are too many."""

    def fingerprint(self) -> str:
        """Changes when the problems do."""


class _Indexed(ABC):
    """A set whose size is known: every epoch is a permutation of its problems."""

    def __init__(self, size: int, per_batch: int, seed: int, too_long: int, limits: str) -> None:
        self.size = size
        if size < per_batch and too_long:
            raise ValueError(
                f"prompts_per_step={per_batch}, but only {size} training problems are left: {too_long} prompts are too "
                f"long ({limits}); raise max_prompt_tokens or lower prompts_per_step"
            )
        self.ordering = EpochShuffler(size, per_batch, seed)
        self.start = self.ordering.start

    @abstractmethod
    def select(self, indices: Iterable[int]) -> list[EncodedProblem]:
        """The encoded problems at these indices."""

    def batches(
        self, cursor: Cursor, part: slice, worker: int = 0, workers: int = 1
    ) -> Iterator[tuple[list[EncodedProblem], Cursor]]:
        for index in count(cursor[0] + worker, workers):
            yield self.select(self.ordering.indices(index)[part]), (index + 1,)


class InMemorySet(_Indexed):
    """Problems that are all encoded at once.

    Args:
        problems: all problems.
        encode: encodes them; those that are too long are left out.
        per_batch: problems in a batch.
        seed: of the order.
        limits: the tokenizer and the limits, for messages.
        repeats: True = a problem may be there several times, and then also in a batch; otherwise the first counts.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        encode: Encode,
        per_batch: int,
        seed: int,
        repeats: bool = False,
        limits: str = "",
    ) -> None:
        self.tally: Counter[str] = Counter()
        for problem in problems:
            if not isinstance(problem, Problem):
                raise PartError(f"data.source.train must return {Problem.__module__}.Problem, and returned {problem!r}")
        kept = range(len(problems)) if repeats else _firsts(problem.prompt_id for problem in problems)
        self.duplicates = len(problems) - len(kept)
        problems = [problems[index] for index in kept]
        self.teachers = [problem for problem in problems if problem.solution][:DESCRIBED_TEACHERS]
        self.items = encode(problems, self.tally)
        super().__init__(len(self.items), per_batch, seed, self.tally[PROMPT_TOO_LONG], limits)

    def select(self, indices: Iterable[int]) -> list[EncodedProblem]:
        return [self.items[index] for index in indices]

    def difficulties(self) -> Counter[str]:
        return Counter(item.difficulty for item in self.items)

    def describe(self) -> Description:
        return Description(self.teachers, self.tally, len(self.items))

    def fingerprint(self) -> str:
        return fingerprint(self.items)


class OnDemandSet(_Indexed):
    """Problems in a file that are read and encoded when a batch needs them.

    Problems whose prompt is too long, or is that of an earlier problem, are left out; to find them, all problems are
    read once at the start.

    Args:
        problems: all problems, read at an index.
        source_fingerprint: of what they were read from.
        fits, encode: measure and encode problems.
        per_batch: problems in a batch.
        seed: of the order.
        limits: the tokenizer and the limits, for messages.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        source_fingerprint: str,
        fits: Fits,
        encode: Encode,
        per_batch: int,
        seed: int,
        limits: str = "",
    ) -> None:
        self.problems, self.source_fingerprint, self.encode = problems, source_fingerprint, encode
        starts = range(0, len(problems), CHUNK)
        shown = track(starts, "measuring prompts", transient=True, disable=len(starts) < 10)
        within, prompts = list[bool](), list[int]()
        for start in shown:
            chunk = problems[start : start + CHUNK]
            within += fits(chunk)
            prompts += [problem.prompt_id for problem in chunk]
        firsts = np.zeros(len(prompts), dtype=bool)
        firsts[_firsts(prompts)] = True
        self.kept = np.flatnonzero(firsts & within)
        """The indices of the problems that are not left out."""
        self.duplicates = int((~firsts).sum())
        self.too_long = int(firsts.sum()) - len(self.kept)
        super().__init__(len(self.kept), per_batch, seed, self.too_long, limits)

    def _problems_at(self, indices: Iterable[int]) -> list[Problem]:
        return [self.problems[int(self.kept[index])] for index in indices]

    def select(self, indices: Iterable[int]) -> list[EncodedProblem]:
        return self.encode(self._problems_at(indices), Counter())

    @cached_property
    def _first(self) -> list[Problem]:
        return self._problems_at(range(min(DESCRIBED_PROBLEMS, self.size)))

    def difficulties(self) -> Counter[str]:
        return Counter(problem.difficulty for problem in self._first)

    def describe(self) -> Description:
        return _described(self._first, self.encode, Counter({PROMPT_TOO_LONG: self.too_long}))

    def fingerprint(self) -> str:
        return self.source_fingerprint


class StreamedSet:
    """Problems of a data set of unknown size, shuffled block by block.

    Args:
        corpus: is streamed.
        fits, encode: measure and encode problems.
        per_batch: problems in a batch.
        buffer: problems in a block.
        seed: of the order.
        limits: the tokenizer and the limits, for messages.
    """

    size = 0
    duplicates = 0

    def __init__(
        self,
        corpus: Corpus,
        fits: Fits,
        encode: Encode,
        per_batch: int,
        buffer: int,
        seed: int,
        limits: str = "",
    ) -> None:
        self.corpus, self.encode = corpus, encode
        self.ordering = BlockShuffler(corpus, fits, per_batch, buffer, seed, limits)
        self.start = self.ordering.start

    def batches(
        self, cursor: Cursor, part: slice, worker: int = 0, workers: int = 1
    ) -> Iterator[tuple[list[EncodedProblem], Cursor]]:
        for number, (problems, after) in enumerate(self.ordering.batches(cursor)):
            if number % workers == worker:
                yield self.encode(problems[part], Counter()), after

    @cached_property
    def _first(self) -> list[Problem]:
        """The problems of the first batches, at most those of an epoch."""
        first: list[Problem] = []
        for problems, (epoch, *_) in self.ordering.batches(self.start):
            if epoch:
                break
            first += problems
            if len(first) >= DESCRIBED_PROBLEMS:
                break
        return first

    def difficulties(self) -> Counter[str]:
        return Counter(problem.difficulty for problem in self._first)

    def describe(self) -> Description:
        return _described(self._first, self.encode, Counter())

    def fingerprint(self) -> str:
        return self.corpus.fingerprint()


def _firsts(prompts: Iterable[int]) -> list[int]:
    """The indices at which a prompt occurs for the first time."""
    found: dict[int, int] = {}
    for index, prompt in enumerate(prompts):
        found.setdefault(prompt, index)
    return list(found.values())


def _described(problems: list[Problem], encode: Encode, tally: Counter[str]) -> Description:
    encoded = len(encode(problems, tally))
    return Description([problem for problem in problems if problem.solution], tally, encoded)

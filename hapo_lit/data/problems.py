"""A problem in NuminaMath's fields, and where problems come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from hapo_lit.data.schemas import Candidate
from hapo_lit.numerics.hashing import stable_int


@dataclass(frozen=True)
class Problem:
    """One problem with the teacher's solution."""

    problem: str
    """The question."""
    solution: str
    """The teacher's worked solution, ending in ``\\boxed{answer}``; empty = no teacher."""
    answer: str
    """The reference answer."""
    others: tuple[str, ...] = ()
    """Further solutions, which may become the teacher instead of the first."""
    difficulty: str = ""
    """A label by which rewards are told apart, such as ``4-digit``; empty = none."""

    @property
    def prompt_id(self) -> int:
        """63-bit hash of the question: the same in every epoch, rank and run."""
        return stable_int(self.problem.strip()) >> 1


class ProblemSource(Protocol):
    """Where problems come from."""

    def train(self) -> Sequence[Problem]:
        """The training problems."""

    def heldout(self) -> Sequence[Problem]:
        """The problems that the policy is evaluated on; none of them is in ``train``."""

    def report(self) -> dict[str, int]:
        """What became of the rows that were read; empty for a source that drops none."""


def problem_of(candidate: Candidate) -> Problem:
    """A candidate as a problem."""
    first, *others = candidate.solutions or ("",)
    label = candidate.level or candidate.source
    return Problem(candidate.problem, first, candidate.answer, tuple(others), label)


@runtime_checkable
class HasNotes(Protocol):
    """A part of the data that may have something to say before a run."""

    def notes(self) -> list[str]:
        """A line each."""

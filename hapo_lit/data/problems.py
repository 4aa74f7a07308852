"""A problem in NuminaMath's fields, and where problems come from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


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
    """Further solutions, for when the first may not be used."""
    difficulty: str = ""
    """A label by which rewards are told apart, such as ``4-digit``; empty = none."""

    @property
    def prompt_id(self) -> int:
        """63-bit hash of the question: the same in every epoch, rank and run."""
        digest = hashlib.blake2b(self.problem.strip().encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1


class ProblemSource(Protocol):
    """Where problems come from."""

    def train(self) -> Sequence[Problem]:
        """What the policy trains on."""

    def heldout(self) -> Sequence[Problem]:
        """What it is judged on; shares no problem with ``train``."""

    def report(self) -> dict[str, int]:
        """How many rows were dropped for which reason, for sources that drop any."""

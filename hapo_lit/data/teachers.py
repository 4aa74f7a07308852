"""Which teacher solutions may be used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hapo_lit.data.problems import Problem
from hapo_lit.protocols import Verifier


class TeacherCheck(Protocol):
    def __call__(self, problems: Sequence[Problem]) -> list[float]:
        """The reward of each problem's solution; 0 = must not be used."""


class VerifiedTeachers:
    """A solution earns what the verifier gives it against the problem's answer."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier

    def __call__(self, problems: Sequence[Problem]) -> list[float]:
        verdicts = self.verifier([p.solution for p in problems], [p.answer for p in problems])
        rewards: list[float] = verdicts.tolist()
        return rewards


class TrustedTeachers:
    """Every solution there is counts as right: for experiments with teachers that err, and for clean sources."""

    def __call__(self, problems: Sequence[Problem]) -> list[float]:
        return [1.0 if problem.solution else 0.0 for problem in problems]

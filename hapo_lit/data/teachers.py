"""Teacher checks: which teacher solutions may be used, and what they earn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from hapo_lit.data.problems import Problem
from hapo_lit.numerics.hashing import stable_hash
from hapo_lit.protocols import Verifier
from hapo_lit.storage.appended_files import AppendedFiles
from hapo_lit.storage.cache_key import cache_key

VERDICT_LIBRARIES = ("sympy", "latex2sympy2_extended", "math-verify")
"""What decides verdicts besides the verifier's own code."""


class TeacherCheck(Protocol):
    def __call__(self, problems: Sequence[Problem]) -> list[float]:
        """The reward of each problem's solution; 0 = it must not be used."""


class VerifiedTeachers:
    """A solution's reward is the verifier's verdict on it, given the problem's answer."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier

    def __call__(self, problems: Sequence[Problem]) -> list[float]:
        solutions, answers = [problem.solution for problem in problems], [problem.answer for problem in problems]
        verdicts = self.verifier(solutions, answers)
        rewards: list[float] = verdicts.tolist()
        return rewards


class TrustedTeachers:
    """Every solution counts as right: for sources without mistakes, or to experiment with teachers that make some."""

    def __call__(self, problems: Sequence[Problem]) -> list[float]:
        return [1.0 if problem.solution else 0.0 for problem in problems]


class CachedTeachers:
    """Another check, whose *accepting* verdicts are kept on disk.

    They are kept for this check and everything that it was made from (:mod:`hapo_lit.storage.cache_key`), by problem,
    solution and answer.  Rejections are not kept, since a missed deadline may have caused them.  Processes, also those
    of several machines, may share the folder.

    Args:
        check: gives the verdicts that are not kept.
        path: folder of the verdicts.
    """

    def __init__(self, check: TeacherCheck, path: str) -> None:
        self.check = check
        key, self.unknown = cache_key({"check": check}, VERDICT_LIBRARIES)
        self._kept = None if self.unknown else AppendedFiles(Path(path).expanduser() / key)

    def __call__(self, problems: Sequence[Problem]) -> list[float]:
        if self._kept is None:
            return self.check(problems)
        keys = [_key(problem) for problem in problems]
        known = self._kept.values()
        unknown = {key: problem for key, problem in zip(keys, problems, strict=True) if key not in known}
        fresh = dict(zip(unknown, self.check(list(unknown.values())), strict=True)) if unknown else {}
        self._kept.add({key: reward for key, reward in fresh.items() if reward > 0})
        return [fresh[key] if key in fresh else known[key] for key in keys]

    def notes(self) -> list[str]:
        """Why no verdict is kept, if so."""
        return [f"verdicts on teachers are not kept: {self.unknown} has no source file to hash"] if self.unknown else []


def _key(problem: Problem) -> str:
    parts = (problem.problem, problem.solution, problem.answer, problem.difficulty)
    return stable_hash("\0".join(parts), 16).hex()

"""Teacher checks: which teacher solutions may be used, and what they earn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from hapo_lit.contracts import check_part
from hapo_lit.data.problems import Problem
from hapo_lit.numerics.hashing import stable_hash
from hapo_lit.protocols import ReadsReferences, Verifier
from hapo_lit.rows import Judgement, Questions
from hapo_lit.storage.appended_files import AppendedFiles
from hapo_lit.storage.cache_key import cache_key
from hapo_lit.verify.judging import judge, judged

VERDICT_LIBRARIES = ("sympy", "latex2sympy2_extended", "math-verify")
"""What decides verdicts besides the verifier's own code."""
REFERENCES_UNREAD = "references_unread"
"""Name of the count of reference answers that the verifier cannot read."""
SAME_LETTERS = "a response is right only if it has the same letters"
"""What that means for them."""


class TeacherCheck(Protocol):
    def __call__(self, problems: Sequence[Problem]) -> Judgement:
        """Which problems' solutions may be used (``successes``), and what they earn.

        A tensor of rewards alone will do: then a solution may be used that earns exactly 1.
        """


class VerifiedTeachers:
    """A solution may be used if the verifier calls it right, given the problem's answer."""

    def __init__(self, verifier: Verifier) -> None:
        check_part("verifier", verifier, Verifier)
        self.verifier = verifier

    def __call__(self, problems: Sequence[Problem]) -> Judgement:
        return judge(self.verifier, [problem.solution for problem in problems], questions_of(problems))


class TrustedTeachers:
    """Every solution counts as right: for sources without mistakes, or to experiment with teachers that make some."""

    def __call__(self, problems: Sequence[Problem]) -> Judgement:
        there = torch.tensor([bool(problem.solution) for problem in problems], dtype=torch.bool)
        return Judgement(there.float(), there)


def questions_of(problems: Sequence[Problem]) -> Questions:
    """What the problems' solutions answer."""
    return Questions(
        answers=[problem.answer for problem in problems],
        problems=[problem.problem for problem in problems],
        prompt_ids=[problem.prompt_id for problem in problems],
        difficulties=[problem.difficulty for problem in problems],
    )


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
        check_part("teacher_check", check, TeacherCheck)
        self.check = check
        key, self.unknown = cache_key({"check": check}, VERDICT_LIBRARIES)
        self._kept = None if self.unknown else AppendedFiles(Path(path).expanduser() / key)

    def __call__(self, problems: Sequence[Problem]) -> Judgement:
        if self._kept is None:
            return judged(self.check, self.check(problems), len(problems))
        keys = [_key(problem) for problem in problems]
        known = self._kept.values()
        unknown = {key: problem for key, problem in zip(keys, problems, strict=True) if key not in known}
        verdicts = {key: (known[key], True) for key in keys if key in known}
        if unknown:
            fresh = judged(self.check, self.check(list(unknown.values())), len(unknown))
            pairs = zip(fresh.rewards.tolist(), fresh.successes.tolist(), strict=True)
            verdicts |= dict(zip(unknown, pairs, strict=True))
        self._kept.add({key: verdicts[key][0] for key in unknown if verdicts[key][1]})
        return Judgement(
            torch.tensor([verdicts[key][0] for key in keys], dtype=torch.float32),
            torch.tensor([verdicts[key][1] for key in keys], dtype=torch.bool),
        )

    def notes(self) -> list[str]:
        """Why no verdict is kept, if so."""
        return [f"verdicts on teachers are not kept: {self.unknown} has no source file to hash"] if self.unknown else []


def _key(problem: Problem) -> str:
    parts = (problem.problem, problem.solution, problem.answer, problem.difficulty)
    return stable_hash("\0".join(parts), 16).hex()


def unread_references(verifier: Verifier, answers: Sequence[str]) -> list[str]:
    """The reference answers that a verifier cannot read; none where it does not say."""
    if not isinstance(verifier, ReadsReferences):
        return []
    return [answer for answer, read in zip(answers, verifier.can_read(answers), strict=True) if not read]

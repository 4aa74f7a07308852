"""Teacher checks: which teacher solutions may be used, and what they earn."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from hapo_lit.data.problems import Problem
from hapo_lit.numerics.hashing import stable_hash
from hapo_lit.protocols import Verifier


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
    """Another check, whose *accepting* verdicts are kept on disk under a hash of check, solution and answer.

    Rejections are not kept, since a missed deadline may have caused them.  Several processes may share the file.

    Args:
        check: gives the verdicts that are not in the file.
        path: of an SQLite file.
    """

    def __init__(self, check: TeacherCheck, path: str) -> None:
        self.check, self.path = check, Path(path).expanduser()
        verifier = getattr(check, "verifier", None)
        self.name = f"{type(check).__name__}:{type(verifier).__name__}:{getattr(verifier, 'fingerprint', '')}"
        self._connection: sqlite3.Connection | None = None
        self._owner = 0

    def __call__(self, problems: Sequence[Problem]) -> list[float]:
        keys = [self._key(problem) for problem in problems]
        known = self._known(keys)
        unknown = {key: problem for key, problem in zip(keys, problems, strict=True) if key not in known}
        fresh = dict(zip(unknown, self.check(list(unknown.values())), strict=True)) if unknown else {}
        if accepted := [(key, reward) for key, reward in fresh.items() if reward > 0]:
            with self._connected() as database:
                database.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", accepted)
        return [fresh[key] if key in fresh else known[key] for key in keys]

    def _key(self, problem: Problem) -> bytes:
        return stable_hash("\0".join((self.name, problem.solution, problem.answer)), 16)

    def _known(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        """The verdicts in the file; 500 keys are asked for at once, as SQLite limits the length of a query."""
        found: dict[bytes, float] = {}
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            query = f"SELECT * FROM verdicts WHERE key IN ({','.join('?' * len(part))})"
            found |= dict(self._connected().execute(query, part).fetchall())
        return found

    def _connected(self) -> sqlite3.Connection:
        """The connection of this process; a forked process needs one of its own."""
        if self._connection is None or self._owner != os.getpid():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection, self._owner = sqlite3.connect(self.path, timeout=60), os.getpid()
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("CREATE TABLE IF NOT EXISTS verdicts (key BLOB PRIMARY KEY, reward REAL)")
        return self._connection

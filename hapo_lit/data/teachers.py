"""Which teacher solutions may be used."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
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


class CachedTeachers:
    """Another check whose *accepting* verdicts are kept on disk, by the content of solution and answer and by what
    accepted them.

    Rejections are not kept: one may have been a deadline that was missed.  Several processes may share the file; what
    one has verified, all have.

    Args:
        check: the check.
        path: an SQLite file.
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
        asked = {key: problem for key, problem in zip(keys, problems, strict=True) if key not in known}
        fresh = dict(zip(asked, self.check(list(asked.values())), strict=True)) if asked else {}
        if accepted := [(key, reward) for key, reward in fresh.items() if reward > 0]:
            with self._open() as database:
                database.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", accepted)
        return [fresh[key] if key in fresh else known[key] for key in keys]

    def _key(self, problem: Problem) -> bytes:
        text = "\0".join((self.name, problem.solution, problem.answer))
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    def _known(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        found: dict[bytes, float] = {}
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            query = f"SELECT * FROM verdicts WHERE key IN ({','.join('?' * len(part))})"
            found |= dict(self._open().execute(query, part).fetchall())
        return found

    def _open(self) -> sqlite3.Connection:
        """The connection of this process: one must not be carried over a fork."""
        if self._connection is None or self._owner != os.getpid():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection, self._owner = sqlite3.connect(self.path, timeout=60), os.getpid()
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("CREATE TABLE IF NOT EXISTS verdicts (key BLOB PRIMARY KEY, reward REAL)")
        return self._connection

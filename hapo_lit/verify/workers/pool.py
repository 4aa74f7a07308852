"""A pool of killable worker processes that compare untrusted answers."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from hapo_lit.errors import VerifierError, one_line
from hapo_lit.numerics.ranges import check_count, check_positive
from hapo_lit.verify.workers import after_fork
from hapo_lit.verify.workers.fork_server import ServerLost
from hapo_lit.verify.workers.group import Outcome, WorkerGroup
from hapo_lit.verify.workers.messages import Comparer

MOST_WORKERS = 256
LEAST_MIB = 64
"""Below this a worker cannot even start."""


class Pool:
    """Compares pairs in worker processes, which start at the first call.

    Any thread may call it, one is served at a time; a forked process, or a copy by pickle, starts workers of its own.

    Args:
        comparer: what the workers do.
        workers: how many processes.
        cpu_seconds: CPU time for one pair, of all threads together.
        seconds: deadline of one pair by the wall clock, from its dispatch.
        memory_mib: address space of one worker.
    """

    def __init__(
        self,
        comparer: Comparer,
        workers: int = 1,
        cpu_seconds: float = 1.0,
        seconds: float = 10.0,
        memory_mib: int = 2048,
    ) -> None:
        check_count("workers", workers, most=MOST_WORKERS)
        check_count("memory_mib", memory_mib, least=LEAST_MIB)
        for name, value in (("cpu_seconds", cpu_seconds), ("seconds", seconds)):
            check_positive(name, value)
        self.kills = 0
        """Workers lost since the start."""
        self._settings = (comparer, workers, cpu_seconds, seconds, memory_mib)
        self._group: WorkerGroup | None = None
        self._lock = threading.RLock()
        after_fork.register(self)

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Outcome]:
        """One outcome for each ``(gold, answer)``, in order.

        A fork server that somebody kills or stops is replaced once, and what it had left is done by the other.

        Raises:
            VerifierError: workers cannot start, or are lost again; the message says what to do.
        """
        outcomes: dict[int, Outcome] = {}
        with self._lock:
            for replaced in (False, True):
                if len(outcomes) == len(pairs):
                    break
                try:
                    self._compare(pairs, outcomes)
                except ServerLost as error:
                    if replaced:
                        raise VerifierError(
                            "the fork server of the verifier's workers was lost twice in a row, the second time "
                            f"{one_line(str(error))}; if memory is short or limited (`ulimit -v`, a job's limit), "
                            "lower verifier.workers or verifier.memory_mib, or give the process more"
                        ) from error
        return [outcomes[index] for index in range(len(pairs))]

    def _compare(self, pairs: Sequence[tuple[str, str]], outcomes: dict[int, Outcome]) -> None:
        group, self._group = self._group or WorkerGroup(*self._settings), None
        try:
            group.compare(pairs, outcomes)
        except BaseException:  # an interrupt too: what is under way must not answer a later call
            group.close()
            raise
        finally:
            self.kills, group.lost = self.kills + group.lost, 0
        self._group = group

    def close(self) -> None:
        """End all processes; the next ``compare`` starts new ones."""
        with self._lock:
            group, self._group = self._group, None
            if group is not None:
                group.close()

    def forget(self) -> None:
        """In a forked process: the workers are the parent's, and so is the thread that may hold the lock."""
        self._group, self._lock = None, threading.RLock()

    def __reduce__(self) -> tuple[type[Pool], tuple[Comparer, int, float, float, int]]:
        return type(self), self._settings

"""A fork server and its workers: who works on which pair, and until when."""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import selectors
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hapo_lit.errors import VerifierError, one_line
from hapo_lit.verify.workers import after_fork
from hapo_lit.verify.workers.fork_server import ForkServer, ending
from hapo_lit.verify.workers.messages import CODEC, READY, TASK, Code, Comparer

START_SECONDS = 120.0
"""A worker that is not ready by then cannot start.  No deadline of a pair runs meanwhile."""
FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM)
"""No answer ends its worker by these: the system that is short of memory does, a user, or a job's end."""
MOST_LOST_STARTS = 3
"""So many workers in a row may be lost to these signals before they are ready."""

SCARCE = frozenset([errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
"""What the system says when it has no process, file or memory left for a worker."""


class Outcome(NamedTuple):
    code: Code
    seconds: float
    """By the wall clock, from dispatch to the reply or to the end of the worker."""


class Worker:
    """The parent's end of a worker, which is starting, then by turns idle and busy with the pair ``index``."""

    def __init__(self, number: int, pipe: socket.socket) -> None:
        self.number, self.pipe, self.ready = number, pipe, False
        self.index: int | None = None
        self.since = time.monotonic()
        self.deadline = self.since + START_SECONDS

    def set_idle(self) -> None:
        self.ready, self.index, self.deadline = True, None, math.inf

    def send(self, index: int, pair: tuple[str, str], seconds: float) -> None:
        """Hand it a pair; OSError if it is gone, or does not read."""
        gold, answer = (text.encode(*CODEC) for text in pair)
        self.index, self.since = index, time.monotonic()
        self.deadline = self.since + seconds
        self.pipe.sendall(TASK.pack(len(gold), len(answer)) + gold + answer)


class WorkerGroup:
    """Compares pairs for a :class:`~hapo_lit.verify.workers.pool.Pool`, which throws it away after any exception.

    Its methods raise ServerLost, and VerifierError where workers cannot start.

    Args: those of the pool.
    """

    def __init__(self, comparer: Comparer, workers: int, cpu_seconds: float, seconds: float, memory_mib: int) -> None:
        self.size, self.seconds, self.lost, self.lost_starts = workers, seconds, 0, 0
        self.workers: list[Worker] = []
        self.numbers, self.selector = itertools.count(), selectors.PollSelector()
        with _says_what_is_scarce():
            self.server = ForkServer(comparer, cpu_seconds, memory_mib)
        after_fork.register(self)

    def compare(self, pairs: Sequence[tuple[str, str]], outcomes: dict[int, Outcome]) -> None:
        """Add the outcome of each pair that has none, under its place."""
        waiting = [index for index in range(len(pairs)) if index not in outcomes][::-1]
        again: set[int] = set()  # pairs whose first worker was lost through no fault of theirs

        def settle(worker: Worker, code: Code | None) -> None:
            """None: the pair did not end its worker."""
            assert worker.index is not None
            if code is None and worker.index not in again:
                again.add(worker.index)
                waiting.append(worker.index)
            else:
                seconds = time.monotonic() - worker.since
                outcomes[worker.index] = Outcome(Code.DIED if code is None else code, seconds)

        patience = 0.0
        while len(outcomes) < len(pairs):
            while len(self.workers) < min(self.size, len(pairs) - len(outcomes)):
                self.spawn()
            for key, _ in self.selector.select(patience):
                worker: Worker = key.data
                if worker.index is None:
                    self.handshake(worker)
                else:
                    settle(worker, self.recv(worker))
                    worker.set_idle()
            for worker in [worker for worker in self.workers if worker.deadline <= time.monotonic()]:
                self.kill(worker)
                if worker.index is None:
                    raise VerifierError(
                        f"a worker of the verifier was not ready after {START_SECONDS:.0f} s: the machine is too busy, "
                        f"or short of memory; lower verifier.workers"
                    )
                settle(worker, Code.TIMEOUT)
            for worker in [worker for worker in self.workers if worker.deadline == math.inf]:
                if waiting:
                    try:
                        index = waiting.pop()
                        worker.send(index, pairs[index], self.seconds)
                    except OSError:
                        self.kill(worker)
                        settle(worker, None)
            nearest = min((worker.deadline for worker in self.workers), default=0.0)
            patience = max(0.0, nearest - time.monotonic())

    def spawn(self) -> None:
        """Start a worker; it sends a message when it is ready."""
        with _says_what_is_scarce():
            ours, theirs = socket.socketpair()
        ours.settimeout(self.seconds)
        worker = Worker(next(self.numbers), ours)
        with theirs:
            self.server.fork(worker.number, theirs)
        self.workers.append(worker)
        self.selector.register(ours, selectors.EVENT_READ, worker)

    def handshake(self, worker: Worker) -> None:
        """Read from a worker that has no pair: it is ready, or gives the reason why it cannot start, or is gone."""
        said = b"" if worker.ready else worker.pipe.recv(4096)
        if said == READY:
            self.lost_starts = 0
            worker.set_idle()
            return
        exit_code = self.kill(worker)
        if worker.ready:
            return
        self.lost_starts += 1
        if said or -exit_code not in FROM_OUTSIDE or self.lost_starts == MOST_LOST_STARTS:
            cause = one_line(said.decode(errors="replace")) or f"a new one {ending(exit_code)}"
            raise VerifierError(f"the verifier's workers cannot start: {cause}")

    def recv(self, worker: Worker) -> Code | None:
        """The reply to its pair; None if it was lost and had not read it, or was ended from outside."""
        try:
            reply = worker.pipe.recv(1)
        except ConnectionResetError:  # on Linux: the other end was closed with bytes unread
            self.kill(worker)
            return None
        if reply:
            return Code(reply[0])
        ended_by = -self.kill(worker)
        if ended_by in FROM_OUTSIDE:
            return None
        return Code.TIMEOUT if ended_by in (signal.SIGPROF, signal.SIGXCPU) else Code.DIED

    def kill(self, worker: Worker) -> int:
        """End a worker, if it has not ended by itself; its exit code, negative for a signal."""
        self.lost += 1
        self.workers.remove(worker)
        self.selector.unregister(worker.pipe)
        worker.pipe.close()
        return self.server.end(worker.number)

    def close(self) -> None:
        """End all processes; in a forked process, no more than close this process's copies of the connections."""
        self.server.close()
        for worker in self.workers:
            worker.pipe.close()

    forget = close


@contextlib.contextmanager
def _says_what_is_scarce() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in SCARCE:
            raise
        raise VerifierError(
            f"the verifier's workers cannot start: {error}; raise the limit that `ulimit -a` shows, or lower "
            "verifier.workers"
        ) from error

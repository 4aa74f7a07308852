"""Killable worker processes that judge answers which nobody has checked.

A single answer can hold an interpreter for hours inside C code, where no alarm and no watchdog thread reaches it; it
can also fill the memory or crash.  So a judge works in processes of its own, under limits that the kernel enforces
(:mod:`~hapo_lit.verify.worker`), and the parent kills what still misses its deadline.  A worker replies with one byte,
never with a pickle.

The workers are forked by a process of the pool's own, which has imported what they need and nothing else: no thread,
no CUDA, no open file of the parent.  It ends, and its workers with it, when the parent does, however that happens.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import pickle
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

START_SECONDS = 120.0
"""A worker that is not ready by then cannot start.  No deadline of a pair runs meanwhile."""

ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "SYMPY_GROUND_TYPES": "python",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",  # the order of a set must not decide how long an answer takes
}

READY = b"\xff"
"""A worker's greeting; anything else is the reason why it cannot start."""
TASK = struct.Struct("!QQ")
"""Sizes of gold and answer in bytes; their texts follow."""
CODEC = ("utf-8", "surrogatepass")
REQUEST = struct.Struct("!q")
"""Number of a worker: to start if a pipe comes with it, else to end."""
REPORT = struct.Struct("!q")
"""How the worker ended: its exit code, negative for a signal."""


class Code(IntEnum):
    """What became of a pair.  Only EQUAL earns a reward."""

    NOT_EQUAL = 0
    EQUAL = 1
    UNPARSABLE = 2
    BAD_GOLD = 3
    TIMEOUT = 4
    DIED = 5


class Outcome(NamedTuple):
    code: Code
    seconds: float
    """By the wall clock, from dispatch to the reply or to the end of the worker."""


class Judge(Protocol):
    """What a worker does.  It is pickled to the workers, which must be able to import its module."""

    preload: tuple[str, ...]
    """Modules to import before the first worker is forked, so that a new one is ready at once."""

    def prepare(self) -> None:
        """Called once in each worker, before its memory is limited."""

    def __call__(self, gold: str, answer: str) -> Code:
        """An ``Exception`` means UNPARSABLE; a MemoryError, and what is no ``Exception``, end the worker: DIED."""
        ...


class Pool:
    """Judges pairs in worker processes, which start at the first call.

    Any thread may call it, one is served at a time; a forked process, or a copy by pickle, starts workers of its own.

    Args:
        workers: how many processes.
        cpu_seconds: CPU time for one pair, of all threads together.
        seconds: deadline of one pair by the wall clock, from its dispatch.
        memory_mib: address space of one worker.
    """

    def __init__(
        self, judge: Judge, workers: int = 1, cpu_seconds: float = 1.0, seconds: float = 10.0, memory_mib: int = 2048
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        for name, value in (("cpu_seconds", cpu_seconds), ("seconds", seconds), ("memory_mib", memory_mib)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self.kills = 0
        """Workers lost since the start."""
        self._settings = (judge, workers, cpu_seconds, seconds, memory_mib)
        self._crew: _Crew | None = None
        self._lock = threading.RLock()
        _ours.add(self)

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Outcome]:
        """One outcome for each ``(gold, answer)``, in order; RuntimeError if workers cannot start."""
        if not pairs:
            return []
        with self._lock:
            crew, self._crew = self._crew or _Crew(*self._settings), None
            try:
                outcomes = crew.compare(pairs)
            except BaseException:  # an interrupt too: what is under way must not answer a later call
                crew.close()
                raise
            finally:
                self.kills, crew.lost = self.kills + crew.lost, 0
            self._crew = crew
            return outcomes

    def close(self) -> None:
        """End all processes; the next ``compare`` starts new ones."""
        with self._lock:
            crew, self._crew = self._crew, None
            if crew is not None:
                crew.close()

    def forget(self) -> None:
        """In a forked process: the crew is the parent's, and so is the thread that may hold the lock."""
        self._crew, self._lock = None, threading.RLock()

    def __reduce__(self) -> tuple[type[Pool], tuple[Judge, int, float, float, int]]:
        return type(self), self._settings


class _Worker:
    """The parent's end of a worker, which is starting, then by turns idle and busy with the pair ``index``."""

    def __init__(self, number: int, pipe: socket.socket) -> None:
        self.number, self.pipe, self.ready = number, pipe, False
        self.index: int | None = None
        self.since = time.monotonic()
        self.deadline = self.since + START_SECONDS

    def rest(self) -> None:
        self.ready, self.index, self.deadline = True, None, math.inf

    def take(self, index: int, pair: tuple[str, str], seconds: float) -> None:
        """OSError if it is gone, or does not read."""
        gold, answer = (text.encode(*CODEC) for text in pair)
        self.index, self.since = index, time.monotonic()
        self.deadline = self.since + seconds
        self.pipe.sendall(TASK.pack(len(gold), len(answer)) + gold + answer)


class _Crew:
    """A fork server and its workers; thrown away whole after any exception."""

    def __init__(self, judge: Judge, workers: int, cpu_seconds: float, seconds: float, memory_mib: int) -> None:
        self.workers, self.seconds, self.lost = workers, seconds, 0
        self.team: list[_Worker] = []
        self.numbers, self.selector = itertools.count(), selectors.PollSelector()
        given = pickle.dumps((judge.preload, cpu_seconds, memory_mib)) + pickle.dumps(judge)
        self.control, theirs = socket.socketpair()
        with theirs:
            code = f"import sys; sys.path[:] = {[str(path) for path in sys.path]}; "
            code += f"from hapo_lit.verify.worker import serve; serve({theirs.fileno()})"
            self.server = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=[theirs.fileno()],
                env=os.environ | ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # the terminal's interrupt is the parent's to handle
            )
        self.close_server = weakref.finalize(self, _close, self.server, self.control, os.getpid())
        _ours.add(self)
        assert self.server.stdin is not None
        with contextlib.suppress(BrokenPipeError), self.server.stdin as pipe:  # dead: the first request will say so
            pipe.write(given)

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        waiting = list(range(len(pairs)))[::-1]
        again: set[int] = set()  # pairs whose first worker was lost before it had read them

        def settle(worker: _Worker, code: Code | None) -> None:
            """None: the worker had not read its pair."""
            assert worker.index is not None
            if code is None and worker.index not in again:
                again.add(worker.index)
                waiting.append(worker.index)
            else:
                seconds = time.monotonic() - worker.since
                outcomes[worker.index] = Outcome(Code.DIED if code is None else code, seconds)

        patience = 0.0
        while len(outcomes) < len(pairs):
            while len(self.team) < min(self.workers, len(pairs) - len(outcomes)):
                self.hire()
            for key, _ in self.selector.select(patience):
                worker: _Worker = key.data
                if worker.index is None:
                    self.greet(worker)
                else:
                    settle(worker, self.hear(worker))
                    worker.rest()
            for worker in [worker for worker in self.team if worker.deadline <= time.monotonic()]:
                if worker.index is None:
                    raise RuntimeError(f"a worker of the pool was not ready after {START_SECONDS:.0f} s")
                self.dismiss(worker)
                settle(worker, Code.TIMEOUT)
            for worker in [worker for worker in self.team if worker.deadline == math.inf]:
                if waiting:
                    try:
                        index = waiting.pop()
                        worker.take(index, pairs[index], self.seconds)
                    except OSError:
                        self.dismiss(worker)
                        settle(worker, None)
            nearest = min((worker.deadline for worker in self.team), default=0.0)
            patience = max(0.0, nearest - time.monotonic())
        return [outcomes[index] for index in range(len(pairs))]

    def hire(self) -> None:
        """Ask for a worker; it says itself when it is ready."""
        ours, theirs = socket.socketpair()
        ours.settimeout(self.seconds)
        worker = _Worker(next(self.numbers), ours)
        with theirs:
            self.ask(worker, [theirs.fileno()])
        self.team.append(worker)
        self.selector.register(ours, selectors.EVENT_READ, worker)

    def greet(self, worker: _Worker) -> None:
        """A worker without a task has something to say: that it is ready, why it never will be, or that it is gone."""
        said = b"" if worker.ready else worker.pipe.recv(4096)
        if said == READY:
            worker.rest()
            return
        exit_code = self.dismiss(worker)
        if not worker.ready:
            cause = said.decode(errors="replace") or f"it ended with exit code {exit_code}"
            raise RuntimeError(f"a worker of the pool could not start: {cause}")

    def hear(self, worker: _Worker) -> Code | None:
        """The reply to its task; None if it was lost and had not read it."""
        try:
            reply = worker.pipe.recv(1)
        except ConnectionResetError:  # how Linux says that the other end was closed over unread bytes
            self.dismiss(worker)
            return None
        if reply:
            return Code(reply[0])
        return Code.TIMEOUT if -self.dismiss(worker) in (signal.SIGPROF, signal.SIGXCPU) else Code.DIED

    def dismiss(self, worker: _Worker) -> int:
        """End a worker, if it has not ended by itself; its exit code, negative for a signal."""
        self.lost += 1
        self.team.remove(worker)
        self.selector.unregister(worker.pipe)
        worker.pipe.close()
        return int(REPORT.unpack(self.ask(worker, []))[0])

    def ask(self, worker: _Worker, pipes: list[int]) -> bytes:
        """Request a worker with this end of its pipe, or without one the report of its end."""
        try:
            socket.send_fds(self.control, [REQUEST.pack(worker.number)], pipes)
            if pipes:
                return b""
            if report := self.control.recv(REPORT.size):
                return report
        except OSError as error:
            raise self.gone() from error
        raise self.gone()

    def gone(self) -> RuntimeError:
        return RuntimeError(f"the fork server of the pool ended with exit code {self.server.wait()}")

    def close(self) -> None:
        self.close_server()
        for worker in self.team:
            worker.pipe.close()

    forget = close  # in a forked process it closes no more than this process's copies


_ours: weakref.WeakSet[Pool | _Crew] = weakref.WeakSet()


def _forget() -> None:
    for each in list(_ours):
        each.forget()


os.register_at_fork(after_in_child=_forget)


def _close(server: subprocess.Popen[bytes], control: socket.socket, owner: int) -> None:
    """At close, at exit, or when a crew is garbage: the fork server ends when nobody holds the other end."""
    control.close()
    if os.getpid() != owner:
        server.returncode = 0  # not ours to wait for
        return
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()

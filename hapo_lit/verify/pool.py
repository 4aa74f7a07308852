"""Killable worker processes for algebra on text that a model wrote.

A single answer such as ``9^{9^{9^9}}`` can hold the interpreter for hours inside C code, where no alarm and no
watchdog thread reaches it.  So algebra runs in processes of its own; the parent gives each task a deadline, counted
from its dispatch, and kills the worker that misses it.  A worker answers with one byte, never with a pickle.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import resource
import time
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import Any

NOT_EQUAL, EQUAL, UNPARSABLE, TIMEOUT, DIED = range(5)
"""What became of a pair.  Only EQUAL earns a reward; the last three are counted as unknown."""

READY = 255
"""A worker's greeting.  The deadline of its first task does not run while Python starts and SymPy is imported."""

START_SECONDS = 120.0

_Task = tuple[str, str]


class AlgebraPool:
    """Compares pairs of LaTeX answers in worker processes, which start at the first call.

    Args:
        workers: how many processes.
        seconds: deadline of one pair.
        memory_mib: address space of one worker.
    """

    def __init__(self, workers: int = 1, seconds: float = 5.0, memory_mib: int = 2048) -> None:
        if workers < 1:
            raise ValueError(f"verifier.workers must be at least 1, got {workers}")
        self.workers, self.seconds, self.memory_mib = workers, seconds, memory_mib
        self._context = multiprocessing.get_context("forkserver")
        self._idle: list[_Worker] = []
        self._owner = os.getpid()
        atexit.register(self.close)

    def compare(self, pairs: Sequence[_Task]) -> list[int]:
        """One code for each ``(gold, answer)`` pair, in order."""
        self._leave_to_parent()
        results = [DIED] * len(pairs)
        waiting = list(enumerate(pairs))[::-1]
        busy: dict[Connection, tuple[_Worker, int, float]] = {}
        while waiting or busy:
            while waiting and len(busy) < self.workers:
                index, task = waiting.pop()
                worker = self._living()
                try:
                    worker.pipe.send(task)
                except OSError:  # it died in this very moment
                    worker.kill()
                    continue
                busy[worker.pipe] = (worker, index, time.monotonic() + self.seconds)
            if not busy:
                break
            nearest = min(deadline for _, _, deadline in busy.values())
            ready = wait(list(busy), max(0.0, nearest - time.monotonic()))
            for pipe in [pipe for pipe in busy if pipe in ready]:
                worker, index, _ = busy.pop(pipe)
                code = worker.reply()
                if code is None:
                    worker.kill()
                else:
                    results[index] = code
                    self._idle.append(worker)
            for pipe, (worker, index, deadline) in list(busy.items()):
                if time.monotonic() >= deadline:
                    del busy[pipe]
                    worker.kill()
                    results[index] = TIMEOUT
        return results

    def close(self) -> None:
        """End all workers; the next ``compare`` starts new ones."""
        self._leave_to_parent()
        while self._idle:
            self._idle.pop().kill()

    def _leave_to_parent(self) -> None:
        """After a fork the workers belong to the parent: two processes must not share a pipe."""
        if self._owner != os.getpid():
            self._idle, self._owner = [], os.getpid()

    def _living(self) -> _Worker:
        """An idle worker that still lives, else a new one."""
        while self._idle:
            worker = self._idle.pop()
            if worker.process.is_alive():
                return worker
            worker.kill()
        self._context.set_forkserver_preload(["math_verify"])
        return _Worker(self._context, self.memory_mib)

    def __getstate__(self) -> dict[str, object]:
        return {"workers": self.workers, "seconds": self.seconds, "memory_mib": self.memory_mib}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class _Worker:
    def __init__(self, context: multiprocessing.context.ForkServerContext, memory_mib: int) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, memory_mib), daemon=True)
        self.process.start()
        theirs.close()
        if not self.pipe.poll(START_SECONDS) or self.reply() != READY:
            self.kill()
            raise RuntimeError(
                f"a verifier process was not ready after {START_SECONDS:.0f} s; does `python -c 'import math_verify'` "
                f"work, and does verifier.memory_mib leave room for it?"
            )

    def reply(self) -> int | None:
        """The worker's one-byte answer, None if it died."""
        try:
            return self.pipe.recv_bytes(1)[0]
        except (EOFError, OSError):
            return None

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _forget_fork_server() -> None:
    """A forked process needs a fork server of its own, since it cannot wait for its parent's."""
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
    server._forkserver_address = server._forkserver_alive_fd = server._forkserver_pid = None


os.register_at_fork(after_in_child=_forget_fork_server)


def _serve(pipe: Connection, memory_mib: int) -> None:
    """The life of a worker: a greeting, then a byte for each pair, until the pipe closes."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that it has no time limit: the pool has
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _repair_percent()
    limit = memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    pipe.send_bytes(bytes([READY]))
    while True:
        try:
            gold, answer = pipe.recv()
        except EOFError:
            return
        pipe.send_bytes(bytes([_compare(gold, answer)]))


def _compare(gold: str, answer: str) -> int:
    """Parse both as LaTeX and compare.  Whatever model text makes the parser raise means: not understood."""
    from math_verify import LatexExtractionConfig, parse, verify

    try:
        latex = [LatexExtractionConfig()]
        parsed = [
            parse(f"${text}$", extraction_config=latex, fallback_mode="no_fallback", parsing_timeout=None)
            for text in (gold, answer)
        ]
        if not all(parsed):
            return UNPARSABLE
        return EQUAL if verify(*parsed, timeout_seconds=None) else NOT_EQUAL
    except Exception:  # untrusted text: the pool must survive it
        return UNPARSABLE


def _repair_percent() -> None:
    """Give the parser generated for ANTLR 4.9.3 the rule it lacks.

    latex2sympy2_extended 1.11.0 asks each atom for ``FUNC_GAMMA`` before it looks at percent signs; without the rule
    every answer with a percent sign raises.  Hydra pins ANTLR 4.9, so this is the parser we get.
    """
    from latex2sympy2_extended.gen.antlr4_9_3.PSParser import PSParser

    if not hasattr(PSParser.AtomContext, "FUNC_GAMMA"):
        PSParser.AtomContext.FUNC_GAMMA = lambda _: None

"""Runs of the `hapo` command that start at once: each is forked from a process in which everything is imported.

done = forked_runs().run(folder, "train", "resume=auto", "hydra.run.dir=run", signal=SIGKILL, after=0.7)
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from signal import SIGKILL
from typing import Any

from support.forked_child import become
from support.forking import Forks

LIMIT = 300.0
"""Seconds after which a run is taken for stuck and killed."""
VLLM = (
    *("hapo_lit.rollout.vllm", "hapo_lit.cli.serve", "hapo_lit.rollout.transfer", "vllm"),
    *("vllm.v1.worker.cpu_worker", "vllm.v1.engine.core", "vllm.entrypoints.openai.api_server"),
)
"""What a run with vLLM and a server need on top."""


@cache
def forked_runs(*modules: str) -> ForkedRuns:
    """This test process's own, with ``modules`` imported on top; it starts when first asked for."""
    return ForkedRuns(*modules)


@dataclass(frozen=True)
class Done:
    """What became of a run."""

    returncode: int
    """As :mod:`subprocess` has it: -9 if SIGKILL ended the process."""
    stdout: str
    stderr: str
    seconds: float
    signalled: float | None
    """When the first signal was sent, in seconds from the start; None = never."""
    peak: int
    """Bytes of memory that it had at most."""


class ForkedRuns:
    """Starts runs and signals them."""

    def __init__(self, *modules: str) -> None:
        self.forks = Forks("support.forked_runs", *modules)

    def start(
        self,
        folder: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        seen: str | None = None,
        dies_at: str | None = None,
    ) -> Running:
        """``hapo ARGUMENTS``, or ``python SCRIPT.py ARGUMENTS``, in ``folder``; for the settings see :meth:`run`."""
        variables = {**os.environ, "COLUMNS": "100", **(environment or {})}
        job = {"folder": str(folder), "arguments": arguments, "environment": variables}
        return Running(self.forks, self.forks.ask("start", **job, seen=seen, dies_at=dies_at))

    def run(
        self,
        folder: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        signal: int | None = None,
        after: float = 0.0,
        seen: str | None = None,
        again: float | None = None,
        dies_at: str | None = None,
    ) -> Done:
        """``hapo ARGUMENTS`` in ``folder``, until it ends.

        Args:
            environment: variables besides those of this process.
            signal: sent to it, unless it ends before; None = never.
            after: seconds from its start, or from the sight of a file, to the signal.
            seen: a pattern in ``folder``: the signal waits for a file of such a name that was not there before.
            again: seconds to a second signal.
            dies_at: a change to a file in whose place it kills itself, see :func:`support.forked_child._die_at`.
        """
        running = self.start(folder, *arguments, environment=environment, seen=seen, dies_at=dies_at)
        return running.wait(signal, after, again)


class Running:
    """A run in the background; it leads a process group of its own."""

    def __init__(self, forks: Forks, pid: int) -> None:
        self.forks, self.pid = forks, pid

    def ended(self) -> bool:
        return bool(self.forks.ask("ended", pid=self.pid))

    def wait(self, signal: int | None = None, after: float = 0.0, again: float | None = None) -> Done:
        """Until it ends."""
        return Done(**self.forks.ask("wait", pid=self.pid, signal=signal, after=after, again=again))

    def kill(self) -> None:
        """Kill it and all its children."""
        os.killpg(self.pid, SIGKILL)


# -- in the process that forks -----------------------------------------------------------------------------------------


@dataclass
class _Run:
    """A child, what it says, and which files were there before it."""

    pid: int
    started: float
    folder: Path
    seen: str | None
    before: set[tuple[str, int]]
    outputs: tuple[int, int]
    returncode: int | None = None
    peak: int = 0


RUNS: dict[int, _Run] = {}


def serve(what: str, job: dict[str, Any]) -> object:
    """Do a job; see :func:`support.forking.work_for`."""
    return {"start": _start, "wait": _wait, "ended": _ended}[what](**job)


def _start(
    folder: str, arguments: list[str], environment: dict[str, str], seen: str | None, dies_at: str | None
) -> int:
    before, started = _stamps(Path(folder), seen), time.monotonic()
    outputs = os.memfd_create("stdout"), os.memfd_create("stderr")
    child = os.fork()
    if not child:
        become(folder, arguments, environment, outputs, dies_at)
    RUNS[child] = _Run(child, started, Path(folder), seen, before, outputs)
    return child


def _ended(pid: int) -> bool:
    run = RUNS[pid]
    if run.returncode is None:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            run.returncode, run.peak = os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
    return run.returncode is not None


def _wait(pid: int, signal: int | None, after: float, again: float | None) -> dict[str, Any]:
    """Wait for a run to end, and send what is to be sent on the way."""
    run = RUNS[pid]
    waiting = signal is not None and run.seen is not None
    due = run.started + after if signal is not None and not waiting else None
    first = None
    while not _ended(pid):
        now = time.monotonic()
        if waiting and _stamps(run.folder, run.seen) - run.before:
            waiting, due = False, now + after
        if due is not None and now >= due:
            os.kill(pid, signal)
            once_more = first is None and again is not None
            first, due = first or now - run.started, now + again if once_more else None
        if now > run.started + LIMIT:
            os.killpg(pid, SIGKILL)
        time.sleep(0.0002 if waiting else 0.002)
    said = {}
    for name, output in zip(("stdout", "stderr"), run.outputs, strict=True):
        said[name] = os.pread(output, os.fstat(output).st_size, 0).decode()
        os.close(output)
    del RUNS[pid]
    seconds = time.monotonic() - run.started
    return said | {"returncode": run.returncode, "seconds": seconds, "signalled": first, "peak": run.peak}


def _stamps(folder: Path, pattern: str | None) -> set[tuple[str, int]]:
    """Names and times of the files that match."""
    found = set()
    for path in folder.glob(pattern) if pattern else ():
        try:
            found.add((path.name, path.lstat().st_mtime_ns))
        except FileNotFoundError:  # it has been renamed in between
            continue
    return found

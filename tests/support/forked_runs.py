"""Runs of the doors that start at once: each is forked from a process in which everything has been imported.

    with ForkedRuns() as doors:
        done = doors.run(folder, "train", "resume=auto", "hydra.run.dir=run", signal=SIGKILL, after=0.7)

The process that forks is a separate one, of a single thread: ``python tests/support/forked_runs.py``.  It takes a job
per line on its standard input and answers with a line, both in JSON.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from typing import Any

LIMIT = 120.0
"""Seconds after which a run is taken for stuck and killed."""


@dataclass(frozen=True)
class Done:
    """What became of a run."""

    status: int
    """As a shell's, but negative if a signal ended the process: -9 for SIGKILL."""
    stdout: str
    stderr: str
    seconds: float
    signalled: float | None
    """When the first signal was sent, in seconds from the start; None = never."""


class ForkedRuns:
    """Starts runs, one at a time, and signals them.  A context: leaving it ends the process that forks."""

    def __enter__(self) -> ForkedRuns:
        alone = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
        environment = {**os.environ, **alone, "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.server = subprocess.Popen([sys.executable, __file__], env=environment, text=True, **pipes)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()

    def run(
        self,
        folder: Path,
        *arguments: str,
        signal: int | None = None,
        after: float = 0.0,
        seen: str | None = None,
        again: float | None = None,
        dies_at: str | None = None,
    ) -> Done:
        """``hapo ARGUMENTS`` in ``folder``, until it ends.

        Args:
            signal: sent to it, unless it ends before; None = never.
            after: seconds from its start, or from the sight of a file, to the signal.
            seen: a pattern in ``folder``: the signal waits for a file of such a name that was not there before.
            again: seconds to a second signal.
            dies_at: a change to a file in whose place it kills itself, see :func:`_die_at`.
        """
        job = {"folder": str(folder), "arguments": arguments, "signal": signal, "after": after}
        self.server.stdin.write(json.dumps(job | {"seen": seen, "again": again, "dies_at": dies_at}) + "\n")
        self.server.stdin.flush()
        return Done(**json.loads(self.server.stdout.readline()))


# -- in the process that forks -----------------------------------------------------------------------------------------


def serve() -> None:
    """Do the jobs."""
    for name in ("hapo_lit.cli.train", "hapo_lit.cli.fabric", "matplotlib.figure", "scipy.stats"):
        importlib.import_module(name)
    gc.freeze()  # a child that collects garbage would copy all memory
    assert len(os.listdir("/proc/self/task")) == 1, "other threads would not survive a fork"
    for line in sys.stdin:
        job = json.loads(line)
        folder = Path(job["folder"])
        before, started = _stamps(folder, job["seen"]), time.monotonic()
        child = os.fork()
        if not child:
            _become(folder, job["arguments"], job["dies_at"])
        status, signalled = _watch(child, job, before, started)
        answer = {"status": status, "seconds": time.monotonic() - started, "signalled": signalled}
        answer |= {name: (folder / f"{name}.txt").read_text() for name in ("stdout", "stderr")}
        print(json.dumps(answer), flush=True)


def _become(folder: Path, arguments: list[str], dies_at: str | None) -> None:
    """Be ``hapo ARGUMENTS``; does not return."""
    from hapo_lit.cli import main

    status = 1
    try:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{name}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        if dies_at is not None:
            _die_at(dies_at)
        main(arguments)
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _die_at(point: str) -> None:
    """Kill this process in the place of a change: ``mkdir NAME``, ``symlink NAME``, ``rename NAME`` (what it was
    called), ``remove NAME``; or at ``overwrite NAME``, when the file has been emptied and nothing is written yet."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        kind = event.removeprefix("os.")
        if event == "open" and isinstance(args[1], str) and "w" in args[1] and os.path.exists(args[0]):
            kind = "overwrite"
        if kind not in ("mkdir", "symlink", "rename", "remove", "overwrite"):
            return
        path = args[1 if kind == "symlink" else 0]
        if isinstance(path, str | os.PathLike) and f"{kind} {os.path.basename(path)}" == point:
            if kind == "overwrite":
                os.truncate(path, 0)
            os.kill(os.getpid(), SIGKILL)

    sys.addaudithook(hook)


def _watch(child: int, job: dict[str, Any], before: set[tuple[str, int]], started: float) -> tuple[int, float | None]:
    """Wait for a run to end, and send what is to be sent on the way; returns its status and when that was."""
    folder, waiting = Path(job["folder"]), job["seen"] is not None
    due = started + job["after"] if job["signal"] and not waiting else None
    first = None
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        now = time.monotonic()
        if ended:
            return os.waitstatus_to_exitcode(status), first
        if waiting and _stamps(folder, job["seen"]) - before:
            waiting, due = False, now + job["after"]
        if due is not None and now >= due:
            os.kill(child, job["signal"])
            once_more = first is None and job["again"] is not None
            first, due = first or now - started, now + job["again"] if once_more else None
        if now > started + LIMIT:
            os.kill(child, SIGKILL)
        time.sleep(0.0002 if waiting else 0.002)


def _stamps(folder: Path, pattern: str | None) -> set[tuple[str, int]]:
    """Names and times of the files that match."""
    found = set()
    for path in folder.glob(pattern) if pattern else ():
        try:
            found.add((path.name, path.lstat().st_mtime_ns))
        except FileNotFoundError:  # it has been renamed in between
            continue
    return found


if __name__ == "__main__":
    serve()

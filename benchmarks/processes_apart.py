"""Whole processes, measured: CPU seconds, wall seconds and peak memory of a command and what it started."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
HAPO = (sys.executable, "-m", "hapo_lit")
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Variables of a process that gives freed memory back at once, so that its resident memory is what it holds."""
LAST_LINES = 15
"""Of a failed process's output, in the message."""

Numbers = dict[str, float]
"""What a side measured: quantity -> seconds, GB, or whatever the claim says."""


class CaseFailed(RuntimeError):
    """A measured process ended with an error; the message ends with the last lines of its output."""


def whole(command: Sequence[str], variables: Mapping[str, str] | None = None) -> Numbers:
    """Run a command to its end, on one thread and without network.

    Returns:
        ``cpu`` and ``wall`` in seconds, with the processes that it waited for, and ``peak``, the most resident memory
        that one of them had, in GB.

    Raises:
        CaseFailed: it ended with an error.
    """
    return _run(command, variables or {})[0]


def apart(function: Callable[..., Numbers], *arguments: object, variables: Mapping[str, str] | None = None) -> Numbers:
    """Call a function of this package in a process of its own.

    Args:
        function: at the top of its module.
        arguments: what JSON can write.
        variables: of its environment.

    Returns:
        its numbers and its process's ``peak``; where it has no ``cpu``, also that of the process, and ``wall``.
    """
    call = [f"{function.__module__}:{function.__qualname__}", json.dumps(arguments)]
    used, output = _run([sys.executable, "-m", "benchmarks.processes_apart", *call], variables or {})
    found: Numbers = json.loads(output.strip().splitlines()[-1])
    return {"peak": used["peak"], **found} if "cpu" in found else {**used, **found}


def _run(command: Sequence[str], variables: Mapping[str, str]) -> tuple[Numbers, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": path, **variables}
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            _, status, used = os.wait4(child.pid, 0)
        except BaseException:
            child.terminate()
            child.wait()
            raise
        wall = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if child.returncode:
        lines = "\n".join(text.splitlines()[-LAST_LINES:])
        raise CaseFailed(f"a process ended with status {child.returncode}:\n{lines}")
    return {"cpu": used.ru_utime + used.ru_stime, "wall": wall, "peak": used.ru_maxrss * 1024 / 1e9}, text


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    print("\n" + json.dumps(getattr(importlib.import_module(module), name)(*json.loads(sys.argv[2]))))

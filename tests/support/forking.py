"""A process in which everything is imported, from which others are forked at once; one for all test processes.

    runs = Forks("support.forked_runs")
    pid = runs.ask("start", folder="...", ...)

A start costs some hundredths of a CPU second in place of five or six.  Whoever asks first starts the process, ``python
-m support.forking NAME``, which listens at a socket of that name.  It has a single thread, and forks a process for
each that connects; that one imports what is wanted on top and does the jobs of a service, a module with ``serve``.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.util
import json
import os
import pkgutil
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODULES = (
    *("hydra._internal.hydra", "hydra.experimental.callback", "hydra._internal.logging_config", "scipy.stats"),
    *("torch.utils.tensorboard", "matplotlib.backends.backend_agg", "pandas.io.formats.csvs", "pyarrow.pandas_compat"),
    *("PIL.PngImagePlugin", "PIL.JpegImagePlugin", "PIL.GifImagePlugin", "PIL.BmpImagePlugin", "PIL.PpmImagePlugin"),
    *("transformers.models.qwen2.modeling_qwen2", "rich._emoji_codes", "torch.profiler", "peft"),
)
"""What a run imports on its way, besides this package."""
IF_INSTALLED = ("tabulate",)
"""Likewise, and nothing that the tests need brings it."""
LIMIT = 120.0
"""Seconds in which the process must listen."""
ELSEWHERE = (
    *("hapo_lit.__main__", "hapo_lit.cli.serve"),
    *("hapo_lit.rollout.vllm", "hapo_lit.rollout.transfer", "hapo_lit.rollout.nccl_sender"),
)
"""Modules of this package that are not imported before a run, as they import vLLM or start a run."""
ALONE = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false", "HF_HUB_OFFLINE": "1"}
NAME = f"hapo-tests-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"
"""Of the socket; the same in all processes of a test run."""


class Forks:
    """A process of its own that forks others; it ends with this process.

    Args:
        service: a module with ``serve``, see :func:`work_for`.
        modules: to be imported on top.
    """

    started: subprocess.Popen | None = None
    """What this test process has started."""

    def __init__(self, service: str, *modules: str) -> None:
        began = time.monotonic()
        while (connection := _connected()) is None:
            if Forks.started is None:
                Forks.started = _start()
            assert time.monotonic() < began + LIMIT, "no process that forks listens; what it printed says why"
            time.sleep(0.05)
        with connection:
            self._in, self._out = connection.makefile("r"), connection.makefile("w")
        atexit.register(self.close)
        self.ask(service, modules=modules, environment=dict(os.environ))

    def ask(self, what: str, **job: object) -> Any:
        """The answer to a job."""
        self._out.write(json.dumps({"what": what, **job}) + "\n")
        self._out.flush()
        answer = self._in.readline()
        assert answer, "the process that forks has ended; what it printed says why"
        return json.loads(answer)

    def close(self) -> None:
        """Let the process end."""
        self._out.close()
        self._in.close()


def _connected() -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(f"\0{NAME}")
    except ConnectionRefusedError:
        connection.close()
        return None
    return connection


def _start() -> subprocess.Popen:
    command, tests = [sys.executable, "-m", "support.forking", NAME], Path(__file__).parents[1]
    process = subprocess.Popen(command, cwd=tests, env=os.environ | ALONE, stdin=subprocess.PIPE)

    def end() -> None:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()

    atexit.register(end)
    return process


# -- in the process that forks -----------------------------------------------------------------------------------------


def listen(name: str) -> None:
    """Import everything, and fork for each that connects; until standard input ends.

    It is an orphan: some tests count the children of the test process.
    """
    if os.fork():
        os._exit(0)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(f"\0{name}")
    except OSError:  # another test process has started one at the same moment
        return
    listener.listen()
    import_everything()
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        connection, _ = listener.accept()
        if not os.fork():
            listener.close()  # or others could connect to it when its own process has ended
            work_for(connection)
        connection.close()


def import_everything() -> None:
    """What a run imports, and what the libraries keep of a first configuration and a first model."""
    from hydra import compose, initialize_config_dir
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    from hapo_lit.cli.bootstrap import config_folder

    (found,) = importlib.util.find_spec("hapo_lit").submodule_search_locations  # type: ignore[union-attr, misc]
    sys.argv = [str(Path(found) / "__main__.py")]  # as under `python -m hapo_lit`
    with initialize_config_dir(config_folder(), version_base="1.3"):
        compose("train")
    get_checkpoint_conversion_mapping("qwen2")
    ours = (module.name for module in pkgutil.walk_packages([found], "hapo_lit."))
    besides = (*MODULES, *filter(importlib.util.find_spec, IF_INSTALLED))
    _import(*besides, *(name for name in ours if not name.startswith(ELSEWHERE)))


def _import(*modules: str) -> None:
    for name in modules:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a child that collects garbage would copy all memory
    assert len(os.listdir("/proc/self/task")) == 1, "other threads would not survive a fork"


def work_for(connection: socket.socket) -> None:
    """Do the jobs of who has connected, by its service's ``serve``, and end."""
    with connection, connection.makefile("r") as jobs, connection.makefile("w") as answers:

        def answer(said: object) -> None:
            answers.write(json.dumps(said) + "\n")
            answers.flush()

        first = json.loads(jobs.readline())
        os.environ.clear()
        os.environ.update(first["environment"] | ALONE)
        _import(*first["modules"])
        serve: Callable[[str, dict[str, Any]], object] = importlib.import_module(first["what"]).serve
        answer(None)
        for line in jobs:
            job = json.loads(line)
            answer(serve(job.pop("what"), job))
    os._exit(0)


if __name__ == "__main__":
    listen(sys.argv[1])

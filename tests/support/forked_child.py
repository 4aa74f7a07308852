"""What a process does that :mod:`support.forked_runs` has forked: it becomes the `hapo` command, or a script."""

from __future__ import annotations

import atexit
import importlib.util
import json
import multiprocessing
import os
import runpy
import sys
import threading
import traceback
from signal import SIGKILL
from types import SimpleNamespace
from typing import Any, NoReturn

from support.single_run import asks_for_a_sweep, no_mode


def become(
    folder: str, arguments: list[str], environment: dict[str, str], outputs: tuple[int, int], dies_at: str | None
) -> NoReturn:
    """Be ``python -m hapo_lit ARGUMENTS``, the leader of a process group."""
    os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, output in enumerate(outputs, start=1):
        os.dup2(output, number)
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("hapo_lit.__main__")
    if dies_at is not None:
        _die_at(dies_at)
    if any(argument.endswith(".devices=2") for argument in arguments):
        _second_rank_is_forked()
    if "RANK" in environment:
        _has_rank(int(environment["RANK"]))
    os.execv = _call_module  # type: ignore[assignment]
    _run(folder, arguments, environment)


def _run(folder: str, arguments: list[str], environment: dict[str, str]) -> NoReturn:
    """Run the command, or a script if that is the first argument, and end this process as Python does."""
    from hydra._internal.hydra import Hydra

    from hapo_lit.cli import main

    status = 1
    try:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.path[0] = folder
        if arguments[0].endswith(".py"):
            sys.argv = arguments
            runpy.run_path(arguments[0], run_name="__main__")
        else:
            sys.argv[1:] = arguments
            if not asks_for_a_sweep(arguments):
                Hydra.get_mode = no_mode  # type: ignore[assignment]
            main(arguments)
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _call_module(program: str, command: list[str]) -> None:
    """In place of ``os.execv`` of ``python -m MODULE ...``: the same in this process, which has imported it.

    Processes that it starts by multiprocessing are forks too; vLLM's on a CPU would be started anew.
    """
    assert command[:2] == [program, "-m"]
    forking = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: forking  # type: ignore[assignment]
    sys.argv = command[2:]
    runpy.run_module(command[2], run_name="__main__", alter_sys=True)
    sys.exit(0)


class _SecondRank:
    """In place of :class:`subprocess.Popen` in Lightning's launchers: a process that was forked before the run began,
    and has waited to be told what to run."""

    waiting: int
    orders: int

    def __init__(self, command: list[str], env: dict[str, str], cwd: str) -> None:
        assert command[:3] == [sys.executable, "-m", "hapo_lit.__main__"]
        self.pid, self.returncode = self.waiting, None
        os.write(self.orders, json.dumps([cwd, command[3:], env]).encode())
        os.close(self.orders)

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _second_rank_is_forked() -> None:
    """Let Lightning's launchers start the second of two ranks at once."""
    from lightning.fabric.strategies.launchers import subprocess_script as by_fabric
    from lightning.pytorch.strategies.launchers import subprocess_script as by_trainer

    orders, _SecondRank.orders = os.pipe()
    _SecondRank.waiting = os.fork()
    if _SecondRank.waiting:
        os.close(orders)
        for launcher in (by_fabric, by_trainer):
            launcher.subprocess = SimpleNamespace(Popen=_SecondRank)  # type: ignore[attr-defined]
        return
    os.close(_SecondRank.orders)
    with open(orders) as file:
        order = file.read()
    if not order:  # the run ended before it would have started this one
        os._exit(0)
    _has_rank(1)
    _run(*json.loads(order))


def _has_rank(rank: int) -> None:
    """Be that rank for Lightning, which has read the environment when it was imported."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    rank_zero_only.rank = rank  # type: ignore[attr-defined]


def _die_at(point: str) -> None:
    """Kill this process, and the other rank with it, in the place of a change: ``mkdir NAME``, ``symlink NAME``,
    ``rename NAME`` (what it was called), ``remove NAME``, ``create NAME``; or at ``overwrite NAME``, when the file has
    been emptied and nothing is written yet.  A name may be ``FOLDER/NAME``."""
    kind_of_death, _, name = point.partition(" ")

    def hook(event: str, args: tuple[Any, ...]) -> None:
        kind = event.removeprefix("os.")
        if event == "open" and isinstance(args[1], str) and "w" in args[1]:
            kind = "overwrite" if os.path.exists(args[0]) else "create"
        if kind != kind_of_death or kind not in ("mkdir", "symlink", "rename", "remove", "create", "overwrite"):
            return
        path = args[1 if kind == "symlink" else 0]
        if isinstance(path, str | os.PathLike) and f"/{os.fspath(path)}".endswith(f"/{name}"):
            if kind == "overwrite":
                os.truncate(path, 0)
            os.killpg(0, SIGKILL)

    sys.addaudithook(hook)

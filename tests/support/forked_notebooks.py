"""Notebooks without a kernel, each executed in a process forked from one in which everything has been imported.

    with ForkedNotebooks() as notebooks:
        executed = notebooks.execute(Path("notebooks/02_anneal_curves.ipynb"), folder, {"steps=60": "steps=6"})

The forked process runs the cells with IPython.  Where a cell starts ``python -m hapo_lit ...`` by ``subprocess.run``,
that command is one more fork.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.forking import Forks


@dataclass(frozen=True)
class Executed:
    """What became of a notebook."""

    error: str
    """Empty, or what was raised, with what the cells printed before it."""
    images: int
    """Cells whose result is shown as an image."""


class ForkedNotebooks:
    """Executes notebooks, one at a time.  A context: leaving it ends the process that forks."""

    def __enter__(self) -> ForkedNotebooks:
        self.forks = Forks("support.forked_notebooks", "IPython.core.interactiveshell")
        return self

    def __exit__(self, *_: object) -> None:
        self.forks.close()

    def execute(self, path: Path, folder: Path, changes: Mapping[str, str]) -> Executed:
        """Run all cells of a notebook in ``folder``; each text of ``changes`` is in them, and is replaced."""
        job = {"path": str(path), "folder": str(folder), "changes": dict(changes)}
        return Executed(**self.forks.ask("execute", **job))


# -- in the process that forks ----------------------------------------------------------------------------------------


def serve(what: str, job: dict[str, Any]) -> object:
    """Do a job; see :func:`support.forking.work_for`."""
    assert what == "execute"
    for name in ("HAPO_RUN_FOLDER", "HAPO_SWEEP_FOLDER"):
        os.environ.pop(name, None)
    folder = Path(job["folder"])
    status = _fork(lambda: _execute(job["path"], job["changes"]), folder, folder / "output.txt")
    answer = folder / "executed.json"
    if answer.is_file():
        return json.loads(answer.read_text())
    return {"error": f"status {status}\n{(folder / 'output.txt').read_text()}", "images": 0}


def _fork(work: Any, folder: Path, output: Path, errors: Path | None = None) -> int:
    """Do ``work`` in a fork of this process, in a folder, with what it prints in files; returns its status.

    The fork ends without ``atexit``: what a notebook has registered there would remove the notebook's own folders.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        os.chdir(folder)
        for number, path in ((1, output), (2, errors or output)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        work()
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _execute(path: str, changes: Mapping[str, str]) -> None:
    """Run the cells and write ``executed.json`` if none raises."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    class Shell(InteractiveShell):
        def enable_gui(self, gui: str | None = None) -> None:
            """There is none."""

    cells = ["".join(cell["source"]) for cell in json.loads(Path(path).read_text())["cells"] if _is_code(cell)]
    for old, new in changes.items():
        assert any(old in source for source in cells), f"{path} does not hold {old!r}"
        cells = [source.replace(old, new) for source in cells]
    tempfile.tempdir = os.getcwd()  # what the cells make goes away with the folder
    os.environ["TMPDIR"] = os.getcwd()
    subprocess.run = _run  # type: ignore[assignment]
    config = Config()
    config.HistoryManager.enabled = False  # it would write to a database, in a thread of its own
    shell, images = Shell.instance(config=config), 0
    for source in cells:
        result = shell.run_cell(source)
        result.raise_error()
        if result.result is not None:
            images += "image/png" in shell.display_formatter.format(result.result)[0]
    Path("executed.json").write_text(json.dumps({"error": "", "images": images}))


def _is_code(cell: Mapping[str, Any]) -> bool:
    return bool(cell["cell_type"] == "code")


RUN = subprocess.run


def _run(command: list[str], **options: Any) -> subprocess.CompletedProcess:
    """``subprocess.run``; of ``python -m hapo_lit ...`` by a fork, for the options that the notebooks give."""
    if command[:3] != [sys.executable, "-m", "hapo_lit"]:  # what a run asks of git and of the machine
        return RUN(command, **options)

    def work() -> None:
        from hapo_lit.cli import main

        os.environ.update(options.get("env") or {})
        sys.path[:0] = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        main(command[3:])

    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder) / "output.txt", Path(folder) / "errors.txt"
        status = _fork(work, Path(options.get("cwd") or "."), output, errors)
        done = subprocess.CompletedProcess(command, status, output.read_text(), errors.read_text())
    if options.get("check") and status:
        print(done.stderr)
        done.check_returncode()
    return done

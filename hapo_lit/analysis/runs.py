"""A run's folder as a value: its metrics, its groups, its settings, and how it ended."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from hapo_lit.analysis.logs import METRIC_FILES, complete_lines, read_metrics_and_faults
from hapo_lit.errors import NoRunError

RUN_FILES = ("config.yaml", "summary.json", "error.txt", "pruned.txt", *METRIC_FILES)
"""A folder that holds one of these is the folder of a run."""
LOCK = ".lock"
"""What keeps two runs from one folder; alone there, it was left by a command whose settings were refused."""
GROUP_COLUMNS = ["step", "prompt", "successes", "trials", "open", "teacher"]


@dataclass(frozen=True)
class Run:
    """What a run's folder holds.  A file that is missing or cannot be read is empty here, and named in ``faults``."""

    folder: Path
    name: str
    """The folder's path below the one in which runs were looked for."""
    config: dict[str, Any]
    """``config.yaml``, nested."""
    metrics: pd.DataFrame
    """One row per step, as :func:`hapo_lit.analysis.read_metrics` gives it."""
    groups: pd.DataFrame
    """``groups.csv``; see :class:`hapo_lit.training.callbacks.groups.Groups`."""
    summary: dict[str, float]
    """``summary.json``; a run writes it when it ends."""
    error: str
    """The first line of ``error.txt``, in which a sweep leaves the error of a job that failed."""
    faults: tuple[str, ...]
    """What could not be read, a line each."""
    pruned: str = ""
    """The first line of ``pruned.txt``, in which a sweep's pruner leaves when and why it ended the job."""

    @property
    def seed(self) -> Any:
        return self.config.get("seed")

    @property
    def steps(self) -> int:
        """Training steps that were logged."""
        return int(self.trained.index[-1]) if len(self.trained) else 0

    @property
    def planned(self) -> int | None:
        """Training steps that the configuration asks for; None if it is not known."""
        steps = self.config.get("steps")
        return steps if isinstance(steps, int) else None

    @cached_property
    def trained(self) -> pd.DataFrame:
        """The rows of ``metrics`` that belong to training steps, without those of an evaluation alone."""
        if "time/step" in self.metrics:
            return self.metrics[self.metrics["time/step"].notna()]
        return self.metrics[self.metrics.index > 0]

    @property
    def state(self) -> str:
        """``failed``, ``damaged``, ``pruned``, ``unfinished`` or ``finished``: the first that applies."""
        if self.error:
            return "failed"
        if self.faults:
            return "damaged"
        if self.pruned:
            return "pruned"
        short = self.planned is not None and self.steps < self.planned
        return "unfinished" if short or not self.summary else "finished"

    @property
    def note(self) -> str:
        """Why the state is what it is; empty for a finished run."""
        reached = f"{self.steps:,} of {'unknown' if self.planned is None else f'{self.planned:,}'} steps"
        if self.state == "unfinished":
            return reached + ("" if self.summary else ", no summary.json")
        return "; ".join(filter(None, [self.error, *self.faults, self.pruned]))

    def series(self, metric: str) -> pd.Series:
        """A metric over steps, without the steps that lack it; empty if the run never logged it."""
        if metric not in self.metrics:
            return pd.Series(dtype=float)
        return self.metrics[metric].dropna()


def load_run(folder: Path | str, name: str = "") -> Run:
    """Read a run's folder; what cannot be read becomes a fault, and raises nothing."""
    folder = Path(folder)
    faults: list[str] = []

    def read_file(file: str, read: Any, instead: Any, needed: bool) -> Any:
        path = folder / file
        if not path.is_file():
            if needed:
                faults.append(f"there is no {file}")
            return instead
        try:
            return read(path)
        except (ValueError, KeyError, TypeError, OSError, yaml.YAMLError) as error:
            faults.append(f"{file} cannot be read: {' '.join(str(error).split())[:200]}")
            return instead

    def first_line(path: Path) -> str:
        return path.read_text(errors="replace").partition("\n")[0].strip()

    error, pruned = (read_file(file, first_line, "", False) for file in ("error.txt", "pruned.txt"))
    if (folder / "error.txt").is_file() and not error:
        error = "it failed, and error.txt does not say why"
    config = read_file("config.yaml", _mapping, {}, not error)
    summary = read_file("summary.json", lambda path: _numeric(json.loads(path.read_text())), {}, False)
    groups = read_file("groups.csv", _groups, pd.DataFrame(columns=GROUP_COLUMNS), False)
    try:
        metrics, broken = read_metrics_and_faults(folder)
        faults += broken
    except OSError:
        metrics = pd.DataFrame(index=pd.Index([], name="step", dtype=int))
        if summary or not (config or error):  # otherwise the run has just begun
            faults.append("there is no metrics.csv")
    return Run(folder, name or folder.name, config, metrics, groups, summary, error, tuple(faults), pruned)


def _mapping(path: Path) -> dict[str, Any]:
    read = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(read, dict):
        raise ValueError("it is no mapping")
    return read


def _numeric(read: Any) -> dict[str, float]:
    if not isinstance(read, Mapping):
        raise ValueError("it is no mapping")
    return {name: float(value) for name, value in read.items()}


def _groups(path: Path) -> pd.DataFrame:
    content = complete_lines(path)
    table = pd.read_csv(BytesIO(content)) if content else pd.DataFrame(columns=GROUP_COLUMNS)
    if missing := set(GROUP_COLUMNS) - set(table):
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    if len(table) and any(table[name].dtype.kind not in "iu" for name in GROUP_COLUMNS):
        raise ValueError("it holds what is no whole number")
    return table


def find_runs(folder: Path | str) -> list[Run]:
    """All runs in a folder, which may be one itself; in the order of their names, numbers by value.

    A folder beside runs that holds none of their files counts as a run too, of which nothing is left.

    Raises:
        NoRunError: there is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NoRunError(f"{folder} is not a folder")
    if is_run(folder):
        return [load_run(folder)]
    found = sorted(_runs_below(folder), key=lambda path: [_by_number(part) for part in path.relative_to(folder).parts])
    if not any(map(is_run, found)):
        raise NoRunError(f"{folder} holds no run: no folder in it has a config.yaml or a metrics.csv")
    return [load_run(path, str(path.relative_to(folder))) for path in found]


def is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in RUN_FILES)


def _runs_below(folder: Path) -> list[Path]:
    inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    inside = [path for path in inside if {file.name for file in path.iterdir()} != {LOCK}]  # a command that was refused
    inside = [path for path in inside if not (path / "report.html").is_file() or is_run(path)]
    found = [run for path in inside for run in ([path] if is_run(path) else _runs_below(path))]
    beside_runs = any(map(is_run, inside))
    return found + [path for path in inside if beside_runs and not is_run(path) and not _runs_below(path)]


def _by_number(name: str) -> tuple[float, str]:
    number = re.match(r"\d+", name)
    return (float(number[0]) if number else np.inf, name)

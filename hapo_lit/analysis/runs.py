"""A run's folder, read: its metrics, its groups, its settings, and what became of it."""

from __future__ import annotations

import json
import math
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

from hapo_lit.errors import NoRunError
from hapo_lit.storage.atomic import appearing, drop_drafts

METRIC_FILES = ("metrics_before.csv", "metrics.csv")
"""What a run went on from, and what it wrote itself."""
RECORDS = (*METRIC_FILES, "groups.csv", "completions.jsonl")
"""What a run writes as it goes, besides states."""
MARKS = ("config.yaml", "summary.json", "error.txt", "pruned.txt", *METRIC_FILES)
"""A folder that holds one of these is the folder of a run."""
GROUP_COLUMNS = ["step", "prompt", "successes", "trials", "open", "teacher"]


# -- metrics ------------------------------------------------------------------------------------------------------


def read_run(run: Path | str) -> pd.DataFrame:
    """The metrics of a run, one row per step; held-out accuracy stands on the step it was measured after.

    A resumed run has ``metrics_before.csv`` as well: see :func:`carry_over`.

    Raises:
        FileNotFoundError: there are no metrics.
        ValueError: a line of them is broken; a last line without an end is not, it is left out.
    """
    table, broken = read_metrics(run)
    if broken:
        raise ValueError(f"{run} holds metrics that cannot be read: {'; '.join(broken)}")
    return table


def read_metrics(run: Path | str) -> tuple[pd.DataFrame, list[str]]:
    """As :func:`read_run`, without the lines that are broken, and for each file what was wrong with them."""
    paths = [Path(run) / name for name in METRIC_FILES]
    read = [(path.name, *_numbers(path)) for path in paths if path.is_file() and whole_bytes(path)]
    tables = [table for _, table, _ in read if "step" in table]
    broken = [f"{name}: {fault}" for name, _, fault in read if fault]
    if not read:
        raise FileNotFoundError(f"{paths[1]} does not exist: {run} is not the folder of a run")
    if not tables:
        return pd.DataFrame(index=pd.Index([], name="step", dtype=int)), broken
    table = tables[0] if len(tables) == 1 else pd.concat(tables)
    return _one_row_per_step(table), broken


def _one_row_per_step(table: pd.DataFrame) -> pd.DataFrame:
    """The first value of each metric at each step; only steps that have several rows have to be merged."""
    several = table["step"].duplicated(keep=False)
    if several.any():
        merged = table[several].groupby("step").first()
        return pd.concat([table[~several].set_index("step"), merged]).sort_index()
    return table.set_index("step").sort_index()


def _numbers(path: Path) -> tuple[pd.DataFrame, str]:
    """A CSV file of numbers, and what was wrong with it, or nothing.

    pandas takes a line that is too short for one that ends in empty fields, so commas are counted; only if the count or
    a value is wrong is each line looked at.
    """
    content = whole_bytes(path)
    header = content[: content.find(b"\n")]
    if content.count(b",") == (header.count(b",")) * content.count(b"\n"):
        try:
            table = pd.read_csv(BytesIO(content))
        except (ValueError, UnicodeDecodeError):
            table = None
        if table is not None and all(kind.kind in "fiub" for kind in table.dtypes) and _whole_steps(table):
            return table, ""
    return _readable_lines(content)


def _whole_steps(table: pd.DataFrame) -> bool:
    return "step" in table and table["step"].dtype.kind in "iu"


def _readable_lines(content: bytes) -> tuple[pd.DataFrame, str]:
    header, *lines = content.decode("utf-8", "replace").splitlines()
    names = header.split(",")
    if "step" not in names or len(set(names)) < len(names):
        return pd.DataFrame(), "its first line does not name columns, among them step"
    rows, broken = [], []
    for number, line in enumerate(lines, 2):
        fields = line.split(",")
        try:
            row = [float(field) if field else math.nan for field in fields]
            if len(row) != len(names) or not row[names.index("step")].is_integer():
                raise ValueError
        except ValueError:
            broken.append(number)
        else:
            rows.append(row)
    table = pd.DataFrame(rows, columns=names, dtype=float)
    fault = f"{len(broken)} broken of {len(lines)} lines, the first is line {broken[0]}" if broken else ""
    return table.astype({"step": int}), fault


def whole_bytes(path: Path) -> bytes:
    """A file up to its last line's end: a process that was killed may have left half a line."""
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def whole_lines(path: Path) -> str:
    """As :func:`whole_bytes`, as text."""
    return whole_bytes(path).decode()


# -- a run that goes on -------------------------------------------------------------------------------------------


def carry_over(old: Path | str, new: Path | str, step: int) -> None:
    """What a run that goes on after ``step`` of another one, or of itself, keeps of that run's records.

    Metrics move to ``metrics_before.csv``; what was written of later steps is dropped, as it will be written again.
    With step 0 nothing is kept, not even the evaluation before training, which is made again.
    """
    old, new = Path(old), Path(new)
    if step and any((old / name).is_file() and whole_bytes(old / name) for name in METRIC_FILES):
        table = read_run(old)
        _replace(new / "metrics_before.csv", table[table.index <= step].to_csv())
    if (old / "groups.csv").is_file() and whole_bytes(old / "groups.csv"):
        groups = pd.read_csv(BytesIO(whole_bytes(old / "groups.csv")), dtype=str)
        _replace(new / "groups.csv", groups[groups["step"].astype(int) <= step].to_csv(index=False))
    if (old / "completions.jsonl").is_file():
        lines = whole_lines(old / "completions.jsonl").split("\n")[:-1]  # a text may hold other line separators
        kept = [line + "\n" for line in lines if json.loads(line)["step"] <= step]
        _replace(new / "completions.jsonl", "".join(kept))
    if old.resolve() == new.resolve():
        (new / "metrics.csv").unlink(missing_ok=True)
        drop_drafts(new)
    if not step:
        for name in RECORDS:
            (new / name).unlink(missing_ok=True)


def _replace(path: Path, text: str) -> None:
    with appearing(path) as draft:
        draft.write_text(text)


# -- everything in a folder ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What a run's folder holds.  Whatever is missing or cannot be read is empty here, and said in ``faults``."""

    folder: Path
    name: str
    """The folder's place below the one that was asked for."""
    config: dict[str, Any]
    """``config.yaml``, nested."""
    metrics: pd.DataFrame
    """One row per step, as :func:`read_run` gives it."""
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
        """Training steps that were asked for; None if nobody knows."""
        steps = self.config.get("steps")
        return steps if isinstance(steps, int) else None

    @cached_property
    def trained(self) -> pd.DataFrame:
        """The rows of ``metrics`` that are training steps, and not evaluations alone."""
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
    """Read a run's folder, whatever state it is in; nothing in it can make this fail."""
    folder = Path(folder)
    faults: list[str] = []

    def attempt(file: str, read: Any, instead: Any, needed: bool) -> Any:
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

    error, pruned = (attempt(file, first_line, "", False) for file in ("error.txt", "pruned.txt"))
    if (folder / "error.txt").is_file() and not error:
        error = "it failed, and error.txt does not say why"
    config = attempt("config.yaml", _mapping, {}, not error)
    summary = attempt("summary.json", lambda path: _numeric(json.loads(path.read_text())), {}, False)
    groups = attempt("groups.csv", _groups, pd.DataFrame(columns=GROUP_COLUMNS), False)
    try:
        metrics, broken = read_metrics(folder)
        faults += broken
    except OSError:
        metrics = pd.DataFrame(index=pd.Index([], name="step", dtype=int))
        if summary or not (config or error):  # otherwise it has just begun
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
    content = whole_bytes(path)
    table = pd.read_csv(BytesIO(content)) if content else pd.DataFrame(columns=GROUP_COLUMNS)
    if missing := set(GROUP_COLUMNS) - set(table):
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    if len(table) and any(table[name].dtype.kind not in "iu" for name in GROUP_COLUMNS):
        raise ValueError("it holds what is no whole number")
    return table


def find_runs(folder: Path | str) -> list[Run]:
    """All runs in a folder, which may be one itself; in the order of their names, numbers by value.

    A folder beside runs that holds nothing of one is a run of which nothing is left, and comes too.

    Raises:
        NoRunError: there is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NoRunError(f"{folder} is not a folder")
    if is_run(folder):
        return [load_run(folder)]
    found = sorted(_below(folder), key=lambda path: [_by_value(part) for part in path.relative_to(folder).parts])
    if not any(map(is_run, found)):
        raise NoRunError(f"{folder} holds no run: no folder in it has a config.yaml or a metrics.csv")
    return [load_run(path, str(path.relative_to(folder))) for path in found]


def is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in MARKS)


def _below(folder: Path) -> list[Path]:
    inside = [each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")]
    inside = [each for each in inside if not (each / "report.html").is_file() or is_run(each)]
    found = [run for each in inside for run in ([each] if is_run(each) else _below(each))]
    beside = any(map(is_run, inside))
    return found + [each for each in inside if beside and not is_run(each) and not _below(each)]


def _by_value(name: str) -> tuple[float, str]:
    number = re.match(r"\d+", name)
    return (float(number[0]) if number else np.inf, name)

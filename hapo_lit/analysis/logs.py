"""The files that a run writes at its steps: read, and carried over into a run that resumes from it."""

from __future__ import annotations

import json
import math
from io import BytesIO
from pathlib import Path

import pandas as pd

from hapo_lit.storage.atomic import appearing, drop_drafts

METRIC_FILES = ("metrics_before.csv", "metrics.csv")
"""What a resumed run took over from the run before it, and what it wrote itself."""
LOG_FILES = (*METRIC_FILES, "groups.csv", "completions.jsonl")
"""What a run writes at its steps, besides checkpoints."""


def read_metrics(run: Path | str) -> pd.DataFrame:
    """The metrics of a run, one row per step; held-out accuracy is in the row of the step after which it was measured.

    A resumed run has ``metrics_before.csv`` as well: see :func:`carry_over`.

    Raises:
        FileNotFoundError: there are no metrics.
        ValueError: a line of them is broken; a last line without an end is not, it is left out.
    """
    table, broken = read_metrics_and_faults(run)
    if broken:
        raise ValueError(f"{run} holds metrics that cannot be read: {'; '.join(broken)}")
    return table


def read_metrics_and_faults(run: Path | str) -> tuple[pd.DataFrame, list[str]]:
    """As :func:`read_metrics`, without the broken lines; and for each file with broken lines, what was wrong."""
    paths = [Path(run) / name for name in METRIC_FILES]
    read = [(path.name, *_numbers(path)) for path in paths if path.is_file() and complete_lines(path)]
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

    pandas reads a line that is too short as one that ends in empty fields, so commas are counted; the lines are read
    one by one only if the count or a value is wrong.
    """
    content = complete_lines(path)
    header = content[: content.find(b"\n")]
    if content.count(b",") == (header.count(b",")) * content.count(b"\n"):
        try:
            table = pd.read_csv(BytesIO(content))
        except (ValueError, UnicodeDecodeError):
            table = None
        if table is not None and all(kind.kind in "fiub" for kind in table.dtypes) and _has_integer_steps(table):
            return table, ""
    return _readable_lines(content)


def _has_integer_steps(table: pd.DataFrame) -> bool:
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


def complete_lines(path: Path) -> bytes:
    """A file up to the end of its last complete line: a process that was killed may have left half a line."""
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def carry_over(old: Path | str, new: Path | str, step: int) -> None:
    """Take over the log files of a run, up to ``step``, into a run that resumes from it.

    Metrics move to ``metrics_before.csv``; lines of later steps are dropped, as these steps will be logged again.  With
    step 0 nothing is kept, not even the evaluation before training, which is repeated.

    Args:
        old: folder of the run that was interrupted.
        new: folder of the run that resumes; may be the same.
        step: of the checkpoint that it resumes from.
    """
    old, new = Path(old), Path(new)
    if step and any((old / name).is_file() and complete_lines(old / name) for name in METRIC_FILES):
        table = read_metrics(old)
        _replace(new / "metrics_before.csv", table[table.index <= step].to_csv())
    if (old / "groups.csv").is_file() and complete_lines(old / "groups.csv"):
        groups = pd.read_csv(BytesIO(complete_lines(old / "groups.csv")), dtype=str)
        _replace(new / "groups.csv", groups[groups["step"].astype(int) <= step].to_csv(index=False))
    if (old / "completions.jsonl").is_file():
        content = complete_lines(old / "completions.jsonl").decode()
        lines = content.split("\n")[:-1]  # not splitlines: a completion may hold other line separators
        kept = [line + "\n" for line in lines if json.loads(line)["step"] <= step]
        _replace(new / "completions.jsonl", "".join(kept))
    if old.resolve() == new.resolve():
        (new / "metrics.csv").unlink(missing_ok=True)
        drop_drafts(new)
    if not step:
        for name in LOG_FILES:
            (new / name).unlink(missing_ok=True)


def _replace(path: Path, text: str) -> None:
    with appearing(path) as draft:
        draft.write_text(text)

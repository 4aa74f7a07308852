"""Runs side by side: in which settings they differ, and the results of each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from hapo_lit.analysis.runs import Run
from hapo_lit.analysis.summary import last_injection, wilson

RECORDING = ("paths", "logger", "callbacks", "hydra", "evaluators", "resume", "allow_changes")
RECORDING_INSIDE = ("trainer.logger", "trainer.callbacks", "trainer.default_root_dir", "fabric.loggers", "data.workers")
"""Settings of where and how a run is recorded, which do not change what it learns."""
COPIES = {"horizon": "steps", "limit_train_batches": "steps", "max_new_tokens": "max_response_tokens"}
"""Last word of a setting that is a copy of another one -> that other one."""
OVERRIDES = re.compile(r"(?:\d+_)?([\w.+~/@-]+=[^=]*(?:,[\w.+~/@-]+=[^=]*)*)")
"""The name of a sweep's folder: the job's number and its overrides."""
MAX_NAME = 118
"""A folder's name of this length or more may not hold all overrides."""

RUN_COLUMNS = {
    "steps": ("steps", "{:,.0f}"),
    "greedy": ("accuracy, greedy", "{:.1%}"),
    "sampled": ("accuracy, sampled", "{:.1%}"),
    "heldout_problems": ("n", "{:,.0f}"),
    "last_injection": ("last injection, step", "{:,.0f}"),
    "demonstrations": ("demonstrations", "{:,.0f}"),
    "teacher_use_last": ("teacher in groups, last tenth", "{:.1%}"),
    "teacher_token_share": ("teacher's share of tokens", "{:.1%}"),
    "teacher_gradient_share": ("teacher's share of gradient", "{:.1%}"),
    "flat_before_last": ("flat groups, last tenth", "{:.1%}"),
    "flat_last": ("flat after injection, last tenth", "{:.1%}"),
    "generated_tokens": ("generated tokens", "{:,.0f}"),
    "seconds": ("seconds of training", "{:,.1f}"),
}
"""Column of :func:`run_table` -> what it means, and how it is printed."""


# -- which settings differ ----------------------------------------------------------------------------------------


def differing_settings(runs: list[Run]) -> pd.DataFrame:
    """The settings that are not the same in all runs, one row per run, without the seed; "" where a run has none.

    If every folder is named by its overrides (``gate.threshold=0.2,seed=0``) and these explain every difference, they
    are the settings.  Otherwise the settings are those that differ in ``config.yaml``, without copies of another one:
    the gate is there as ``gate`` and as ``algorithm.gate``.
    """
    full = _from_configurations(runs)
    named = _from_names([run.name for run in runs])
    if named is None:
        return full
    known = full[[bool(run.config) for run in runs]]
    keys = named.loc[known.index].agg("\0".join, axis=1) if len(named.columns) else pd.Series("", known.index)
    explained = known.empty or bool((known.groupby(keys).nunique() <= 1).all(axis=None))
    return named if explained else full


def _from_names(names: list[str]) -> pd.DataFrame | None:
    """The overrides that differ between folders; None unless every folder is named by its overrides."""
    found = [overrides(name) for name in names]
    if len(names) < 2 or not all(found):
        return None
    table = pd.DataFrame(found, index=names).fillna("").astype(str)
    return table[[name for name in table if name != "seed" and table[name].nunique() > 1]]


def overrides(name: str) -> dict[str, str]:
    """The overrides that a folder is named by; empty if it is not, or not by all of them."""
    last = name.rpartition("/")[2]
    match = OVERRIDES.fullmatch(last)
    pairs = re.split(r",(?=[\w.+~/@-]+=)", match[1]) if match and len(last) < MAX_NAME else []
    return {key.lstrip("+~"): value for key, _, value in (pair.partition("=") for pair in pairs)}


def _from_configurations(runs: list[Run]) -> pd.DataFrame:
    flat = [flat_settings(run.config) for run in runs]
    known = [settings for settings in flat if settings]
    keys = [key for key in dict.fromkeys(key for settings in known for key in settings) if changes_the_run(key)]
    columns = {key: [_shown(settings.get(key, "")) for settings in flat] for key in keys}
    read = [index for index, settings in enumerate(flat) if settings]
    columns = {key: values for key, values in columns.items() if len({values[index] for index in read}) > 1}
    first: dict[tuple, str] = {}
    for key in sorted(columns, key=lambda key: key.count(".")):
        first.setdefault((key.rpartition(".")[2], *columns[key]), key)
    kept = {key for (leaf, *values), key in first.items() if (COPIES.get(leaf), *values) not in first}
    chosen = {key.removesuffix("._target_"): columns[key] for key in columns if key in kept and key != "seed"}
    return pd.DataFrame(chosen, index=[run.name for run in runs])


def flat_settings(node: Any, where: str = "") -> dict[str, Any]:
    """``a.b: value`` for nested settings."""
    if isinstance(node, Mapping) and node:
        inside = (flat_settings(value, f"{where}.{key}" if where else str(key)) for key, value in node.items())
        return {key: value for part in inside for key, value in part.items()}
    return {where: node} if where else {}


def changes_the_run(key: str) -> bool:
    """False = the setting says where and how a run is recorded."""
    return key.split(".")[0] not in RECORDING and not key.startswith(RECORDING_INSIDE)


def _shown(value: Any) -> str:
    """A setting as it is written on a command line, a class of ours without its module."""
    if value is None:
        return "null"
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return text.rpartition(".")[2] if re.fullmatch(r"hapo_lit(\.\w+)+", text) else text


# -- runs side by side --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """Runs that differ only in their seed."""

    label: str
    runs: list[Run]

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.state == "finished"]


@dataclass(frozen=True)
class Sweep:
    """Runs to be compared; one run is a sweep of one."""

    runs: list[Run]

    @cached_property
    def settings(self) -> pd.DataFrame:
        """See :func:`differing_settings`."""
        return differing_settings(self.runs)

    @cached_property
    def grouped(self) -> list[Setting]:
        """The runs by what they differ in, in the order of the runs."""
        kinds: dict[tuple, list[Run]] = {}
        for run, values in zip(self.runs, self.settings.to_numpy().tolist(), strict=True):
            unknown = not run.config and not any(values)
            kinds.setdefault((run.name,) if unknown else tuple(values), []).append(run)
        return [Setting(self._label(values, runs), runs) for values, runs in kinds.items()]

    def _label(self, values: tuple, runs: list[Run]) -> str:
        names = [str(name) for name in self.settings]
        if not names or len(values) != len(names) or (len(names) > 1 and not any(values)):
            return runs[0].name
        parts = [f"{_short_name(name, names)}={value}" for name, value in zip(names, values, strict=True) if value]
        text = ", ".join(parts)
        return text if 0 < len(text) <= 60 and len(parts) <= 4 else runs[0].name


def _short_name(name: str, names: list[str]) -> str:
    """The last word of a setting, or all of it if another one ends in the same."""
    last = name.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in names) == 1 else name


def run_table(sweep: Sweep) -> pd.DataFrame:
    """One row per run, damaged and failed ones too.

    ``run``, ``state``, ``note``, the settings that differ, ``seed``, ``steps_planned``, ``measured_at`` (the step of
    the last evaluation), ``greedy_low`` ... ``sampled_high`` (95 % Wilson interval over the held-out problems; empty if
    their number is not known), and the columns of :data:`RUN_COLUMNS`.  Shares are in [0, 1]; of a run that did not
    finish, numbers are those that it reached.
    """
    rows = [
        {
            "run": run.name,
            "state": run.state,
            "note": run.note,
            **dict(sweep.settings.loc[run.name]),
            "seed": seed_of(run),
            "steps_planned": run.planned,
            **outcome(run),
        }
        for run in sweep.runs
    ]
    return pd.DataFrame(rows).astype(dict.fromkeys(("seed", "steps_planned", "steps", "measured_at"), "Int64"))


def seed_of(run: Run) -> int | None:
    """The seed in its configuration, or, if it ended before it wrote one, in its folder's name."""
    seed = run.seed if run.seed is not None else overrides(run.name).get("seed", "")
    return int(seed) if re.fullmatch(r"\d+", str(seed)) else None


def outcome(run: Run) -> dict[str, float]:
    """The results of a run; NaN where they are not known.  See :func:`run_table`."""
    tenth = max(1, len(run.trained) // 10)

    def last_tenth(metric: str) -> float:
        return float(run.trained[metric].iloc[-tenth:].mean()) if metric in run.trained else np.nan

    def total(metric: str) -> float:
        values = run.series(metric)
        return float(values.sum()) if len(values) else np.nan

    def mean(metric: str) -> float:
        return float(run.series(metric).mean())

    found = {"steps": float(run.steps), "measured_at": np.nan}
    problems = heldout_problems(run)
    for name in ("greedy", "sampled"):
        measured = run.series(f"heldout/{name}")
        share = float(measured.iloc[-1]) if len(measured) else np.nan
        known = len(measured) > 0 and problems > 0
        low, high = wilson(share, problems) if known else (np.nan, np.nan)
        found |= {name: share, f"{name}_low": low, f"{name}_high": high}
        found["measured_at"] = float(measured.index[-1]) if len(measured) else found["measured_at"]
    return found | {
        "heldout_problems": problems,
        "last_injection": last_injection(run.series("teacher/rows")),
        "demonstrations": total("teacher/rows"),
        "teacher_use_last": last_tenth("teacher/use"),
        "teacher_token_share": mean("teacher/token_share"),
        "teacher_gradient_share": mean("teacher/gradient_share"),
        "flat_before_last": last_tenth("signal/flat_before"),
        "flat_last": last_tenth("signal/flat"),
        "generated_tokens": total("rollout/tokens"),
        "seconds": total("time/step"),
    }


def heldout_problems(run: Run) -> float:
    """How many problems accuracy is measured on, by its summary or else its configuration; NaN if neither says so."""
    if "heldout_problems" in run.summary:
        return run.summary["heldout_problems"]
    source = run.config.get("data", {})
    source = source.get("source", {}) if isinstance(source, Mapping) else {}
    asked = source.get("heldout_size") if isinstance(source, Mapping) else None
    return float(asked) if isinstance(asked, int) else np.nan


def setting_table(sweep: Sweep) -> pd.DataFrame:
    """One row per setting over its finished runs: ``setting``, ``runs``, ``finished``, and of each number of
    :data:`RUN_COLUMNS` its mean, ``_low`` and ``_high`` (smallest and largest over seeds)."""
    rows = []
    for setting in sweep.grouped:
        row: dict[str, Any] = {"setting": setting.label, "runs": len(setting.runs), "finished": len(setting.finished)}
        found = pd.DataFrame([outcome(run) for run in setting.finished], columns=list(RUN_COLUMNS), dtype=float)
        for name in RUN_COLUMNS:
            row |= {name: found[name].mean(), f"{name}_low": found[name].min(), f"{name}_high": found[name].max()}
        rows.append(row)
    return pd.DataFrame(rows)


def long_table(sweep: Sweep) -> pd.DataFrame:
    """Every logged number of every run: ``run``, the settings that differ, ``seed``, ``step``, ``metric``, ``value``.

    A run that logged none is not in it; :func:`run_table` has a row for it.
    """
    parts = []
    for run in sweep.runs:
        numbers = run.metrics.melt(ignore_index=False, var_name="metric").dropna(subset=["value"]).reset_index()
        numbers.insert(0, "seed", seed_of(run))
        for name, value in reversed(list(sweep.settings.loc[run.name].items())):
            numbers.insert(0, str(name), value)
        numbers.insert(0, "run", run.name)
        parts.append(numbers)
    names = ["run", *sweep.settings, "seed", "step", "metric", "value"]
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True)[names] if filled else pd.DataFrame(columns=names)


def steps_of(runs: Iterable[Run], metric: str, window: int = 1) -> pd.DataFrame:
    """A metric over steps, one column per run that logged it, as a running mean over ``window`` logged steps."""
    logged = {run.name: run.series(metric) for run in runs}
    smooth = {name: series.rolling(window, min_periods=1).mean() for name, series in logged.items() if len(series)}
    return pd.DataFrame(smooth)

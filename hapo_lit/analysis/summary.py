"""A run in a few numbers, with their intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from hapo_lit.analysis.logs import read_metrics
from hapo_lit.storage.atomic import appearing


def wilson(share: float, count: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share of ``count`` independent trials; all of [0, 1] if there were none.

    Unlike the normal approximation it has a width at shares of 0 and 1 too.
    """
    if not count > 0:
        return 0.0, 1.0
    z = float(stats.norm.ppf((1 + level) / 2))
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * float(np.sqrt(share * (1 - share) / count + z * z / (4 * count * count)))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def last_injection(teacher_rows: pd.Series) -> float:
    """The last step with a teacher's row in its batch, 0 if there was none; NaN if this was not logged."""
    steps = teacher_rows.dropna()
    injected = steps.index[steps > 0]
    if steps.empty:
        return float("nan")
    return float(injected[-1]) if len(injected) else 0.0


def summarise(run: Path | str, data: Mapping[str, float]) -> dict[str, float]:
    """The run in a few numbers, also written to ``summary.json``; see :data:`SUMMARY_LABELS` for their meaning.

    Args:
        run: the run's folder.
        data: numbers of the datamodule, as its ``describe`` gives them.
    """
    table = read_metrics(run)
    tenth = max(1, len(table) // 10)
    steps = table.dropna(subset=["time/step"])
    summary: dict[str, float] = {}
    for name in ("greedy", "sampled"):
        if f"heldout/{name}" in table:
            measured = table[f"heldout/{name}"].dropna()
            summary |= {f"{name}_before": measured.iloc[0], f"{name}_after": measured.iloc[-1]}
    summary |= {name: data[name] for name in ("heldout_problems", "teacher_accuracy", "teacher_accepted")}
    summary["teacher_use_first"] = steps["teacher/use"].iloc[:tenth].mean()
    summary["teacher_use_last"] = steps["teacher/use"].iloc[-tenth:].mean()
    summary["demonstrations"] = steps["teacher/rows"].sum()
    summary["last_injection"] = last_injection(steps["teacher/rows"])
    if "signal/flat_before" in steps:
        summary["flat_before_last"] = steps["signal/flat_before"].iloc[-tenth:].mean()
        summary["flat_last"] = steps["signal/flat"].iloc[-tenth:].mean()
        summary["generated_tokens"] = steps["rollout/tokens"].sum()
        summary["tokens_per_second"] = steps["rollout/tokens"].sum() / steps["time/rollout"].sum()
    summary |= times(table)
    if "generated_tokens" in summary:
        summary["tokens_per_second_of_run"] = summary["generated_tokens"] / summary["seconds_run"]
    summary["steps"] = len(steps)
    plain = {name: float(value) for name, value in summary.items()}
    with appearing(Path(run) / "summary.json") as draft:
        draft.write_text(json.dumps(plain, indent=2) + "\n")
    return plain


def times(table: pd.DataFrame) -> dict[str, float]:
    """Where the seconds of a run went, by :data:`PHASES`, and the share of them that it waited.

    Args:
        table: its metrics, one row per step.
    """
    logged = {
        name: table[f"time/{name}"].sum() for name in (*PHASES, "step", "between", "engine") if f"time/{name}" in table
    }
    in_steps = sum(logged.get(name, 0.0) for name in ("rollout", "verify", "score", "update", "sync"))
    beside = sum(logged.get(name, 0.0) for name in ("between", "evaluate", "checkpoint", "data"))
    run = logged["step"] + beside
    rest = max(logged["step"] - in_steps, 0.0) + logged.pop("between", 0.0)
    waited = logged.get("data", 0.0) + logged.pop("engine", 0.0)
    seconds = {f"seconds_{name}": value for name, value in (logged | {"rest": rest, "run": run}).items()}
    return seconds | {"waiting_share": waited / run}


PHASES = ("rollout", "verify", "score", "update", "sync", "evaluate", "checkpoint", "data")
"""What a run does one after the other, by the names under ``time/``; what is left is the rest."""
SUMMARY_LABELS = {
    "greedy_before": ("held-out accuracy, greedy, before", "{:.1%}"),
    "greedy_after": ("held-out accuracy, greedy, after", "{:.1%}"),
    "sampled_before": ("held-out accuracy, sampled, before", "{:.1%}"),
    "sampled_after": ("held-out accuracy, sampled, after", "{:.1%}"),
    "heldout_problems": ("held-out problems", "{:,.0f}"),
    "teacher_accuracy": ("teacher accuracy", "{:.1%}"),
    "teacher_accepted": ("problems whose teacher may be used", "{:.1%}"),
    "teacher_use_first": ("groups with a teacher, first 10 % of steps", "{:.1%}"),
    "teacher_use_last": ("groups with a teacher, last 10 % of steps", "{:.1%}"),
    "demonstrations": ("demonstrations consumed", "{:,.0f}"),
    "last_injection": ("step of the last injection; 0 = there was none", "{:,.0f}"),
    "flat_before_last": ("groups without signal before injection, last 10 %", "{:.1%}"),
    "flat_last": ("groups without signal after injection, last 10 %", "{:.1%}"),
    "generated_tokens": ("tokens sampled in training", "{:,.0f}"),
    "tokens_per_second": ("sampled tokens per second of rollout", "{:,.0f}"),
    "tokens_per_second_of_run": ("sampled tokens per second of the whole run", "{:,.0f}"),
    "seconds_run": ("seconds in all, without start and export", "{:.1f}"),
    "seconds_rollout": ("seconds in rollout", "{:.1f}"),
    "seconds_verify": ("seconds in verification", "{:.1f}"),
    "seconds_score": ("seconds in scores of old policy and reference", "{:.1f}"),
    "seconds_update": ("seconds in updates", "{:.1f}"),
    "seconds_sync": ("seconds in bringing weights to the engine", "{:.1f}"),
    "seconds_evaluate": ("seconds in held-out evaluation", "{:.1f}"),
    "seconds_checkpoint": ("seconds in checkpoints", "{:.1f}"),
    "seconds_data": ("seconds of waiting for data", "{:.1f}"),
    "seconds_rest": ("seconds in all else", "{:.1f}"),
    "seconds_step": ("seconds in all training steps", "{:.1f}"),
    "waiting_share": ("share of time spent waiting, for data or an engine elsewhere", "{:.1%}"),
    "steps": ("training steps", "{:.0f}"),
}
"""Name in ``summary.json`` -> what it means, and how it is printed."""
SHARES = frozenset(f"seconds_{name}" for name in (*PHASES, "rest"))
"""What adds up to all seconds of a run."""


def print_summary(summary: Mapping[str, float]) -> None:
    """Print a summary as a table, each phase with its share of the run's time."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Summary", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, (label, form) in SUMMARY_LABELS.items():
        if name in summary:
            share = f" ({summary[name] / summary['seconds_run']:.1%})" if name in SHARES else ""
            table.add_row(label, form.format(summary[name]) + share)
    Console().print(table)

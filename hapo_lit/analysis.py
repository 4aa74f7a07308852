"""Run folders -> tables and figures.  Reads what a run wrote; needs neither the run's parts nor its configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

Chance = Callable[[np.ndarray, int, int], np.ndarray | None]
"""``(success rates, trials, visit)`` -> P(the gate opens); None = not known in closed form."""


RECORDS = ("metrics.csv", "metrics_before.csv", "groups.csv", "completions.jsonl")
"""What a run writes as it goes, besides states."""


def read_run(run: Path | str) -> pd.DataFrame:
    """The metrics of a run, one row per step; held-out accuracy stands on the step it was measured after.

    A resumed run has ``metrics_before.csv`` as well: see :func:`carry_over`.
    """
    paths = [Path(run) / name for name in ("metrics_before.csv", "metrics.csv")]
    tables = [pd.read_csv(StringIO(whole_lines(path))) for path in paths if path.is_file() and whole_lines(path)]
    if not tables:
        raise FileNotFoundError(f"{paths[1]} does not exist: {run} is not the folder of a run")
    return pd.concat(tables).groupby("step").first()


def whole_lines(path: Path) -> str:
    """The text of a file up to its last line's end: a process that was killed may have left half a line."""
    text = path.read_text()
    return text[: text.rfind("\n") + 1]


def carry_over(old: Path | str, new: Path | str, step: int) -> None:
    """What a run that goes on after ``step`` of another one, or of itself, keeps of that run's records.

    Metrics move to ``metrics_before.csv``; what was written of later steps is dropped, as it will be written again.
    With step 0 nothing is kept, not even the evaluation before training, which is made again.
    """
    old, new = Path(old), Path(new)
    records = [old / name for name in ("metrics_before.csv", "metrics.csv")]
    if step and any(each.is_file() and whole_lines(each) for each in records):
        table = read_run(old)
        _replace(new / "metrics_before.csv", table[table.index <= step].to_csv())
    if (old / "groups.csv").is_file() and whole_lines(old / "groups.csv"):
        groups = pd.read_csv(StringIO(whole_lines(old / "groups.csv")), dtype=str)
        _replace(new / "groups.csv", groups[groups["step"].astype(int) <= step].to_csv(index=False))
    if (old / "completions.jsonl").is_file():
        lines = whole_lines(old / "completions.jsonl").split("\n")[:-1]  # a text may hold other line separators
        kept = [line + "\n" for line in lines if json.loads(line)["step"] <= step]
        _replace(new / "completions.jsonl", "".join(kept))
    for path in [new / "metrics.csv", *new.glob(".*.unfinished")] if old.resolve() == new.resolve() else []:
        if path.is_file():
            path.unlink()
    if not step:
        for name in RECORDS:
            (new / name).unlink(missing_ok=True)


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.unfinished")
    fresh.write_text(text)
    os.replace(fresh, path)


def summarise(run: Path | str, data: Mapping[str, float]) -> dict[str, float]:
    """The run in a few numbers, also written to ``summary.json``; see :data:`LABELS` for their meaning.

    Args:
        run: the run's folder.
        data: what the datamodule says of itself.
    """
    table = read_run(run)
    tenth = max(1, len(table) // 10)
    steps = table.dropna(subset=["time/step"])
    summary: dict[str, float] = {}
    for name in ("greedy", "sampled"):
        if f"heldout/{name}" in table:
            measured = table[f"heldout/{name}"].dropna()
            summary |= {f"{name}_before": measured.iloc[0], f"{name}_after": measured.iloc[-1]}
    summary |= {name: data[name] for name in ("teacher_accuracy", "teacher_accepted")}
    summary["teacher_use_first"] = steps["teacher/use"].iloc[:tenth].mean()
    summary["teacher_use_last"] = steps["teacher/use"].iloc[-tenth:].mean()
    summary["demonstrations"] = steps["teacher/rows"].sum()
    if "signal/flat_before" in steps:
        summary["flat_before_last"] = steps["signal/flat_before"].iloc[-tenth:].mean()
        summary["flat_last"] = steps["signal/flat"].iloc[-tenth:].mean()
        summary["tokens_per_second"] = steps["rollout/tokens"].sum() / steps["time/rollout"].sum()
    for name in ("rollout", "verify", "update", "step", "evaluate"):
        if f"time/{name}" in table:
            summary[f"seconds_{name}"] = table[f"time/{name}"].sum()
    summary["steps"] = len(steps)
    plain = {name: float(value) for name, value in summary.items()}
    (Path(run) / "summary.json").write_text(json.dumps(plain, indent=2) + "\n")
    return plain


def injection_by_pass_rate(run: Path | str, chance: Chance, neighbours: int = 2, bins: int = 10) -> pd.DataFrame:
    """How often the gate opened, observed against predicted by its law, by the pass rate of the prompt.

    A prompt's pass rate at a visit is not known; its visits just before and after tell.  The law is averaged over what
    they leave open: the posterior of the rate, with a prior fitted to the run itself (the nonparametric maximum of the
    likelihood, Kiefer and Wolfowitz 1956, by expectation-maximisation on a grid).  The group at hand is left out, as it
    is what the gate decided from.  The prediction takes rates to stand still between neighbouring visits; where the
    policy learns or wavers fast they do not, and observed shares are less steep over the bins than predicted ones.
    Also written to ``injection.csv``.

    Args:
        run: the run's folder, with ``groups.csv``.
        chance: ``(rates, trials, visit) -> P(open)``, e.g. ``BetaGate.chance``; None where no closed form is known.
        neighbours: visits before and after that tell the rate; at the default 16 rollouts for groups of four.
        bins: of the pass rate.

    Returns:
        one row for each bin with groups in it: ``pass_rate`` (mean of the bin), ``groups``, ``observed``, ``predicted``
        (shares in [0, 1]); no row, and no file, if no prompt was visited twice.
    """
    groups = pd.read_csv(Path(run) / "groups.csv").sort_values(["prompt", "step"])
    for name in ("successes", "trials"):
        visits = groups.groupby("prompt")[name]
        groups[f"nearby_{name}"] = visits.transform(
            lambda own: own.rolling(2 * neighbours + 1, center=True, min_periods=1).sum() - own
        )
    first = groups["step"].min()
    groups = groups[groups["nearby_trials"] > 0].copy()
    if groups.empty:
        return pd.DataFrame(columns=["pass_rate", "groups", "observed", "predicted"])
    rates = np.linspace(0, 1, 201)
    kinds = groups.groupby(["nearby_successes", "nearby_trials"]).ngroup().to_numpy()
    won, tried = groups[["nearby_successes", "nearby_trials"]].iloc[np.unique(kinds, return_index=True)[1]].to_numpy().T
    posterior = _posteriors(stats.binom.pmf(won[:, None], tried[:, None], rates), np.bincount(kinds))

    def predicted(at: pd.DataFrame) -> pd.Series:
        """P(open) of the groups of one step."""
        law = chance(rates, int(at["trials"].iloc[0]), int(at["step"].iloc[0] - first))
        return pd.Series(np.nan if law is None else posterior[at["kind"]] @ law, at.index)

    groups["kind"] = kinds
    pass_rate = groups["nearby_successes"] / groups["nearby_trials"]
    table = pd.DataFrame(
        {
            "pass_rate": pass_rate,
            "groups": 1,
            "observed": groups["open"],
            "predicted": pd.concat([predicted(at) for _, at in groups.groupby("step")]),
        }
    )
    means: dict[str, Any] = {"pass_rate": "mean", "groups": "sum", "observed": "mean", "predicted": "mean"}
    report = table.groupby((pass_rate * bins).clip(upper=bins - 0.5).astype(int)).agg(means).reset_index(drop=True)
    report.to_csv(Path(run) / "injection.csv", index=False)
    return report


LABELS = {
    "greedy_before": ("held-out accuracy, greedy, before", "{:.1%}"),
    "greedy_after": ("held-out accuracy, greedy, after", "{:.1%}"),
    "sampled_before": ("held-out accuracy, sampled, before", "{:.1%}"),
    "sampled_after": ("held-out accuracy, sampled, after", "{:.1%}"),
    "teacher_accuracy": ("teacher accuracy", "{:.1%}"),
    "teacher_accepted": ("problems whose teacher may be used", "{:.1%}"),
    "teacher_use_first": ("groups with a teacher, first 10 % of steps", "{:.1%}"),
    "teacher_use_last": ("groups with a teacher, last 10 % of steps", "{:.1%}"),
    "demonstrations": ("demonstrations consumed", "{:,.0f}"),
    "flat_before_last": ("groups without signal before injection, last 10 %", "{:.1%}"),
    "flat_last": ("groups without signal after injection, last 10 %", "{:.1%}"),
    "tokens_per_second": ("sampled tokens per second of rollout", "{:,.0f}"),
    "seconds_rollout": ("seconds in rollout", "{:.1f}"),
    "seconds_verify": ("seconds in verification", "{:.1f}"),
    "seconds_update": ("seconds in updates", "{:.1f}"),
    "seconds_step": ("seconds in all training steps", "{:.1f}"),
    "seconds_evaluate": ("seconds in held-out evaluation", "{:.1f}"),
    "steps": ("training steps", "{:.0f}"),
}
"""Name in ``summary.json`` -> what it means, and how it is printed."""


def show(summary: Mapping[str, float]) -> None:
    """Print a summary as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="the run", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, (label, form) in LABELS.items():
        if name in summary:
            table.add_row(label, form.format(summary[name]))
    Console().print(table)


def _posteriors(likelihood: np.ndarray, counts: np.ndarray, rounds: int = 200) -> np.ndarray:
    """``[K, R]`` posteriors over a grid of rates for ``K`` kinds of evidence, seen ``counts`` times, with the prior
    that makes all of it most likely."""
    prior = np.full(likelihood.shape[1], 1 / likelihood.shape[1])
    for _ in range(rounds):
        posterior = likelihood * prior
        posterior /= posterior.sum(1, keepdims=True)
        prior = counts @ posterior / counts.sum()
    found: np.ndarray = posterior
    return found


def show_injection(report: pd.DataFrame) -> None:
    """Print a report of :func:`injection_by_pass_rate` as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="how often the gate opened, by the prompt's pass rate around that visit")
    for name in ("pass rate", "groups", "observed", "by its law"):
        table.add_column(name, justify="right")
    for row in report.to_dict("records"):
        law = "" if pd.isna(row["predicted"]) else f"{row['predicted']:.1%}"
        table.add_row(f"{row['pass_rate']:.0%}", f"{row['groups']:,.0f}", f"{row['observed']:.1%}", law)
    Console().print(table)


def plot_anneal(run: Path | str, window: int = 15) -> Path:
    """``anneal.png`` in the run's folder: held-out accuracy, teacher use and groups without signal over steps.

    Args:
        run: the run's folder.
        window: steps of the running mean over noisy per-step shares.
    """
    from matplotlib.figure import Figure

    table = read_run(run)
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    curves = {  # the Okabe-Ito colours, told apart by everyone
        "teacher/use": ("groups with a teacher", "#D55E00", "-"),
        "signal/all_wrong": ("groups all wrong", "#000000", ":"),
        "signal/flat_before": ("groups without signal: all wrong or all right", "#999999", "--"),
    }
    for name, (label, colour, style) in curves.items():
        if name in table:
            share = 100 * table[name].dropna().rolling(window, min_periods=1).mean()
            axes.plot(share.index, share, style, color=colour, label=label, linewidth=1.5)
    for name, label, colour, marker in (
        ("heldout/greedy", "held-out accuracy, greedy", "#0072B2", "o"),
        ("heldout/sampled", "held-out accuracy, sampled", "#009E73", "s"),
    ):
        if name in table:
            measured = 100 * table[name].dropna()
            axes.plot(measured.index, measured, marker=marker, markersize=3.5, color=colour, label=label)
    axes.set(xlabel="training step", ylabel="%", ylim=(-2, 102), xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.24), ncols=2, frameon=False, fontsize=8.5)
    path = Path(run) / "anneal.png"
    figure.savefig(path, dpi=160)
    return path

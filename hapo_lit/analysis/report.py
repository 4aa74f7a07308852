"""``hapo report``: runs, one or many, as a page, its figures and its tables."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hapo_lit.analysis.figures import Curve, cost_figure, curve_figure, final_figure, last_injection_figure
from hapo_lit.analysis.gate_figures import injection_figure
from hapo_lit.analysis.identical import IdenticalRuns, identical_runs
from hapo_lit.analysis.injection import COLUMNS, injection_of_run
from hapo_lit.analysis.page import PageFigure, render_page
from hapo_lit.analysis.runs import find_runs
from hapo_lit.analysis.tables import Sweep, long_table, run_table, setting_table

SEEDS = "Mean over seeds; the band is from the lowest to the highest. A thin line with a cross did not finish."
SMOOTH = "Running mean over a fortieth of the run. " + SEEDS


class FigureRecipe(NamedTuple):
    """A figure of the report, and how it is drawn."""

    name: str
    title: str
    caption: str
    draw: Callable[[Sweep], Figure | None]
    needs: str
    """The metrics without which it cannot be drawn."""


def _curve(metric: str, ylabel: str, top: float | None, smooth: bool = True) -> Callable[[Sweep], Figure | None]:
    return lambda sweep: curve_figure(sweep, Curve(metric, smooth=smooth), ylabel, top)


FIGURES = [
    FigureRecipe(
        "accuracy_sampled",
        "Held-out accuracy, sampled",
        SEEDS,
        _curve("heldout/sampled", "held-out accuracy, sampled (%)", 100, smooth=False),
        "heldout/sampled",
    ),
    FigureRecipe(
        "accuracy_greedy",
        "Held-out accuracy, greedy",
        SEEDS,
        _curve("heldout/greedy", "held-out accuracy, greedy (%)", 100, smooth=False),
        "heldout/greedy",
    ),
    FigureRecipe(
        "final_accuracy",
        "Accuracy at the end",
        "A dot per run with its 95 % Wilson interval over held-out problems; open dots are runs that did not finish.",
        final_figure,
        "heldout/sampled or heldout/greedy",
    ),
    FigureRecipe(
        "reward",
        "Reward on-policy",
        f"Success rate of what the policy sampled in training. {SMOOTH}",
        _curve("reward/mean", "reward on-policy (%)", 100),
        "reward/mean",
    ),
    FigureRecipe(
        "injection_rate",
        "Injection rate",
        f"Share of the groups into which a teacher's solution was put. {SMOOTH}",
        _curve("teacher/use", "groups with a teacher (%)", None),
        "teacher/use",
    ),
    FigureRecipe(
        "last_injection",
        "The last injection",
        "The step after which the policy was on its own, a dot per run; open dots are runs that did not finish.",
        last_injection_figure,
        "teacher/rows",
    ),
    FigureRecipe(
        "teacher_tokens",
        "The teacher's share of tokens",
        f"Share of the loss's token weight that lies on the teacher's tokens. {SMOOTH}",
        _curve("teacher/token_share", "teacher's share of tokens (%)", None),
        "teacher/token_share",
    ),
    FigureRecipe(
        "teacher_gradient",
        "The teacher's share of gradient",
        f"Share of the gradient that the teacher's tokens make. {SMOOTH}",
        _curve("teacher/gradient_share", "teacher's share of gradient (%)", None),
        "teacher/gradient_share",
    ),
    FigureRecipe(
        "flat_groups",
        "Groups without signal",
        f"Share of groups whose rewards are all equal before injection. {SMOOTH}",
        _curve("signal/flat_before", "flat groups before injection (%)", 100),
        "signal/flat_before",
    ),
    FigureRecipe(
        "flat_groups_after",
        "Groups without signal after injection",
        f"What is left of them with the teacher's help. {SMOOTH}",
        _curve("signal/flat", "flat groups after injection (%)", 100),
        "signal/flat",
    ),
    FigureRecipe(
        "cost_tokens",
        "Accuracy against tokens",
        "Tokens sampled in training until the measurement, a line per run.",
        lambda sweep: cost_figure(sweep, "rollout/tokens", "generated tokens (millions)", 1e-6),
        "held-out accuracy and rollout/tokens",
    ),
    FigureRecipe(
        "cost_seconds",
        "Accuracy against time",
        "Seconds in training steps until the measurement, a line per run.",
        lambda sweep: cost_figure(sweep, "time/step", "time in training steps (s)", 1.0),
        "held-out accuracy and time/step",
    ),
]


class Report(NamedTuple):
    """The files of a report, and the table of its runs."""

    page: Path
    figures: list[Path]
    runs: pd.DataFrame
    """See :func:`hapo_lit.analysis.run_table`."""
    identical: list[IdenticalRuns]
    """Runs that are the same run under other settings."""


def write_report(folder: Path | str, out: Path | str | None = None) -> Report:
    """``report.html``, its figures as PNG, ``runs.csv``, ``settings.csv``, ``injection.csv`` and the long ``tidy.csv``.

    Args:
        folder: of a run, or one with runs in it at any depth.
        out: where they go; None = ``report`` in ``folder``.

    Raises:
        NoRunError: there is no run in ``folder``.
    """
    folder = Path(folder)
    sweep = Sweep(find_runs(folder))
    out = folder / "report" if out is None else Path(out)
    out.mkdir(parents=True, exist_ok=True)
    injection, remarks = injection_by_setting(sweep)
    figures, missing = _figures(sweep, injection)
    table = run_table(sweep)
    settings = setting_table(sweep)
    table.to_csv(out / "runs.csv", index=False)
    settings.to_csv(out / "settings.csv", index=False)
    injection.to_csv(out / "injection.csv", index=False)
    long_table(sweep).to_csv(out / "tidy.csv", index=False)
    for figure in figures:
        (out / f"{figure.name}.png").write_bytes(figure.png)
    path = out / "report.html"
    identical = identical_runs({run.name: run.config for run in sweep.runs})
    tables = (table, settings, injection)
    path.write_text(render_page(folder.resolve().name, sweep, *tables, figures, missing, remarks, identical))
    return Report(path, [out / f"{figure.name}.png" for figure in figures], table, identical)


def _figures(sweep: Sweep, injection: pd.DataFrame) -> tuple[list[PageFigure], list[str]]:
    """The figures that can be drawn, and of the others what they lack."""
    drawn, missing = [], []
    for recipe in FIGURES:
        figure = recipe.draw(sweep)
        if figure is None:
            missing.append(f"{recipe.title}: no run logged {recipe.needs}")
        else:
            caption = recipe.caption if len(sweep.runs) > 1 else recipe.caption.removesuffix(SEEDS).strip()
            drawn.append(PageFigure(recipe.name, recipe.title, caption, _png(figure)))
    title = "Injection, predicted and observed"
    tables = [(setting.label, injection[injection["setting"] == setting.label]) for setting in sweep.grouped]
    figure = injection_figure(tables)
    if figure is None:
        missing.append(f"{title}: no run logged how often its gate opened")
    else:
        caption = "How often the gate opened by the pass rate around that visit, and how often by the injection law."
        place = next((at for at, known in enumerate(drawn) if known.name == "teacher_tokens"), len(drawn))
        drawn.insert(place, PageFigure("injection_law", title, caption, _png(figure)))
    return drawn, missing


def _png(figure: Figure) -> bytes:
    content = BytesIO()
    figure.savefig(content, format="png", dpi=300)
    return content.getvalue()


def injection_by_setting(sweep: Sweep) -> tuple[pd.DataFrame, dict[str, str]]:
    """How often the gate opened by pass rate, over the runs of each setting, and remarks on runs.

    Returns:
        ``setting``, ``pass_rate``, ``groups``, ``observed``, ``predicted`` (NaN if it is not known), a row per bin; and
        run -> remark.
    """
    pooled, remarks = [], {}
    for setting in sweep.grouped:
        tables = []
        for run in setting.runs:
            table, remark = injection_of_run(run)
            tables.append(table)
            if remark:
                remarks[run.name] = remark
        bins = _pooled(pd.concat([table for table in tables if len(table)] or tables))
        bins.insert(0, "setting", setting.label)
        pooled.append(bins)
    return pd.concat(pooled, ignore_index=True), remarks


def _pooled(table: pd.DataFrame) -> pd.DataFrame:
    """Bins of several runs as one, weighted by their groups."""
    if table.empty:
        return pd.DataFrame(columns=COLUMNS)
    rows = []
    for _, group in table.groupby((10 * table["pass_rate"]).clip(upper=9.5).astype(int)):
        known = group[group["predicted"].notna()]
        rows.append(
            {
                "pass_rate": np.average(group["pass_rate"], weights=group["groups"]),
                "groups": group["groups"].sum(),
                "observed": np.average(group["observed"], weights=group["groups"]),
                "predicted": np.average(known["predicted"], weights=known["groups"]) if len(known) else np.nan,
            }
        )
    return pd.DataFrame(rows)

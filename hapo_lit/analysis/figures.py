"""Figures at the width of a paper's column, 3.3 inches.

Colours are those of Okabe and Ito, which people with any colour vision can tell apart; where there are more lines than
colours, the line style differs too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hapo_lit.analysis.logs import read_metrics
from hapo_lit.analysis.runs import Run
from hapo_lit.analysis.tables import Sweep, outcome, steps_of
from hapo_lit.storage.atomic import appearing

BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY, GREY = "#0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9 #888888".split()
COLOURS = [BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY, "#000000"]
LINE_STYLES: list[Any] = ["-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1))]
WIDTH, HEIGHT = 3.3, 2.3
MAX_POINTS = 400
"""Points of a line; more could not be seen at this width."""

STYLE = {
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "axes.titlesize": 7.5,
    "legend.fontsize": 6.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.35,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
    "legend.frameon": False,
    "savefig.dpi": 300,
    "figure.dpi": 150,
}


@contextmanager
def panel(height: float = HEIGHT, legend: int = 0) -> Iterator[tuple[Figure, Axes]]:
    """A figure of one column, in the style of this file.

    Args:
        height: inches, without the legend.
        legend: lines that the legend will have.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height + 0.14 * legend), layout="constrained")
        axes = figure.subplots()
        yield figure, axes


def legend_above(figure: Figure, handles: Sequence[Any], columns: int) -> None:
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=columns, handlelength=2.2, columnspacing=1.2)


def line_style(index: int) -> dict[str, Any]:
    """Colour and line style of the line of this index."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": LINE_STYLES[index // len(COLOURS) % len(LINE_STYLES)]}


def layout(labels: Sequence[str]) -> tuple[int, int]:
    """The number of columns and of lines that a legend with these labels has."""
    longest = max(map(len, labels), default=0)
    columns = 3 if longest <= 12 and len(labels) > 2 else 2 if longest <= 24 else 1
    return columns, -(-len(labels) // columns)


# -- curves over steps --------------------------------------------------------------------------------------------


class Curve(NamedTuple):
    """A metric as it is drawn."""

    metric: str
    scale: float = 100.0
    smooth: bool = True


def curve_figure(sweep: Sweep, curve: Curve, ylabel: str, top: float | None = None) -> Figure | None:
    """One line per setting: the mean over its seeds, in a band from the lowest of them to the highest.

    Runs that did not finish are thin lines of their own that end in a cross, as a mean would jump where they end.  None
    if no run logged the metric.
    """
    drawn = [(index, setting) for index, setting in enumerate(sweep.grouped) if len(_seeds(setting.runs, curve))]
    if not drawn:
        return None
    labels = [setting.label for _, setting in drawn] if len(sweep.grouped) > 1 else []
    columns, lines = layout(labels)
    with panel(legend=lines) as (figure, axes):
        handles = []
        for index, setting in drawn:
            style = line_style(index)
            handles += axes.plot([], [], label=setting.label, **style)
            _draw_band(axes, _seeds(setting.finished, curve), style, "" if curve.smooth else "o")
            for run in setting.runs:
                if run.state != "finished":
                    _draw_unfinished(axes, _seeds([run], curve), style)
        axes.set(xlabel="training step", ylabel=ylabel, xlim=(0, None))
        axes.set_ylim(0 if top is None else -0.02 * top, top and 1.02 * top)
        legend_above(figure, handles if labels else [], columns)
    return figure


def _draw_band(axes: Axes, seeds: pd.DataFrame, style: dict[str, Any], marker: str) -> None:
    if seeds.empty:
        return
    mean = seeds.mean(axis=1)
    axes.plot(mean.index, mean, marker=marker, **style)
    if seeds.shape[1] > 1:
        low, high = seeds.min(axis=1), seeds.max(axis=1)
        axes.fill_between(seeds.index, low, high, color=style["color"], alpha=0.18, linewidth=0)


def _draw_unfinished(axes: Axes, run: pd.DataFrame, style: dict[str, Any]) -> None:
    if len(run):
        axes.plot(run.index, run, **style | {"linewidth": 0.6})
        axes.plot(run.index[-1:], run.iloc[-1:, 0], "x", color=style["color"], markersize=4)


def _seeds(runs: Sequence[Run], curve: Curve) -> pd.DataFrame:
    """One column per run, at no more than :data:`MAX_POINTS` of the steps that were logged."""
    longest = max((len(run.series(curve.metric)) for run in runs), default=0)
    table = steps_of(runs, curve.metric, smoothing(longest) if curve.smooth else 1)
    return curve.scale * _thinned(table)


def smoothing(steps: int) -> int:
    """Over how many steps a running mean goes: a fortieth of the run."""
    return max(1, steps // 40)


def _thinned(table: pd.DataFrame) -> pd.DataFrame:
    if len(table) <= MAX_POINTS:
        return table
    return table.iloc[np.unique(np.linspace(0, len(table) - 1, MAX_POINTS).astype(int))]


# -- accuracy against cost, and at the end ------------------------------------------------------------------------


def cost_figure(sweep: Sweep, spent: str, unit: str, scale: float) -> Figure | None:
    """Held-out accuracy against its cost so far: the sum of the metric ``spent``, in ``unit``."""
    runs = [(index, run) for index, setting in enumerate(sweep.grouped) for run in setting.runs]
    drawn = [(index, run) for index, run in runs if len(_accuracy_by_cost(run, spent))]
    if not drawn:
        return None
    shown = sorted({index for index, _ in drawn})
    labels = [sweep.grouped[index].label for index in shown] if len(sweep.grouped) > 1 else []
    columns, lines = layout(labels)
    with panel(legend=lines) as (figure, axes):
        handles: dict[int, Any] = {}
        for index, run in drawn:
            accuracy = _accuracy_by_cost(run, spent)
            (line,) = axes.plot(accuracy.index * scale, 100 * accuracy, **line_style(index), marker="o", markersize=2)
            line.set_label(sweep.grouped[index].label)
            handles.setdefault(index, line)
        axes.set(xlabel=unit, ylabel="held-out accuracy (%)", xlim=(0, None), ylim=(-2, 102))
        legend_above(figure, list(handles.values()) if labels else [], columns)
    return figure


def accuracy_metric(run: Run) -> str:
    """Accuracy sampled as in training, or greedy where that was not measured."""
    return "heldout/sampled" if len(run.series("heldout/sampled")) else "heldout/greedy"


def _accuracy_by_cost(run: Run, spent: str) -> pd.Series:
    """Held-out accuracy, indexed by the cost until it was measured."""
    accuracy, cost = run.series(accuracy_metric(run)), run.series(spent)
    if accuracy.empty or cost.empty:
        return pd.Series(dtype=float)
    total = cost.cumsum().reindex(run.metrics.index).ffill().fillna(0.0)
    return pd.Series(accuracy.to_numpy(), index=total[accuracy.index].to_numpy())


def final_figure(sweep: Sweep) -> Figure | None:
    """Held-out accuracy at the end, a dot per run with its 95 % Wilson interval; open dots did not finish."""
    found = _outcomes(sweep)
    name = "sampled" if any(np.isfinite(values["sampled"]) for _, _, values in found) else "greedy"
    dots = [
        Dot(index, run, values[name], values[f"{name}_low"], values[f"{name}_high"])
        for index, run, values in found
        if np.isfinite(values[name])
    ]
    return _dots(sweep, dots, f"accuracy, {name} (%)", 100.0, (-2, 102))


def last_injection_figure(sweep: Sweep) -> Figure | None:
    """The step of the last injection, a dot per run; 0 where there was none, open dots for runs that did not finish."""
    last = [(index, run, values["last_injection"]) for index, run, values in _outcomes(sweep)]
    dots = [Dot(index, run, step, np.nan, np.nan) for index, run, step in last if np.isfinite(step)]
    steps = max((dot.run.planned or dot.run.steps for dot in dots), default=1)
    return _dots(sweep, dots, "step of the last injection (0: none)", 1.0, (-0.02 * steps, 1.02 * steps))


def _outcomes(sweep: Sweep) -> list[tuple[int, Run, dict[str, float]]]:
    """For every run: the index of its setting, the run, and what came of it."""
    return [(index, run, outcome(run)) for index, setting in enumerate(sweep.grouped) for run in setting.runs]


class Dot(NamedTuple):
    """A number of a run, as it is drawn."""

    setting: int
    """Index of the run's setting."""
    run: Run
    value: float
    low: float
    high: float
    """The interval from ``low`` to ``high``; NaN = there is none."""


def _dots(sweep: Sweep, dots: Sequence[Dot], xlabel: str, scale: float, xlim: tuple[float, float]) -> Figure | None:
    if not dots:
        return None
    labels = [setting.label for setting in sweep.grouped]
    with panel(height=0.55 + 0.2 * max(len(labels), 2) + 0.05 * len(dots)) as (figure, axes):
        for index in range(len(labels)):
            colour, own = COLOURS[index % len(COLOURS)], [dot for dot in dots if dot.setting == index]
            for offset, dot in zip(np.linspace(-0.25, 0.25, len(own) + 2)[1:-1], own, strict=True):
                axes.hlines(index + offset, scale * dot.low, scale * dot.high, color=colour, linewidth=1)
                face = colour if dot.run.state == "finished" else "white"
                axes.plot(scale * dot.value, index + offset, "o", color=colour, markerfacecolor=face, markersize=3.5)
        axes.set_yticks(range(len(labels)), [_wrapped(label) if len(labels) > 1 else "" for label in labels])
        axes.set(xlabel=xlabel, xlim=xlim, ylim=(len(labels) - 0.5, -0.5))
        axes.grid(False, axis="y")
    return figure


def _wrapped(label: str) -> str:
    return label.replace(", ", ",\n") if len(label) > 18 else label


# -- one run ------------------------------------------------------------------------------------------------------


def anneal_figure(table: pd.DataFrame, window: int = 15) -> Figure:
    """Held-out accuracy, teacher use and groups without signal over the steps of one run.

    Args:
        table: of :func:`hapo_lit.analysis.read_metrics`.
        window: steps of the running mean over noisy per-step shares.
    """
    curves = {
        "teacher/use": ("groups with a teacher", ORANGE, "-"),
        "signal/all_wrong": ("groups all wrong", "#000000", ":"),
        "signal/flat_before": ("groups without signal: all wrong or all right", "#999999", "--"),
    }
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for name, (label, colour, style) in curves.items():
        if name in table:
            share = 100 * table[name].dropna().rolling(window, min_periods=1).mean()
            axes.plot(share.index, share, style, color=colour, label=label, linewidth=1.5)
    for name, label, colour, marker in (
        ("heldout/greedy", "held-out accuracy, greedy", BLUE, "o"),
        ("heldout/sampled", "held-out accuracy, sampled", GREEN, "s"),
    ):
        if name in table:
            measured = 100 * table[name].dropna()
            axes.plot(measured.index, measured, marker=marker, markersize=3.5, color=colour, label=label)
    axes.set(xlabel="training step", ylabel="%", ylim=(-2, 102), xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.24), ncols=2, frameon=False, fontsize=8.5)
    return figure


def plot_anneal(run: Path | str, window: int = 15) -> Path:
    """``anneal.png`` in the run's folder; see :func:`anneal_figure`."""
    path = Path(run) / "anneal.png"
    with appearing(path) as draft:
        anneal_figure(read_metrics(run), window).savefig(draft, dpi=160, format="png")
    return path

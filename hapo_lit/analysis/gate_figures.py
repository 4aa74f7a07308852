"""Figures of a gate: its posteriors, how often it opens, and how often the injection law predicts that it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from hapo_lit.analysis.figures import GREY, layout, legend_above, line_style, panel


def injection_figure(tables: Sequence[tuple[str, pd.DataFrame]]) -> Figure | None:
    """How often the gate opened by pass rate: dots as observed, lines as predicted.

    Args:
        tables: label and table as :func:`hapo_lit.analysis.injection_by_pass_rate` gives it, one per setting.
    """
    filled = [(index, label, table) for index, (label, table) in enumerate(tables) if len(table)]
    if not filled:
        return None
    labels = [label for _, label, _ in filled] if len(tables) > 1 else []
    columns, lines = layout([*labels, "predicted", "observed"])
    with panel(legend=lines) as (figure, axes):
        handles = [
            axes.plot([], [], color=GREY, linestyle="-", label="predicted")[0],
            axes.plot([], [], "o", color=GREY, label="observed")[0],
        ]
        for index, label, table in filled:
            style = line_style(index)
            (line,) = axes.plot(100 * table["pass_rate"], 100 * table["predicted"], label=label, **style)
            axes.plot(100 * table["pass_rate"], 100 * table["observed"], "o", color=style["color"], markersize=3.2)
            handles += [line] if labels else []
        axes.set(xlabel="pass rate of the prompt (%)", ylabel="gate open (%)", xlim=(-2, 102), ylim=(-3, 103))
        legend_above(figure, handles, columns)
    return figure


def beta_figure(posteriors: Sequence[tuple[str, float, float]], threshold: float, rate: float | None = None) -> Figure:
    """Densities of Beta(a, b) posteriors over a success rate, with the mass below the threshold γ shaded.

    Args:
        posteriors: label, a, b, from the earliest to the latest.
        threshold: γ.
        rate: the true success rate, marked if it is known.
    """
    rates = np.linspace(0, 1, 501)
    columns, lines = layout([label for label, _, _ in posteriors])
    with panel(legend=lines) as (figure, axes):
        handles = []
        for index, (label, a, b) in enumerate(posteriors):
            density = stats.beta.pdf(rates, a, b)
            density[~np.isfinite(density)] = np.nan
            style = line_style(index)
            handles += axes.plot(rates, density, label=label, **style)
            axes.fill_between(rates, density, where=rates <= threshold, color=style["color"], alpha=0.12, linewidth=0)
        axes.axvline(threshold, color="black", linewidth=0.8)
        axes.annotate(
            "γ", (threshold, 1), xycoords=("data", "axes fraction"), xytext=(2, -7), textcoords="offset points"
        )
        if rate is not None:
            axes.axvline(rate, color=GREY, linewidth=0.8, linestyle=":")
        axes.set(
            xlabel="success rate of the policy on the prompt", ylabel="posterior density", xlim=(0, 1), ylim=(0, None)
        )
        legend_above(figure, handles, columns)
    return figure


def lines_figure(
    lines: pd.DataFrame, xlabel: str, ylabel: str, ylim: tuple[float | None, float | None] = (0, None)
) -> Figure:
    """One line per column, over the index."""
    columns, rows = layout([str(name) for name in lines])
    with panel(legend=rows) as (figure, axes):
        handles: list[Any] = []
        for index, name in enumerate(lines):
            handles += axes.plot(lines.index, lines[name], label=name, **line_style(index))
        axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(lines.index.min(), lines.index.max()), ylim=ylim)
        legend_above(figure, handles, columns)
    return figure

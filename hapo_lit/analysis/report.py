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
from hapo_lit.analysis.gate_figures import law_figure
from hapo_lit.analysis.injection import COLUMNS, injection_of
from hapo_lit.analysis.page import Plate, page
from hapo_lit.analysis.runs import find_runs
from hapo_lit.analysis.tables import Sweep, by_setting, long_table, run_table

SEEDS = "Mean over seeds; the band is from the least to the most. A thin line with a cross did not finish."
SMOOTH = "Running mean over a fortieth of the run. " + SEEDS


class Sketch(NamedTuple):
    """A figure that a report tries to draw."""

    name: str
    title: str
    caption: str
    draw: Callable[[Sweep], Figure | None]
    needs: str
    """What runs must have logged for it."""


def _curve(metric: str, ylabel: str, top: float | None, smooth: bool = True) -> Callable[[Sweep], Figure | None]:
    return lambda sweep: curve_figure(sweep, Curve(metric, smooth=smooth), ylabel, top)


SKETCHES = [
    Sketch(
        "accuracy_sampled",
        "Held-out accuracy, sampled",
        SEEDS,
        _curve("heldout/sampled", "held-out accuracy, sampled (%)", 100, smooth=False),
        "heldout/sampled",
    ),
    Sketch(
        "accuracy_greedy",
        "Held-out accuracy, greedy",
        SEEDS,
        _curve("heldout/greedy", "held-out accuracy, greedy (%)", 100, smooth=False),
        "heldout/greedy",
    ),
    Sketch(
        "final_accuracy",
        "Accuracy at the end",
        "A dot per run with its 95 % Wilson interval over held-out problems; open dots are runs that did not finish.",
        final_figure,
        "heldout/sampled or heldout/greedy",
    ),
    Sketch(
        "reward",
        "Reward on-policy",
        f"Success rate of what the policy sampled in training. {SMOOTH}",
        _curve("reward/mean", "reward on-policy (%)", 100),
        "reward/mean",
    ),
    Sketch(
        "injection_rate",
        "Injection rate",
        f"Share of the groups into which a teacher's solution was put. {SMOOTH}",
        _curve("teacher/use", "groups with a teacher (%)", None),
        "teacher/use",
    ),
    Sketch(
        "last_injection",
        "The last injection",
        "The step after which the policy was on its own, a dot per run; open dots are runs that did not finish.",
        last_injection_figure,
        "teacher/rows",
    ),
    Sketch(
        "teacher_tokens",
        "The teacher's share of tokens",
        f"Share of the loss's token weight that lies on the teacher's tokens. {SMOOTH}",
        _curve("teacher/token_share", "teacher's share of tokens (%)", None),
        "teacher/token_share",
    ),
    Sketch(
        "teacher_gradient",
        "The teacher's share of gradient",
        f"Share of the gradient that the teacher's tokens make. {SMOOTH}",
        _curve("teacher/gradient_share", "teacher's share of gradient (%)", None),
        "teacher/gradient_share",
    ),
    Sketch(
        "flat_groups",
        "Groups without signal",
        f"Share of groups whose rewards are all equal before injection. {SMOOTH}",
        _curve("signal/flat_before", "flat groups before injection (%)", 100),
        "signal/flat_before",
    ),
    Sketch(
        "flat_groups_after",
        "Groups without signal after injection",
        f"What is left of them with the teacher's help. {SMOOTH}",
        _curve("signal/flat", "flat groups after injection (%)", 100),
        "signal/flat",
    ),
    Sketch(
        "cost_tokens",
        "Accuracy against tokens",
        "Tokens sampled in training until the measurement, a line per run.",
        lambda sweep: cost_figure(sweep, "rollout/tokens", "generated tokens (millions)", 1e-6),
        "held-out accuracy and rollout/tokens",
    ),
    Sketch(
        "cost_seconds",
        "Accuracy against time",
        "Seconds in training steps until the measurement, a line per run.",
        lambda sweep: cost_figure(sweep, "time/step", "time in training steps (s)", 1.0),
        "held-out accuracy and time/step",
    ),
]


class Report(NamedTuple):
    """Where a report lies, and what it is about."""

    page: Path
    figures: list[Path]
    runs: pd.DataFrame
    """See :func:`hapo_lit.analysis.run_table`."""


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
    law, remarks = injection_table(sweep)
    plates, missing = _plates(sweep, law)
    table = run_table(sweep)
    settings = by_setting(sweep)
    table.to_csv(out / "runs.csv", index=False)
    settings.to_csv(out / "settings.csv", index=False)
    law.to_csv(out / "injection.csv", index=False)
    long_table(sweep).to_csv(out / "tidy.csv", index=False)
    for plate in plates:
        (out / f"{plate.name}.png").write_bytes(plate.png)
    path = out / "report.html"
    path.write_text(page(folder.resolve().name, sweep, table, settings, law, plates, missing, remarks))
    return Report(path, [out / f"{plate.name}.png" for plate in plates], table)


def _plates(sweep: Sweep, law: pd.DataFrame) -> tuple[list[Plate], list[str]]:
    """The figures that can be drawn, and of the others what they lack."""
    plates, missing = [], []
    for sketch in SKETCHES:
        figure = sketch.draw(sweep)
        if figure is None:
            missing.append(f"{sketch.title}: no run logged {sketch.needs}")
        else:
            caption = sketch.caption if len(sweep.runs) > 1 else sketch.caption.removesuffix(SEEDS).strip()
            plates.append(Plate(sketch.name, sketch.title, caption, _png(figure)))
    tables = [(each.label, law[law["setting"] == each.label]) for each in sweep.grouped]
    figure = law_figure(tables)
    if figure is None:
        missing.append("Injection, predicted and observed: no run tells how often its gate opened")
    else:
        caption = "How often the gate opened by the prompt's pass rate around that visit, and what its law predicts."
        place = next((at for at, plate in enumerate(plates) if plate.name == "teacher_tokens"), len(plates))
        plates.insert(place, Plate("injection_law", "Injection, predicted and observed", caption, _png(figure)))
    return plates, missing


def _png(figure: Figure) -> bytes:
    content = BytesIO()
    figure.savefig(content, format="png", dpi=300)
    return content.getvalue()


def injection_table(sweep: Sweep) -> tuple[pd.DataFrame, dict[str, str]]:
    """How often the gate opened by pass rate, over the runs of each setting, and what has to be said of a run.

    Returns:
        ``setting``, ``pass_rate``, ``groups``, ``observed``, ``predicted`` (NaN if no law is known), a row per bin; and
        run -> remark.
    """
    pooled, remarks = [], {}
    for setting in sweep.grouped:
        tables = []
        for run in setting.runs:
            table, remark = injection_of(run)
            tables.append(table)
            if remark:
                remarks[run.name] = remark
        bins = _pooled(pd.concat([each for each in tables if len(each)] or tables))
        bins.insert(0, "setting", setting.label)
        pooled.append(bins)
    return pd.concat(pooled, ignore_index=True), remarks


def _pooled(table: pd.DataFrame) -> pd.DataFrame:
    """Bins of several runs as one, weighted by their groups."""
    if table.empty:
        return pd.DataFrame(columns=COLUMNS)
    rows = []
    for _, bin in table.groupby((10 * table["pass_rate"]).clip(upper=9.5).astype(int)):
        known = bin[bin["predicted"].notna()]
        rows.append(
            {
                "pass_rate": np.average(bin["pass_rate"], weights=bin["groups"]),
                "groups": bin["groups"].sum(),
                "observed": np.average(bin["observed"], weights=bin["groups"]),
                "predicted": np.average(known["predicted"], weights=known["groups"]) if len(known) else np.nan,
            }
        )
    return pd.DataFrame(rows)

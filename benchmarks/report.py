"""The time it takes to read a long run: ``metrics.csv`` of 100,000 logged steps and 40 columns, with evaluations.

    python benchmarks/report.py

Wall time, the median of five readings of a warm file (limit 2 s); then the long table and a whole report, once.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from hapo_lit.analysis import Sweep, find_runs, long_table, read_metrics, write_report

STEPS, COLUMNS, EVERY = 100_000, 40, 30


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        run.mkdir()
        write(run)
        size = (run / "metrics.csv").stat().st_size
        times = [seconds(lambda: read_metrics(run)) for _ in range(5)]
        table = read_metrics(run)
        print(f"{len(table):,} steps, {table.shape[1] + 1} columns, {size / 1e6:.0f} MB")
        print(f"read_metrics: median {median(times):.2f} s, worst {max(times):.2f} s (limit 2 s)")
        print(f"long table: {seconds(lambda: long_table(Sweep(find_runs(run)))):.2f} s")
        print(f"whole report, mostly the long table as CSV: {seconds(lambda: write_report(run)):.1f} s")


def write(run: Path) -> None:
    """Metrics in full precision; every ``EVERY`` steps an evaluation on a line of its own."""
    draw = np.random.default_rng(0)
    known = ["reward/mean", "teacher/use", "teacher/rows", "teacher/token_share", "signal/flat_before", "signal/flat"]
    known += ["rollout/tokens", "time/step", "heldout/greedy", "heldout/sampled"]
    names = known + [f"metric/{index}" for index in range(COLUMNS - 1 - len(known))]
    trained = pd.DataFrame(draw.random((STEPS, len(names))), columns=names)
    trained[["heldout/greedy", "heldout/sampled"]] = np.nan
    trained.insert(20, "step", np.arange(1, STEPS + 1))
    steps = np.arange(0, STEPS + 1, EVERY)
    scores = draw.random((2, len(steps)))
    measured = pd.DataFrame({"step": steps, "heldout/greedy": scores[0], "heldout/sampled": scores[1]})
    both = pd.concat([trained, measured]).sort_values("step", kind="stable")
    both.to_csv(run / "metrics.csv", index=False)
    (run / "config.yaml").write_text(f"seed: 0\nsteps: {STEPS}\n")


def seconds(work: object) -> float:
    started = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

"""Run folders for the tests of analysis, made up in milliseconds."""

from __future__ import annotations

import pandas as pd
import pytest
from support.made_runs import write_run


@pytest.fixture(scope="module")
def sweep_folder(tmp_path_factory):
    """Two priors, two seeds each, in folders named by job number as a plain sweep names them."""
    folder = tmp_path_factory.mktemp("multirun")
    for number, (beta, seed) in enumerate((beta, seed) for beta in (1.0, 8.0) for seed in (0, 1)):
        write_run(folder / str(number), seed=seed, beta=beta, gradient_share=number == 0)
    return folder


@pytest.fixture
def run_folder(tmp_path):
    """Twenty steps as a run writes them: rows of evaluations stand beside training rows of the same step."""
    rows = [{"step": 0, "heldout/greedy": 0.1, "heldout/sampled": 0.05}]
    for step in range(1, 21):
        rows.append(
            {
                "step": step,
                "teacher/use": 1 - step / 20,
                "teacher/rows": 2.0,
                "signal/flat_before": 0.5,
                "signal/flat": 0.25,
                "rollout/tokens": 100.0,
                "time/rollout": 0.5,
                "time/verify": 0.1,
                "time/update": 0.2,
                "time/step": 1.0,
                "time/sync": 0.05,
                "time/data": 0.25,
                "time/between": 0.15,
            }
        )
        if step % 10 == 0:
            evaluated = {"heldout/greedy": step / 25, "heldout/sampled": step / 40, "time/evaluate": 1.5}
            rows += [{"step": step, **evaluated}, {"step": step, "time/checkpoint": 0.5}]
    pd.DataFrame(rows).to_csv(tmp_path / "metrics.csv", index=False)
    return tmp_path

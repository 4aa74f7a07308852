"""Run folders as training writes them, made up in milliseconds: a policy that learns along a logistic curve."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from hapo_lit.injection_law import max_successes_to_open

PROMPTS, GROUP, HELDOUT = 24, 4, 192


def config_of(folder: Path, seed: int, steps: int, beta: float, threshold: float = 0.2, memory: float = 0.0) -> dict:
    """A ``config.yaml`` with the copies that a composed configuration has."""
    gate = {
        "_target_": "hapo_lit.gates.BetaGate",
        "threshold": threshold,
        "rule": {"_target_": "hapo_lit.gates.PosteriorMean"},
        "prior_alpha": 1.0,
        "prior_beta": beta,
        "memory": {"_target_": "hapo_lit.gates.Memory", "discount": memory},
        "horizon": steps,
        "seed": seed,
    }
    algorithm = {"_target_": "hapo_lit.algorithm.Hapo", "group_size": GROUP, "gate": gate}
    return {
        "seed": seed,
        "steps": steps,
        "group_size": GROUP,
        "gate": gate,
        "algorithm": algorithm,
        "data": {"source": {"heldout_size": HELDOUT, "seed": seed}, "seed": seed},
        "phases": {"steps": steps, "sequence": {"whole": {"algorithm": algorithm}}},
        "trainer": {"limit_train_batches": steps, "default_root_dir": str(folder)},
        "logger": [{"save_dir": str(folder)}],
        "paths": {"run": str(folder)},
    }


def write_run(
    folder: Path,
    seed: int = 0,
    steps: int = 60,
    beta: float = 1.0,
    threshold: float = 0.2,
    until: int | None = None,
    speed: float = 1.0,
    gradient_share: bool = False,
    memory: float = 0.0,
) -> Path:
    """A run's folder: ``config.yaml``, ``metrics.csv``, ``groups.csv`` and, if it got to its end, ``summary.json``.

    Args:
        until: the last step that was logged; None = all of them.
        speed: of learning.
        gradient_share: the teacher's share of the gradient was measured too.
    """
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    hardness = draw.normal(0, 1.5, PROMPTS)
    most = max_successes_to_open(threshold, GROUP, 1, beta)
    rows: list[dict[str, float]] = [{"step": 0, "heldout/sampled": 0.03, "heldout/greedy": 0.04}]
    groups = []
    for step in range(1, (until or steps) + 1):
        rate = 1 / (1 + np.exp(-(speed * 8 * step / steps - 4 - hardness)))
        won = draw.binomial(GROUP, rate)
        opened = (won <= most).astype(int)
        groups += [
            (step, 10**12 + prompt, won[prompt], GROUP, opened[prompt], opened[prompt]) for prompt in range(PROMPTS)
        ]
        flat = np.isin(won, (0, GROUP))
        rows.append(
            {
                "step": step,
                "reward/mean": won.mean() / GROUP,
                "gate/open_rate": opened.mean(),
                "gate/threshold": threshold,
                "teacher/use": opened.mean(),
                "teacher/rows": float(opened.sum()),
                "teacher/token_share": opened.mean() / GROUP,
                "signal/all_wrong": (won == 0).mean(),
                "signal/flat_before": flat.mean(),
                "signal/flat": (flat & (opened == 0)).mean(),
                "rollout/tokens": 5000.0 + step,
                "time/rollout": 0.1,
                "time/verify": 0.001,
                "time/update": 0.05,
                "time/step": 0.2,
            }
            | ({"teacher/gradient_share": opened.mean() / 2} if gradient_share else {})
        )
        if step % (steps // 6) == 0:
            solved = draw.binomial(HELDOUT, rate.mean()) / HELDOUT
            rows.append({"step": step, "heldout/sampled": solved, "heldout/greedy": min(1.0, solved + 0.05)})
    columns = sorted({name for row in rows for name in row})
    pd.DataFrame(rows)[columns].to_csv(folder / "metrics.csv", index=False)
    names = ["step", "prompt", "successes", "trials", "open", "teacher"]
    pd.DataFrame(groups, columns=names).to_csv(folder / "groups.csv", index=False)
    (folder / "config.yaml").write_text(yaml.safe_dump(config_of(folder, seed, steps, beta, threshold, memory)))
    if until is None:
        (folder / "summary.json").write_text(json.dumps({"heldout_problems": float(HELDOUT), "steps": float(steps)}))
    return folder


def fail_run(folder: Path, error: str) -> Path:
    """A sweep's job that failed before it wrote anything else."""
    folder.mkdir(parents=True)
    (folder / "error.txt").write_text(f"{error}\n\nTraceback (most recent call last):\n  ...\n")
    return folder

"""A gate simulated on prompts whose success rates are given: what it would do, in seconds and without a model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from hapo_lit.protocols import Gate


def simulate(gate: Gate, rates: np.ndarray, group_size: int, seed: int = 0) -> pd.DataFrame:
    """Let a gate observe prompts over visits, each of which draws ``group_size`` answers at a known success rate.

    The rates are given beforehand, so an injection teaches no policy anything.

    Args:
        gate: it observes and decides as in training, and keeps what it remembers.
        rates: ``[visits, P]`` in [0, 1].
        group_size: answers per prompt and visit.
        seed: of the answers.

    Returns:
        one row per group with the columns of ``groups.csv`` (``step``, ``prompt``, ``successes``, ``trials``, ``open``,
        ``teacher``, which is ``open`` here), and ``rate`` and ``confidence``, the gate's estimate of it.
    """
    if rates.ndim != 2:
        raise ValueError(f"rates must be [visits, prompts], got shape {rates.shape}")
    draw, prompts = np.random.default_rng(seed), torch.arange(rates.shape[1])
    visits = []
    for step, rates_P in enumerate(rates, 1):
        won_P = draw.binomial(group_size, rates_P)
        successes_P = torch.from_numpy(won_P)
        successes_PG = (torch.arange(group_size) < successes_P[:, None]).float()
        gate.observe(prompts, successes_P, torch.full_like(successes_P, group_size))
        decision = gate(prompts, successes_PG)
        opened = decision.open.int().numpy()
        columns = {"successes": won_P, "trials": group_size, "open": opened, "teacher": opened, "rate": rates_P}
        visits.append(
            pd.DataFrame(
                {"step": step, "prompt": prompts.numpy(), **columns, "confidence": decision.confidence.numpy()}
            )
        )
    return pd.concat(visits, ignore_index=True)

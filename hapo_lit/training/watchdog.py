"""Whether the rollout engine samples from the policy: its log-probabilities held against the policy's own."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from hapo_lit.errors import EngineError
from hapo_lit.types import Experience


class Watchdog(Callback):
    """Measures the gap between engine and policy every few steps, and ends the run where it is too wide.

    ``engine/logprob_gap`` is the mean of ``|log π_policy − log π_engine|`` over sampled tokens, in nats, at the weights
    before the update; ``engine/logprob_gap_max`` the largest.  Two exact engines in float32 differ by 1e-5, in bfloat16
    by 1e-2; weights that were not updated give more and more.

    Args:
        every: steps between measurements; None = never.
        most: mean gap that ends the run; None = none does.
        rows: responses that are measured, of those of each process.
    """

    def __init__(self, every: int | None = 10, most: float | None = 0.1, rows: int = 32) -> None:
        if (every is not None and every < 1) or rows < 1:
            raise ValueError(f"callbacks.watchdog needs every and rows of at least 1, got {every} and {rows}")
        if most is not None and most <= 0:
            raise ValueError(f"callbacks.watchdog.most must be above 0, or null for no limit, got {most}")
        self.every, self.most, self.rows = every, most, rows

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if self.every is not None:
            pl_module.before_update.append(lambda experience: self._measure(trainer, pl_module, experience))

    def _measure(self, trainer: Any, module: Any, experience: Experience) -> None:
        rollouts = experience.rollouts
        if module.step % self.every or rollouts is None or rollouts.behaviour_logprobs is None:  # type: ignore[operator]
            return
        count = rollouts.tokens.shape[0] * rollouts.tokens.shape[1]
        chosen = torch.arange(0, count, max(1, -(-count // self.rows)), device=rollouts.tokens.device)
        text, reported = rollouts.text().select(chosen), rollouts.behaviour_logprobs.flatten(0, 1)[chosen]
        gap = (module.logprobs_of(text) - reported).abs()[text.mask].double()
        of_ranks = module.ranks.gather(torch.stack([gap.sum(), torch.tensor(gap.numel()).to(gap), gap.max()])[None])
        mean = float(of_ranks[:, 0].sum() / of_ranks[:, 1].sum())
        metrics = {"engine/logprob_gap": mean, "engine/logprob_gap_max": float(of_ranks[:, 2].max())}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=module.step + 1)
        if self.most is not None and not mean <= self.most:
            raise EngineError(
                f"the rollout engine does not sample from the policy: at step {module.step + 1} they differ by "
                f"{mean:.3g} nats a token (callbacks.watchdog.most={self.most:g}), as with stale weights or another "
                f"precision; resume=auto goes on, with rollout=hf allow_changes=true from the policy itself"
            )

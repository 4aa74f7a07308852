"""Whether the rollout engine samples from the policy: its log-probabilities compared with the policy's own."""

from __future__ import annotations

import torch

from hapo_lit.errors import EngineError
from hapo_lit.numerics.ranges import check_count, check_optional_count, check_positive
from hapo_lit.numerics.tallies import tally
from hapo_lit.training.callbacks.log_metrics import log
from hapo_lit.training.interfaces import RunCallback, RunModule, RunTrainer
from hapo_lit.types import Experience


class Watchdog(RunCallback):
    """Measures the gap between engine and policy every few steps, and ends the run where it is too wide.

    ``engine/logprob_gap`` is the mean of ``|log π_policy − log π_engine|`` over sampled tokens, in nats, at the weights
    before the update; ``engine/logprob_gap_max`` the largest.  Two exact engines in float32 differ by 1e-5, in bfloat16
    by 1e-2; an engine that keeps old weights differs by more with every step.

    Args:
        every: steps between measurements; None = never.
        max_gap: mean gap above which the run ends; None = it never does for that.
        rows: responses that are measured, of those of each process.
    """

    def __init__(self, every: int | None = 10, max_gap: float | None = 0.1, rows: int = 32) -> None:
        self.every, self.rows = check_optional_count("every", every), check_count("rows", rows)
        self.max_gap = None if max_gap is None else check_positive("max_gap", max_gap)

    def on_fit_start(self, trainer: RunTrainer, pl_module: RunModule) -> None:
        if (every := self.every) is None:
            return

        def measure(experience: Experience) -> None:
            if pl_module.step % every == 0:
                self._measure(trainer, pl_module, experience)

        pl_module.before_update_hooks.append(measure)

    def _measure(self, trainer: RunTrainer, module: RunModule, experience: Experience) -> None:
        rollouts = experience.rollouts
        if rollouts is None or rollouts.behaviour_logprobs is None:
            return
        count = rollouts.tokens.shape[0] * rollouts.tokens.shape[1]
        chosen = torch.arange(0, count, max(1, -(-count // self.rows)), device=rollouts.tokens.device)
        text, reported = rollouts.text().select(chosen), rollouts.behaviour_logprobs.flatten(0, 1)[chosen]
        gap = (module.logprobs_of(text) - reported).abs()[text.mask].double()
        own = torch.cat([tally(gap.sum(), torch.tensor(gap.numel()).to(gap)), gap.max()[None]])
        total, tokens, largest = module.ranks.gather(own[None]).unbind(1)
        mean = float(total.sum() / tokens.sum())
        log(trainer, {"engine/logprob_gap": mean, "engine/logprob_gap_max": float(largest.max())}, module.step + 1)
        if self.max_gap is not None and not mean <= self.max_gap:
            raise EngineError(
                f"the rollout engine does not sample from the policy: at step {module.step + 1} they differ by "
                f"{mean:.3g} nats a token (callbacks.watchdog.max_gap={self.max_gap:g}), as with stale weights or "
                f"another precision; to continue: resume=auto, and to sample from the policy itself also rollout=hf "
                f"allow_changes=true"
            )

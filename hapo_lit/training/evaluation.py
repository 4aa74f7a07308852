"""Held-out accuracy: sample, verify, count."""

from __future__ import annotations

import torch
from torch import Tensor

from hapo_lit.protocols import Decode, RolloutEngine, Verifier
from hapo_lit.types import PromptBatch


class Evaluator:
    """Success rates under one sampling protocol.

    Args:
        engine: what samples responses (length, stops, seed).
        verifier: how they are judged.
        samples: responses per problem.
        temperature: at which they are sampled; None = the engine's own.
    """

    def __init__(
        self, engine: RolloutEngine, verifier: Verifier, samples: int = 1, temperature: float | None = None
    ) -> None:
        self.engine = engine if temperature is None else engine.with_temperature(temperature)
        self.verifier, self.samples = verifier, samples

    def sync(self, policy: torch.nn.Module) -> None:
        """Measure this policy from now on.  Every rank must ask."""
        self.engine.sync(policy)

    def __call__(self, prompts: PromptBatch, step: int, decode: Decode) -> Tensor:
        """``[P, samples]`` rewards at training step ``step``."""
        group = self.engine.generate(prompts, self.samples, step)
        rewards = self.verifier(decode(group), prompts.answers_repeated(self.samples))
        return group.with_rewards(rewards).rewards

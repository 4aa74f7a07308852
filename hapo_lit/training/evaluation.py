"""Held-out accuracy: sample, verify, count."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import Tensor

from hapo_lit.contracts import check_part
from hapo_lit.numerics.ranges import MOST, check_count
from hapo_lit.numerics.tallies import accumulate, plain_tallies, tally_of
from hapo_lit.policy.sharding import unsharded
from hapo_lit.protocols import Decode, Ranks, RolloutEngine, Verifier
from hapo_lit.training.metrics import over_ranks
from hapo_lit.training.out_of_memory import when_out_of_memory
from hapo_lit.types import PromptBatch
from hapo_lit.verify.judging import judge


class Evaluator:
    """Success rates under one way of sampling.

    Args:
        engine: what samples responses (length, stops, seed).
        verifier: how they are judged.
        samples: responses per problem.
        temperature: at which they are sampled; None = the engine's own.
    """

    def __init__(
        self, engine: RolloutEngine, verifier: Verifier, samples: int = 1, temperature: float | None = None
    ) -> None:
        check_part("rollout", engine, RolloutEngine)
        check_part("verifier", verifier, Verifier)
        self.engine = engine if temperature is None else engine.with_temperature(temperature)
        self.verifier, self.samples = verifier, check_count("samples", samples, most=MOST)

    def sync(self, policy: torch.nn.Module) -> None:
        """Measure this policy from now on.  Collective: every rank must call it."""
        self.engine.sync(policy)

    def __call__(self, prompts: PromptBatch, step: int, decode: Decode) -> Tensor:
        """``[P, samples] bool``: which responses are right, at training step ``step``."""
        group = self.engine.generate(prompts, self.samples, step)
        return group.with_rewards(*judge(self.verifier, decode(group), prompts.questions(self.samples))).successes


class HeldOutEvaluation:
    """The success rates of several evaluators over all held-out problems of all ranks.

    One evaluation is ``begin``, ``add`` for every batch, ``finish``; every rank makes it at the same step.

    Args:
        evaluators: name -> evaluator; its success rate is called ``heldout/<name>``.
    """

    def __init__(self, evaluators: Mapping[str, Evaluator]) -> None:
        self.evaluators = dict(evaluators)
        self._tallies: dict[str, Tensor] = {}
        self._seconds = 0.0
        self._unsharded = ExitStack()

    def begin(self, policy: torch.nn.Module) -> None:
        """Bring the policy's weights to the engines, as ranks may have different numbers of batches afterwards."""
        self._tallies, self._seconds = {}, 0.0
        for evaluator in self.evaluators.values():
            evaluator.sync(policy)
        if any(evaluator.engine.is_trainer for evaluator in self.evaluators.values()):
            self._unsharded.enter_context(unsharded(policy))

    def add(self, batch: PromptBatch, step: int, decode: Decode) -> None:
        """Evaluate this rank's batch at training step ``step``."""
        started = time.perf_counter()
        with when_out_of_memory("evaluating", lower="+data.heldout_batch (256 unless set) or max_response_tokens"):
            accumulate(
                self._tallies,
                {
                    f"heldout/{name}": tally_of(evaluator(batch, step, decode))
                    for name, evaluator in self.evaluators.items()
                },
            )
        self._seconds += time.perf_counter() - started

    def finish(self, ranks: Ranks, device: torch.device) -> dict[str, float]:
        """Success rates over all ranks, and ``time/evaluate``, the seconds of all batches averaged over ranks."""
        self._unsharded.close()
        for evaluator in self.evaluators.values():
            evaluator.engine.sleep()
        return over_ranks(self._tallies | plain_tallies({"time/evaluate": (self._seconds, 1.0)}), ranks, device)

"""What a step holds in memory, counted by running the module's own code on tensors that have shapes and no contents.

Such a dry run (PyTorch's ``FakeTensorMode``) takes seconds for a model of any size, and no memory.  It counts all that
the code really keeps: activations or their checkpoints, tiles of logits, autocast's casts of the weights.  Where that
depends on values the worst is assumed: every position is a token, every row counts.  Attention is that of a fused
kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from hapo_lit.device_memory import DeviceMemory, RolloutBatch, SamplingMemory
from hapo_lit.planning.phase_plan import PhasePlan
from hapo_lit.policy.fakes import compute_in_bfloat16, fake_mode, make_fake, over_layers
from hapo_lit.policy.loading import set_checkpointing
from hapo_lit.policy.memory_tracker import MemoryTracker, storage_bytes
from hapo_lit.policy.output_head import tile_of, tiles_as_on
from hapo_lit.protocols import RolloutEngine
from hapo_lit.rows import Rows, Text
from hapo_lit.training.module import HapoModule
from hapo_lit.training.optimizer import trained_parameters

TILES = 32
"""In how many tiles fake logits come, about: more take time and no more memory; with fewer, exponentials that are kept
would count as a part of themselves."""


class GradientMemory(NamedTuple):
    """What a backward pass holds beside weights and gradients."""

    peak: Counter[str]
    """Bytes by kind, at the moment when their sum is largest."""
    peak_logits: int
    """Bytes of logits alive at once, at most."""


class UpdateMemory(NamedTuple):
    """What the backward passes of all phases hold; of several phases, that of the one with most."""

    backward: GradientMemory
    other_checkpointing: int
    """Bytes of a backward pass if gradient checkpointing were switched: off where it is on, and on where it is off."""


def dry_updates(dry: DryRun, phases: Sequence[PhasePlan]) -> UpdateMemory:
    """Run the backward passes of all phases of a module without contents.

    Args:
        dry: has the module.
        phases: its phases' plans, in order.
    """
    backward = _largest_gradient(dry, phases)
    with switched_checkpointing(dry.module.policy):
        return UpdateMemory(backward, _largest_gradient(dry, phases).peak.total())


def dry_sampling(
    dry: DryRun, phases: Sequence[PhasePlan], device: DeviceMemory | None
) -> tuple[RolloutBatch, SamplingMemory] | None:
    """The rollouts of the phase whose engine takes most, and what it takes; None = nothing is sampled.

    Args:
        dry: has the module.
        phases: its phases' plans, in order.
        device: see :meth:`hapo_lit.protocols.RolloutEngine.memory`.
    """
    found = [
        (plan.rollout_batch, dry.sampling(phase.algorithm.engine, plan.rollout_batch, device))
        for (phase, _), plan in zip(dry.module.phases.with_steps(), phases, strict=True)
        if phase.algorithm.engine is not None
    ]
    return max(found, key=lambda batch_and_memory: batch_and_memory[1].total, default=None)


@contextmanager
def switched_checkpointing(policy: PreTrainedModel) -> Iterator[None]:
    """Inside, gradient checkpointing is off where it was on, and on where it was off."""
    was_on = policy.is_gradient_checkpointing
    try:
        set_checkpointing(policy, not was_on)
        yield
    finally:
        set_checkpointing(policy, was_on)


def _largest_gradient(dry: DryRun, phases: Sequence[PhasePlan]) -> GradientMemory:
    """That of the phase whose backward pass holds most."""
    found = []
    for (_, steps), plan in zip(dry.module.phases.with_steps(), phases, strict=True):
        dry.module.step = steps.start
        found.append(dry.gradient(*plan.fullest_micro_batch))
    return max(found, key=lambda memory: memory.peak.total())


class DryRun:
    """A module whose models lose their contents, to be run with shapes alone.

    Args:
        module: its models are changed in place.
        mixed: True = as under ``bf16-mixed``.
        device_type: of the device that is counted for.
    """

    def __init__(self, module: HapoModule, mixed: bool, device_type: str = "cpu") -> None:
        self.module, self.mixed, self.device_type = module, mixed, device_type
        self.fakes = fake_mode()
        self.vocabulary = module.policy.get_output_embeddings().weight.shape[0]
        sizes = [storage_bytes(module.policy.parameters())]
        for model in filter(None, (module.policy, module.reference)):
            make_fake(model, self.fakes)
        sizes.append(storage_bytes(module.policy.parameters()))
        assert sizes[0] == sizes[1], "weights that were tied are not any more"

    def compute_in_bfloat16(self) -> None:
        """From now on the policy computes as its shards do in mixed precision, without autocast."""
        with self.fakes:
            compute_in_bfloat16(self.module.policy)
        self.mixed = False

    def gradient(self, rows: int, prompt: int, response: int) -> GradientMemory:
        """Count for the loss of a micro-batch and its backward pass, beside weights and gradients.

        Args:
            rows: of the micro-batch.
            prompt, response: tokens of each.
        """
        with tiles_as_on(self.device_type):
            size = tile_of(self.vocabulary, self.device_type).rows
        wider, logits = ceil(rows * response / size / TILES), 0

        def count() -> Counter[str]:
            nonlocal logits
            with self.fakes, tiles_as_on(self.device_type, wider):
                batch = blank_rows(self.module, rows, prompt, response)
                tracker = track_gradient(self.module, batch, self.mixed, self.vocabulary, wider)
            logits = max(logits, tracker.peak_logits)
            return tracker.peak

        found = over_layers(self.module.policy, count)
        return GradientMemory(Counter(found), logits)

    def optimizer(self) -> tuple[list[Tensor], int]:
        """What the optimiser keeps, and bytes that its step needs besides; with ``foreach``, as on a GPU."""
        trained = trained_parameters(self.module.policy)
        with self.fakes:
            optimizer = self.module.make_optimizer(trained)
            for group in optimizer.param_groups:
                if "foreach" in group and group["foreach"] is None and not group.get("fused"):
                    group["foreach"] = True
            for parameter in trained:
                parameter.grad = torch.empty_like(parameter)
            with MemoryTracker(trained, _gradients(trained)) as tracker:
                optimizer.step()
        leaves = tree_leaves([dict(state) for state in optimizer.state.values()])
        kept = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        return kept, tracker.peak.total() - storage_bytes(kept)

    def sampling(
        self, engine: RolloutEngine, batch: RolloutBatch, device: DeviceMemory | None = None
    ) -> SamplingMemory:
        """What an engine takes while all responses of a batch are at full length."""
        with self.fakes, _autocast(self.mixed):
            return engine.memory(self.module.policy, batch, device)


def track_gradient(
    module: HapoModule, batch: Rows, mixed: bool, vocabulary: int | None = None, wider: int = 1
) -> MemoryTracker:
    """Track a loss and its backward pass where every weight has a gradient already, on real or fake tensors.

    ``wider``: fake logits come in tiles of so many times their size, and count as one.
    """
    trained = trained_parameters(module.policy)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    others = [*module.policy.buffers(), *_gradients(trained)]
    tracker = MemoryTracker(module.policy.parameters(), others, vocabulary, wider)
    with tracker, _autocast(mixed):
        loss = module.loss(batch).loss
        with _autocast(False):
            loss.backward()
    return tracker


def blank_rows(module: HapoModule, rows: int, prompt: int, response: int) -> Rows:
    """Rows of the greatest length, with the log-probabilities that the module's phase and settings need."""
    logprobs = torch.zeros(rows, response)
    phase = module.phase
    engine = phase.algorithm.engine
    return Rows(
        text=Text(
            torch.ones(rows, prompt, dtype=torch.int64),
            torch.ones(rows, prompt, dtype=torch.bool),
            torch.ones(rows, response, dtype=torch.int64),
            torch.ones(rows, response, dtype=torch.bool),
        ),
        is_teacher=torch.zeros(rows, dtype=torch.bool),
        advantages=torch.ones(rows),
        token_weights=torch.full((rows, response), 1 / (rows * response)),
        confidence=torch.ones(rows),
        old_logprobs=logprobs.clone() if module.updates_per_batch * module.minibatches > 1 else None,
        reference_logprobs=logprobs.clone() if phase.loss.needs_reference else None,
        behaviour_logprobs=None if engine is None or engine.is_trainer else logprobs.clone(),
        step=module.step,
    )


def _gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _autocast(mixed: bool) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=mixed)

"""What a step holds in memory, counted by running the module's own code on tensors that have shapes and no contents.

Such a dry run (PyTorch's ``FakeTensorMode``) takes seconds for a model of any size, and no memory.  It counts all that
the code really keeps: activations or their checkpoints, chunks of logits, autocast's casts of the weights.  Where that
depends on values the worst is assumed: every position is a token, every row counts.  Attention is that of a fused
kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from hapo_lit.planning.memory_plan import TransientMemory
from hapo_lit.planning.phase_plan import PhasePlan
from hapo_lit.policy.memory_tracker import MemoryTracker, storage_bytes
from hapo_lit.protocols import RolloutBatch, RolloutEngine
from hapo_lit.rows import Rows, Text
from hapo_lit.training.module import HapoModule
from hapo_lit.training.optimizer import trained_parameters


class DryRunResult(NamedTuple):
    """What a dry run of all phases found; of several phases, that of the one with most."""

    transient: TransientMemory
    optimizer_state: list[Tensor]
    """What the optimiser keeps."""
    peak_logits: int
    """Bytes of logits alive at once in a backward pass, at most."""
    without_checkpointing: int | None
    """Bytes of a backward pass without gradient checkpointing; None = there is none."""


def dry_run(module: HapoModule, phases: Sequence[PhasePlan], mixed: bool) -> DryRunResult:
    """Run all phases of a module without contents, which its models lose.

    Args:
        module: is changed in place.
        phases: its phases' plans, in order.
        mixed: True = as under ``bf16-mixed``.
    """
    dry = DryRun(module, mixed)
    backward = _largest_gradient(dry, phases)
    sampling: dict[str, int] = {}
    for (phase, _), plan in zip(module.phases.with_steps(), phases, strict=True):
        if phase.algorithm.engine is not None:
            found = dry.sampling(phase.algorithm.engine, plan.rollout_batch)
            sampling = max(sampling, found, key=lambda memory: sum(memory.values()))
    without = None
    if module.policy.is_gradient_checkpointing:
        module.policy.gradient_checkpointing_disable()
        without = _largest_gradient(dry, phases).peak.total()
    optimizer_state, step = dry.optimizer()
    transient = TransientMemory(sampling, dict(backward.peak), step)
    return DryRunResult(transient, optimizer_state, backward.peak_logits, without)


def _largest_gradient(dry: DryRun, phases: Sequence[PhasePlan]) -> MemoryTracker:
    """The tracker of the phase whose backward pass holds most."""
    found = []
    for (_, steps), plan in zip(dry.module.phases.with_steps(), phases, strict=True):
        dry.module.step = steps.start
        found.append(dry.gradient(*plan.fullest_micro_batch))
    return max(found, key=lambda tracker: tracker.peak.total())


class DryRun:
    """A module whose models lose their contents, to be run with shapes alone.

    Args:
        module: its models are changed in place.
        mixed: True = as under ``bf16-mixed``.
    """

    def __init__(self, module: HapoModule, mixed: bool) -> None:
        self.module, self.mixed = module, mixed
        self.fakes = FakeTensorMode(allow_non_fake_inputs=True)
        self.vocabulary = module.policy.get_output_embeddings().weight.shape[0]
        sizes = [storage_bytes(module.policy.parameters())]
        with self.fakes:
            for model in filter(None, (module.policy, module.reference)):
                model.to_empty(device="cpu")
                model.tie_weights()
        sizes.append(storage_bytes(module.policy.parameters()))
        assert sizes[0] == sizes[1], "weights that were tied are not any more"

    def gradient(self, rows: int, prompt: int, response: int) -> MemoryTracker:
        """Track the loss of a micro-batch and its backward pass, beside weights and gradients.

        Args:
            rows: of the micro-batch.
            prompt, response: tokens of each.
        """
        with self.fakes:
            batch = blank_rows(self.module, rows, prompt, response)
            return track_gradient(self.module, batch, self.mixed, self.vocabulary)

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

    def sampling(self, engine: RolloutEngine, batch: RolloutBatch) -> dict[str, int]:
        """Bytes that an engine holds while all responses of a batch are at full length, by kind."""
        with self.fakes, _autocast(self.mixed):
            return engine.memory(self.module.policy, batch)


def track_gradient(module: HapoModule, batch: Rows, mixed: bool, vocabulary: int | None = None) -> MemoryTracker:
    """Track a loss and its backward pass where every weight has a gradient already, on real or fake tensors."""
    trained = trained_parameters(module.policy)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    others = [*module.policy.buffers(), *_gradients(trained)]
    tracker = MemoryTracker(module.policy.parameters(), others, vocabulary)
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

"""What a run will do and hold, in numbers that follow from its settings: prompts, rows, passes, tokens, bytes.

Nothing here runs a model.  Sizes are bytes, and those of one process where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from hapo_lit.policy.model_config import kv_shape
from hapo_lit.protocols import HasOpenProbability
from hapo_lit.types import PromptBatch, RolloutGroup

# -- the batch --------------------------------------------------------------------------------------------------------


class RolloutBatch(NamedTuple):
    """What one process samples in a step, at most."""

    sequences: int
    """Responses under way at once."""
    tokens: int
    """Of one of them, its prompt included."""


def rollout_batch(prompts: int, processes: int, rollouts: int, prompt: int, response: int) -> RolloutBatch:
    """The largest rollout batch of a process.

    Args:
        prompts: of a step, over all processes.
        processes: that share them.
        rollouts: of each prompt.
        prompt, response: tokens of each, at most.
    """
    return RolloutBatch(ceil(prompts / processes) * rollouts, prompt + response)


def kv_bytes_per_token(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Keys and values of one token in all layers; those that look back a limited way only are taken for full ones."""
    layers, heads, size = kv_shape(config)
    return 2 * layers * heads * size * dtype.itemsize


@dataclass(frozen=True)
class PhasePlan:
    """A phase's steps, and one of them; over all processes where nothing else is said."""

    steps: int
    supervised: bool
    prompts: int
    rollouts: int
    """Of each prompt; 0 in a supervised phase."""
    rows: int
    """Of each prompt that may have to be run, teacher included."""
    teachers: int
    """Of these at most."""
    processes: int
    micro_batch_size: int
    updates: int
    """Optimiser steps on each batch."""
    prompt: int
    """Tokens of a prompt, at most."""
    response: int
    """Tokens of a response, at most."""

    @property
    def prompts_each(self) -> int:
        """Of one process."""
        return self.prompts // self.processes

    @property
    def micro_batches(self) -> int:
        """Forward and backward passes of one process for an optimiser step, at most."""
        return ceil(self.prompts_each * self.rows / self.micro_batch_size)

    @property
    def micro_batch(self) -> int:
        """Rows of a micro-batch, at most."""
        return min(self.micro_batch_size, self.prompts_each * self.rows)

    @property
    def sampled(self) -> int:
        """Tokens sampled in a step, at most."""
        return self.prompts * self.rollouts * self.response

    @property
    def trained(self) -> int:
        """Tokens, prompts included, in the passes with gradients of a step, at most."""
        return self.prompts * self.rows * (self.prompt + self.response) * self.updates


def phase_plans(module: Any, prompts: int, processes: int, prompt: int, response: int) -> list[PhasePlan]:
    """The phases of a ``HapoModule``.

    Raises:
        ValueError: prompts cannot be dealt out evenly.
    """
    if prompts % processes:
        near = next(count for count in range(processes, 0, -1) if prompts % count == 0)
        raise ValueError(
            f"prompts_per_step={prompts} is not divisible by {processes} processes: set "
            f"prompts_per_step={ceil(prompts / processes) * processes}, or take {near} processes"
        )
    found = []
    for phase, steps in module.phases.with_steps():
        rollouts, rows, teachers = rows_of(phase.algorithm, len(steps))
        found.append(
            PhasePlan(
                steps=len(steps),
                supervised=not rollouts,
                prompts=prompts,
                rollouts=rollouts,
                rows=rows,
                teachers=teachers,
                processes=processes,
                micro_batch_size=module.micro_batch_size,
                updates=module.updates_per_batch,
                prompt=prompt,
                response=response,
            )
        )
    return found


def rows_of(algorithm: Any, steps: int) -> tuple[int, int, int]:
    """Rollouts, rows and teacher rows of a prompt, the latter two at most; found by letting the injector act."""
    if not hasattr(algorithm, "injector"):
        return 0, 1, 1
    rollouts = algorithm.injector.rollouts(algorithm.group_size)
    if not can_open(algorithm.gate, rollouts, steps):
        return rollouts, rollouts, 0
    one = torch.ones(1, 1, dtype=torch.bool)
    many = one.expand(1, rollouts)
    group = RolloutGroup(
        prompt_ids=torch.zeros(1, dtype=torch.int64),
        prompt_tokens=one.long(),
        prompt_mask=one,
        tokens=many.long()[..., None],
        mask=many[..., None],
        rewards=torch.zeros(1, rollouts),
        finished=many,
        is_teacher=~many,
        present=many,
        behaviour_logprobs=torch.zeros(1, rollouts, 1),
    )
    prompts = PromptBatch(
        prompt_ids=group.prompt_ids,
        tokens=one.long(),
        mask=one,
        answers=("",),
        teacher_tokens=one.long(),
        teacher_mask=one,
        teacher_rewards=torch.ones(1),
    )
    taught = algorithm.injector(group, prompts, one[0], 0)
    return rollouts, max(rollouts, int(taught.present.sum())), int(taught.is_teacher.sum())


def can_open(gate: Any, rollouts: int, steps: int) -> bool:
    """Whether a gate may open in the first, middle or last of ``steps``, by its law; True where it states none."""
    if not isinstance(gate, HasOpenProbability):
        return True
    laws = [gate.open_probability(np.linspace(0, 1, 11), rollouts, visit) for visit in (0, steps // 2, steps - 1)]
    return any(law is None or bool((law > 0).any()) for law in laws)


# -- bytes ------------------------------------------------------------------------------------------------------------


def size_of(tensors: Iterable[Tensor], processes: int = 1) -> int:
    """Bytes of tensors, as the first of some processes holds them: FSDP2 cuts each along its first dimension, in equal
    parts with padding at the end."""

    def part(tensor: Tensor) -> int:
        if not tensor.ndim:
            return tensor.nbytes
        return ceil(tensor.shape[0] / processes) * (tensor.nbytes // tensor.shape[0])

    return sum(map(part, tensors))


@dataclass(frozen=True)
class Weights:
    """The parameters of a module's models; any device will do, the meta device too."""

    policy: list[Tensor]
    trained: list[Tensor]
    reference: list[Tensor]
    layers: list[int]
    """Bytes of each decoder layer of the policy."""
    saved: int
    """Bytes of the models in a run's state, where tied weights are written under each of their names."""
    exported: int
    """Bytes of the policy as a folder, an adapter merged in."""

    @property
    def count(self) -> int:
        return sum(each.numel() for each in self.policy)


def weights_of(module: Any) -> Weights:
    """The parameters of a ``HapoModule``."""
    policy, reference = module.policy, module.reference
    adapters = {name for name, _ in policy.named_parameters() if "lora_" in name}
    plain = [each for name, each in policy.named_parameters() if name not in adapters]
    layers: list[nn.Module] = list(policy.get_decoder().layers)
    return Weights(
        policy=list(policy.parameters()),
        trained=[each for each in policy.parameters() if each.requires_grad],
        reference=[] if reference is None else list(reference.parameters()),
        layers=[size_of(layer.parameters()) for layer in layers],
        saved=sum(each.nbytes for each in module.state_dict().values()),
        exported=size_of(plain),
    )


SAMPLING, GRADIENT, STEP = "while sampling", "in a backward pass", "in the optimiser's step"
"""The moments of a step at which most is held."""


class TransientMemory(NamedTuple):
    """What is held for a moment, found by a dry run (:mod:`hapo_lit.planning.memory_dry_run`)."""

    sampling: Mapping[str, int]
    gradient: Mapping[str, int]
    step: int
    """Beside what the optimiser keeps."""
    kept: list[Tensor]
    """What the optimiser keeps."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process."""

    lasting: dict[str, int]
    """Held all through a step."""
    moments: dict[str, dict[str, int]]
    """Moment -> what is held then, besides."""

    def at(self, moment: str) -> int:
        return sum(self.lasting.values()) + sum(self.moments[moment].values())

    @property
    def worst(self) -> str:
        """The moment at which most is held."""
        return max(self.moments, key=self.at)

    @property
    def peak(self) -> int:
        return self.at(self.worst)


def memory(weights: Weights, passing: TransientMemory, processes: int = 1, sharded: bool = False) -> Memory:
    """The memory of one process.

    With several processes DDP keeps buckets as large as the gradients.  FSDP2 keeps a part of policy, reference,
    gradients and moments; while responses are sampled the policy is whole, and in a backward pass embeddings, norm and
    head with their gradients, two layers, and the gradient of one.

    Args:
        weights: of the module's models.
        passing: what a single process holds for a moment.
        processes: how many there are.
        sharded: FSDP2 and not DDP.
    """
    parts = processes if sharded else 1
    policy, trained = size_of(weights.policy, parts), size_of(weights.trained, parts)
    lasting = {
        "weights": policy,
        "gradients": trained,
        "optimiser": size_of(passing.kept, parts),
        "reference": size_of(weights.reference, parts),
    }
    step = ceil(passing.step / parts)
    moments = {SAMPLING: dict(passing.sampling), GRADIENT: dict(passing.gradient), STEP: {"temporaries": step}}
    if sharded and processes > 1:
        root, layer = size_of(weights.policy) - sum(weights.layers), max(weights.layers)
        moments[SAMPLING]["gathered weights"] = size_of(weights.policy)
        moments[GRADIENT]["gathered weights"] = 2 * root + 3 * layer
    elif processes > 1:
        lasting["buckets of ddp"] = trained
    return Memory({name: size for name, size in lasting.items() if size}, moments)


def state_bytes(weights: Weights, kept: Iterable[Tensor]) -> int:
    """A run's state: models and moments; what else it holds is small."""
    return weights.saved + size_of(kept)

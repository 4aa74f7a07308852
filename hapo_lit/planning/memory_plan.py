"""How many bytes a run holds on each of its devices and in its checkpoints.

Nothing here runs a model.  What is held for a moment is found by :mod:`hapo_lit.planning.memory_dry_run`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from torch import Tensor

from hapo_lit.training.module import HapoModule

SAMPLING, GRADIENT, STEP = "while sampling", "in a backward pass", "in the optimiser's step"
"""The moments of a step of peak memory."""


def bytes_of(tensors: Iterable[Tensor], parts: int = 1) -> int:
    """Bytes of tensors, or of the first of ``parts`` shards: FSDP2 cuts each tensor along its first dimension into
    equal parts, with padding at the end."""

    def part(tensor: Tensor) -> int:
        if not tensor.ndim:
            return tensor.nbytes
        return ceil(tensor.shape[0] / parts) * (tensor.nbytes // tensor.shape[0])

    return sum(map(part, tensors))


@dataclass(frozen=True)
class ModelWeights:
    """The parameters of a module's models; any device will do, the meta device too."""

    policy: list[Tensor]
    trained: list[Tensor]
    """Those of the policy that have gradients."""
    reference: list[Tensor]
    """Empty if there is no reference model."""
    layer_bytes: list[int]
    """Bytes of each decoder layer of the policy."""
    checkpoint_bytes: int
    """Bytes of the models in a checkpoint, where tied weights are written under each of their names."""
    export_bytes: int
    """Bytes of the policy as a folder, with an adapter merged in."""

    @classmethod
    def of(cls, module: HapoModule) -> ModelWeights:
        """The weights of a module."""
        policy, reference = module.policy, module.reference
        return cls(
            policy=list(policy.parameters()),
            trained=[parameter for parameter in policy.parameters() if parameter.requires_grad],
            reference=[] if reference is None else list(reference.parameters()),
            layer_bytes=[bytes_of(layer.parameters()) for layer in policy.get_decoder().layers],
            checkpoint_bytes=sum(tensor.nbytes for tensor in module.state_dict().values()),
            export_bytes=bytes_of(parameter for name, parameter in policy.named_parameters() if "lora_" not in name),
        )

    @property
    def count(self) -> int:
        """Numbers in the policy."""
        return sum(parameter.numel() for parameter in self.policy)

    @property
    def trained_count(self) -> int:
        """Numbers in the policy that are trained."""
        return sum(parameter.numel() for parameter in self.trained)

    @property
    def loading_bytes(self) -> int:
        """Bytes of all models, as a process holds them on its host while it loads them."""
        return bytes_of(self.policy) + bytes_of(self.reference)


class TransientMemory(NamedTuple):
    """Bytes that a single process holds for a moment of a step, by kind.

    Example:
        ``TransientMemory(sampling={"keys and values": 2**30}, gradient={"activations": 2**31}, step=2**28)``.
    """

    sampling: Mapping[str, int]
    gradient: Mapping[str, int]
    step: int
    """In the optimiser's step, besides what the optimiser keeps."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one process, by kind."""

    lasting: dict[str, int]
    """Held all through a step."""
    transient: dict[str, dict[str, int]]
    """Moment of a step -> what is held then besides."""

    def at(self, moment: str) -> int:
        """All that is held at a moment."""
        return sum(self.lasting.values()) + sum(self.transient[moment].values())

    @property
    def peak_moment(self) -> str:
        """The moment of peak memory."""
        return max(self.transient, key=self.at)

    @property
    def peak(self) -> int:
        """What is held at the peak moment."""
        return self.at(self.peak_moment)


def memory_plan(
    weights: ModelWeights,
    optimizer_state: Iterable[Tensor],
    transient: TransientMemory,
    processes: int = 1,
    sharded: bool = False,
    samples_itself: bool = True,
) -> MemoryPlan:
    """The memory of one process.

    Gradients are freed right after the optimiser's step.  With several processes DDP keeps buckets as large as they.
    FSDP2 keeps a part of policy, reference, gradients and optimiser state.  While the policy itself samples it holds
    the whole of it, and where an engine gets its weights one gathered weight at a time; in a backward pass embeddings,
    norm and head with their gradients, two layers, and the gradient of one.

    Args:
        weights: of the module's models.
        optimizer_state: what the optimiser keeps.
        transient: what a single process holds for a moment.
        processes: how many there are.
        sharded: True = FSDP2, False = DDP.
        samples_itself: True = the policy itself samples, False = an engine with weights of its own.
    """
    parts = processes if sharded else 1
    lasting = {
        "weights": bytes_of(weights.policy, parts),
        "optimiser": bytes_of(optimizer_state, parts),
        "reference": bytes_of(weights.reference, parts),
    }
    gradients = {"gradients": bytes_of(weights.trained, parts)}
    moments = {
        SAMPLING: dict(transient.sampling),
        GRADIENT: {**gradients, **transient.gradient},
        STEP: {**gradients, "temporaries": ceil(transient.step / parts)},
    }
    if sharded and processes > 1:
        layer = max(weights.layer_bytes)
        root = bytes_of(weights.policy) - sum(weights.layer_bytes)
        largest = max(weight.nbytes for weight in weights.policy)
        moments[SAMPLING]["gathered weights"] = bytes_of(weights.policy) if samples_itself else largest
        moments[GRADIENT]["gathered weights"] = 2 * root + 3 * layer
    elif processes > 1:
        lasting["buckets of ddp"] = bytes_of(weights.trained)
    return MemoryPlan({name: size for name, size in lasting.items() if size}, moments)


def checkpoint_bytes(weights: ModelWeights, optimizer_state: Iterable[Tensor]) -> int:
    """Bytes of a checkpoint: models and optimiser state; what else it holds is small."""
    return weights.checkpoint_bytes + bytes_of(optimizer_state)

"""How many bytes a run holds on each of its devices and in its checkpoints.

Nothing here runs a model.  What is held for a moment is found by :mod:`hapo_lit.planning.memory_dry_run`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from math import ceil
from typing import NamedTuple

from torch import Tensor

from hapo_lit.device_memory import SamplingMemory
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
    layers: list[list[Tensor]]
    """The policy's, by decoder layer."""
    embedding_bytes: int
    """Bytes of the policy's input embeddings; 0 where they are the head's."""
    checkpoint_bytes: int
    """Bytes of the models in a checkpoint, where tied weights are written under each of their names."""
    export_bytes: int
    """Bytes of the policy as a folder, with an adapter merged in."""

    @classmethod
    def of(cls, module: HapoModule) -> ModelWeights:
        """The weights of a module."""
        policy, reference = module.policy, module.reference
        embeddings = policy.get_input_embeddings().weight
        return cls(
            policy=list(policy.parameters()),
            trained=[parameter for parameter in policy.parameters() if parameter.requires_grad],
            reference=[] if reference is None else list(reference.parameters()),
            layers=[list(layer.parameters()) for layer in policy.get_decoder().layers],
            embedding_bytes=0 if embeddings is policy.get_output_embeddings().weight else embeddings.nbytes,
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
    def root_bytes(self) -> int:
        """Bytes of the policy's last norm and head, which FSDP2 shards with the module."""
        return bytes_of(self.policy) - bytes_of(chain(*self.layers)) - self.embedding_bytes

    @property
    def root_gradient_bytes(self) -> int:
        """Bytes of their gradients; none where an adapter is trained."""
        whole = len(self.trained) == len(self.policy)
        return self.root_bytes if whole else 0

    @property
    def loading_bytes(self) -> int:
        """Bytes of all models, as a process holds them on its host while it loads them."""
        return bytes_of(self.policy) + bytes_of(self.reference)


class Sharding(NamedTuple):
    """How FSDP2 cuts models, see :func:`hapo_lit.policy.sharding.shard`.

    Example:
        ``Sharding(parts=8, mixed=True)``.
    """

    parts: int
    """Processes that hold all weights together."""
    mixed: bool = False
    """True = layers are gathered in bfloat16."""
    freed: bool = True
    """False = a layer stays gathered from its forward to its backward pass."""

    def gathered(self, layer: Iterable[Tensor]) -> int:
        """Bytes of a layer's weights when they are gathered, or of their gradients."""
        return sum(weight.numel() * 2 if self.mixed else weight.nbytes for weight in layer)


class TransientMemory(NamedTuple):
    """Bytes that a single process holds for a moment of an update, by kind.

    Example:
        ``TransientMemory(gradient={"activations": 2**31}, step=2**28)``.
    """

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

    def held_at(self, moment: str) -> Counter[str]:
        """All that is held at a moment, by kind."""
        return Counter(self.lasting) + Counter(self.transient[moment])

    def at(self, moment: str) -> int:
        """Bytes of all that is held at a moment."""
        return self.held_at(moment).total()

    @property
    def peak_moment(self) -> str:
        """The moment of peak memory."""
        return max(self.transient, key=self.at)

    @property
    def peak(self) -> int:
        """What is held at the peak moment."""
        return self.at(self.peak_moment)

    def with_sampling(self, sampling: SamplingMemory) -> MemoryPlan:
        """The same with what an engine takes."""
        if sampling.stays:
            return replace(self, lasting={**self.lasting, **sampling.held})
        return replace(self, transient={**self.transient, SAMPLING: {**sampling.held, **self.transient[SAMPLING]}})


def memory_plan(
    weights: ModelWeights,
    optimizer_state: Iterable[Tensor],
    transient: TransientMemory,
    processes: int = 1,
    sharding: Sharding | None = None,
    samples_itself: bool = True,
) -> MemoryPlan:
    """The memory of one process, but for what an engine takes: see :meth:`MemoryPlan.with_sampling`.

    Gradients are freed right after the optimiser's step.  With several processes DDP keeps buckets as large as they.
    FSDP2 keeps a part of policy, reference, gradients and optimiser state, and gathers weights for a while.

    Args:
        weights: of the module's models.
        optimizer_state: what the optimiser keeps.
        transient: what a single process holds for a moment of an update.
        processes: how many there are.
        sharding: None = every process holds all weights.
        samples_itself: True = the policy itself samples, False = an engine with weights of its own.
    """
    parts = 1 if sharding is None else sharding.parts
    lasting = {
        "weights": bytes_of(weights.policy, parts),
        "optimiser": bytes_of(optimizer_state, parts),
        "reference": bytes_of(weights.reference, parts),
    }
    gradients = {"gradients": bytes_of(weights.trained, parts)}
    moments: dict[str, dict[str, int]] = {
        SAMPLING: {},
        GRADIENT: {**gradients, **transient.gradient},
        STEP: {**gradients, "temporaries": ceil(transient.step / parts)},
    }
    if sharding is not None:
        moments[SAMPLING]["gathered weights"] = gathered_in_sampling(weights, sharding, samples_itself)
        moments[GRADIENT]["gathered weights"] = gathered_for_gradients(weights, sharding)
    elif processes > 1:
        lasting["buckets of ddp"] = bytes_of(weights.trained)
    return MemoryPlan({name: size for name, size in lasting.items() if size}, moments)


def gathered_in_sampling(weights: ModelWeights, sharding: Sharding, samples_itself: bool) -> int:
    """Bytes that are gathered while responses are sampled: the whole policy, or norm and head, which are gathered with
    the module, and for an engine one other weight at a time."""
    if samples_itself:
        return weights.root_bytes + weights.embedding_bytes + sharding.gathered(chain(*weights.layers))
    return weights.root_bytes + max(weights.embedding_bytes, *(weight.nbytes for weight in chain(*weights.layers)))


def gathered_for_gradients(weights: ModelWeights, sharding: Sharding) -> int:
    """Bytes that are gathered in a backward pass.

    These are norm and head with their gradients, and of layers one, the next (which is the embeddings after the last),
    the gradients of one, and its gradients on their way into the reduction, which is float32 in mixed precision.
    Layers that are not freed after their forward pass are all there, and so are the embeddings then.
    """
    layer = max(weights.layers, key=bytes_of)
    trained = [weight for weight in layer if weight.requires_grad]
    computed = sharding.gathered(layer)
    if sharding.freed:
        whole = computed + max(computed, weights.embedding_bytes)
    else:
        whole = sharding.gathered(chain(*weights.layers)) + weights.embedding_bytes
    reduced = sum(weight.numel() * 4 if sharding.mixed else weight.nbytes for weight in trained)
    return weights.root_bytes + weights.root_gradient_bytes + whole + sharding.gathered(trained) + reduced


def checkpoint_bytes(weights: ModelWeights, optimizer_state: Iterable[Tensor]) -> int:
    """Bytes of a checkpoint: models and optimiser state; what else it holds is small."""
    return weights.checkpoint_bytes + bytes_of(optimizer_state)

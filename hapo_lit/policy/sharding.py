"""Models that are sharded over processes with PyTorch's FSDP2, and the few places where that matters.

Decoder layers are sharded one by one, and so are embeddings that are not tied to the head; what is left of the policy
(last norm, head) is sharded with the module that owns it, what is left of the reference on its own.  A layer is
gathered for its forward and for its backward pass, and freed afterwards.  While responses are sampled, in hundreds of
passes with the same weights, the policy stays gathered.

In mixed precision layers are gathered in bfloat16 and compute in it, as an engine with bfloat16 weights does: the
residual stream is bfloat16 from the embeddings on.  Weights at rest, the reduction of gradients, the last norm and the
head are float32.  There is no autocast, so no cast of a weight outlives its layer's pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from hapo_lit.policy.deferred import fill, held_rows, sharded_like

ENTRY_METHODS = ("loss", "score", "collect", "on_validation_epoch_start")
"""Methods of the module that begin passes of its models, on all ranks together.

The beginning of an evaluation is one of them and its steps are not: ranks may have different numbers of held-out
batches.
"""
FREED_AFTER_FORWARD = "freed_after_forward"
"""Of a sharded layer: whether it is freed between its forward and its backward pass."""


def shard(
    module: nn.Module, mesh: DeviceMesh, replicas: int = 1, reshard_after_forward: bool = True, mixed: bool = False
) -> nn.Module:
    """Shard the models of a ``HapoModule``, policy and reference, over all processes of ``mesh``, in place.

    Args:
        module: holds the models.
        mesh: of all processes.
        replicas: groups of processes that hold all weights each; 1 = all processes hold them together.  With more
            (HSDP), layers are gathered within a group, and gradients are exchanged between groups too.
        reshard_after_forward: False = a layer of the policy stays gathered from its forward to its backward pass, which
            needs more memory and gathers it once.
        mixed: layers compute in bfloat16.
    """
    mesh = mesh_of(mesh.device_type, mesh.size(), replicas)
    for model in module.children():
        if not isinstance(model, PreTrainedModel):
            continue
        is_reference = not any(parameter.requires_grad for parameter in model.parameters())
        freed = reshard_after_forward or is_reference  # which has no backward pass
        layers = list(model.get_decoder().layers)
        if mixed:
            model.get_input_embeddings().register_forward_hook(_in_bfloat16)
        if model.get_input_embeddings().weight is not model.get_output_embeddings().weight:
            _shard_one(model.get_input_embeddings(), mesh, freed, MixedPrecisionPolicy())
        for layer in layers:
            _shard_one(
                layer, mesh, freed, layer_precision(last=layer is layers[-1]) if mixed else MixedPrecisionPolicy()
            )
        if is_reference:
            fully_shard(model, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for model in module.children():
        if isinstance(model, PreTrainedModel):
            fill(model, torch.device(mesh.device_type))
    for name in ENTRY_METHODS:
        register_fsdp_forward_method(module, name)
    return module


def mesh_of(device: str, processes: int, replicas: int) -> DeviceMesh:
    """All processes in so many replica groups; the processes of a group are neighbours, as those of a machine are."""
    if replicas == 1:
        return init_device_mesh(device, (processes,))
    return init_device_mesh(device, (replicas, processes // replicas), mesh_dim_names=("replicate", "shard"))


def layer_precision(last: bool) -> MixedPrecisionPolicy:
    """A layer computes in bfloat16, and the last one hands on float32, for norm and head."""
    return MixedPrecisionPolicy(
        param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32 if last else None
    )


def _shard_one(module: nn.Module, mesh: DeviceMesh, freed: bool, precision: MixedPrecisionPolicy) -> None:
    fully_shard(module, mesh=mesh, reshard_after_forward=freed, mp_policy=precision)
    setattr(module, FREED_AFTER_FORWARD, freed)


def _in_bfloat16(_: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return output.to(torch.bfloat16)


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Inside, the layers of a sharded model are whole on every rank, in the dtype in which they compute.

    Ranks may then make different numbers of passes.  With a model that is not sharded it does nothing.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, FSDPModule)]
    for layer in layers:
        layer.set_reshard_after_forward(False, recurse=False)
        layer.unshard()
    try:
        yield
    finally:
        for layer in layers:
            layer.set_reshard_after_forward(getattr(layer, FREED_AFTER_FORWARD), recurse=False)
            layer.reshard()


@contextmanager
def within_replicas(module: nn.Module) -> Iterator[None]:
    """Inside, backward passes of a sharded module add up gradients within a replica group, and not between groups.

    The next pass outside adds what they gave to its own and exchanges the sum.  With a single group it does nothing.
    """
    assert isinstance(module, FSDPModule)
    module.set_requires_all_reduce(False)
    try:
        yield
    finally:
        module.set_requires_all_reduce(True)


@contextmanager
def rest_gathered(model: nn.Module | None) -> Iterator[None]:
    """Inside, what is sharded with the model as a whole, beside its layers, is whole on every rank; without gradients.

    A model that is not sharded itself, as the policy, is left as it is, and so is None.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def full_state_dict(state: Any, keep: bool) -> Any:
    """A copy on the CPU of a nested state, its sharded tensors gathered.  Collective.

    Args:
        state: dictionaries, lists and tuples of tensors and anything else.
        keep: False = take part in gathering and keep nothing (``None`` in place of tensors).
    """
    if isinstance(state, Mapping):
        return {name: full_state_dict(value, keep) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(full_state_dict(value, keep) for value in state)
    if not isinstance(state, Tensor):
        return state
    value = state.full_tensor() if isinstance(state, DTensor) else state
    return value.detach().to("cpu", copy=True) if keep else None


def shard_optimizer_state(state: dict[str, Any], parameters: list[nn.Parameter]) -> dict[str, Any]:
    """An optimiser's state as it was saved, its moments sharded as their parameters are.

    Args:
        state: from ``full_state_dict``, with the same parameters.
        parameters: of the optimiser, in order.
    """

    def laid_out(value: Any, parameter: nn.Parameter) -> Any:
        if isinstance(value, Tensor) and isinstance(parameter, DTensor) and value.shape == parameter.shape:
            begin, end = held_rows(parameter)
            return sharded_like(value[begin:end].to(parameter.device, copy=True), parameter)
        return value

    moments = {
        index: {name: laid_out(value, parameters[index]) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    return {**state, "state": moments}


def local(parameter: torch.Tensor) -> torch.Tensor:
    """What this process holds of a parameter, which may be sharded."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def total_norm(parameters: list[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients down to a norm of ``limit``; returns their norm over all ranks before that."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm

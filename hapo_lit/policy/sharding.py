"""Models that are sharded over processes with PyTorch's FSDP2, and the few places where that matters.

Decoder layers are sharded one by one; the rest of policy and reference (embeddings, last norm, head) is sharded with
the module that owns them.  A layer is gathered for its forward and for its backward pass, and freed afterwards.  While
responses are sampled, in hundreds of passes with the same weights, the policy stays gathered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

ENTRY_METHODS = ("loss", "score", "collect", "on_validation_epoch_start")
"""Methods of the module that begin passes of its models, on all ranks together.

The beginning of an evaluation is one of them and its steps are not: ranks may have different numbers of held-out
batches.
"""


def shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard the models of a ``HapoModule``, policy and reference, over all processes of ``mesh``, in place."""
    flat_mesh = init_device_mesh(mesh.device_type, (mesh.size(),))
    for model in module.children():
        if isinstance(model, PreTrainedModel):
            for layer in model.get_decoder().layers:
                fully_shard(layer, mesh=flat_mesh)
    fully_shard(module, mesh=flat_mesh)
    for name in ENTRY_METHODS:
        register_fsdp_forward_method(module, name)
    return module


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Inside, the layers of a sharded model are whole on every rank.

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
            layer.set_reshard_after_forward(True, recurse=False)
            layer.reshard()
        if layers:
            torch.clear_autocast_cache()  # it holds casts, without gradients, of weights that are gone


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
            return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
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

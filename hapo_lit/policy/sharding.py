"""Models that are spread over processes (PyTorch's FSDP2), and the few places where that shows.

Decoder layers are sharded one by one, the rest of policy and reference (embeddings, last norm, head) with the module
that owns them.  A layer is gathered for its forward and its backward pass and let go afterwards; while responses are
sampled, hundreds of passes on the same weights, the policy stays gathered.
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

ENTRANCES = ("loss", "collect", "on_validation_epoch_start")
"""Methods of the module with which passes of its models begin, on all ranks together.  (Ranks may have different
numbers of held-out batches, so the beginning of an evaluation is one and its steps are not.)"""


def shard(module: Any, mesh: DeviceMesh) -> nn.Module:
    """Shard policy and reference of a ``HapoModule`` over all processes of ``mesh``, in place."""
    every = init_device_mesh(mesh.device_type, (mesh.size(),))
    for model in filter(None, (module.policy, module.reference)):
        for layer in model.get_decoder().layers:
            fully_shard(layer, mesh=every)
    fully_shard(module, mesh=every)
    for name in ENTRANCES:
        register_fsdp_forward_method(module, name)
    return module  # type: ignore[no-any-return]


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Inside, the layers of a sharded model are whole on every rank, so that passes need no exchange: ranks may make
    different numbers of them.  For other models this is nothing."""
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
    """A copy on the CPU of a nested state, its sharded tensors gathered; every rank must ask.

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
    """An optimiser's state as it was saved, each moment laid out over the ranks as its parameter is."""

    def laid_out(value: Any, parameter: nn.Parameter) -> Any:
        if isinstance(value, Tensor) and isinstance(parameter, DTensor) and value.shape == parameter.shape:
            return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
        return value

    moments = {
        index: {name: laid_out(value, parameters[index]) for name, value in each.items()}
        for index, each in state["state"].items()
    }
    return {**state, "state": moments}


def total_norm(parameters: list[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients down to ``limit``; returns their norm over all ranks before that."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm

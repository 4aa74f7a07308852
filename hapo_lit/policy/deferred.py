"""Models whose weights are read after they have been sharded, so that no process ever holds all of them.

Such a model has its parameters on torch's meta device, shapes without contents, and knows where they are to be read.
Once it is sharded, each process reads the rows of each weight that it holds: from safetensors, or from a checkpoint
that is mapped into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.hub import get_checkpoint_shard_files

SOURCE = "weight_source"
"""Of a model: the :class:`WeightSource` from which it gets its weights; absent where it has them."""


class WeightSource(Protocol):
    """Where the weights of a model are."""

    def __contains__(self, name: object) -> bool:
        """Whether it has the parameter of that name."""

    def rows(self, name: str, begin: int, end: int) -> Tensor:
        """A part of a parameter along its first axis, on the CPU."""


class WeightFiles:
    """Weights in safetensors files.

    Args:
        places: name of a parameter -> file, and its name there.
    """

    def __init__(self, places: Mapping[str, tuple[str, str]]) -> None:
        self.places = dict(places)

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def rows(self, name: str, begin: int, end: int) -> Tensor:
        file, key = self.places[name]
        with safe_open(file, "pt") as opened:
            found: Tensor = opened.get_slice(key)[begin:end]
        return found


class HeldWeights:
    """Weights that are there as tensors, which may be mapped from a file.

    Args:
        tensors: name of a parameter -> its values.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def rows(self, name: str, begin: int, end: int) -> Tensor:
        return self.tensors[name][begin:end]


# -- making such a model ----------------------------------------------------------------------------------------------


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Inside, the parameters of modules that are made are on the meta device; their buffers have contents."""

    def moved(_: nn.Module, _name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:
            return None  # as it is; a tied one stays the same object
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    handle = register_module_parameter_registration_hook(moved)  # type: ignore[arg-type]  # it takes what it returns
    try:
        yield
    finally:
        handle.remove()


def with_parameters(model: nn.Module, make: Callable[[Tensor], Tensor]) -> None:
    """Replace the parameters of a model that are on the meta device, tied ones by one, or put them back there."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter not in made:
                made[parameter] = nn.Parameter(make(parameter), requires_grad=parameter.requires_grad)
            setattr(module, name, made[parameter])


@contextmanager
def without_memory(model: nn.Module) -> Iterator[None]:
    """Inside, parameters on the meta device are on the CPU, where they are one number each and take no memory.

    What is added to the model in here is made on the CPU too, and stays there.
    """
    with_parameters(model, lambda weight: torch.zeros((), dtype=weight.dtype).expand(weight.shape))
    own = set(model.parameters())
    yield
    with_parameters(model, lambda weight: torch.empty_like(weight, device="meta") if weight in own else weight)


def is_deferred(model: nn.Module) -> bool:
    """Whether a model has yet to get its weights."""
    return hasattr(model, SOURCE)


def places_of(model: PreTrainedModel, path: str) -> tuple[dict[str, tuple[str, str]], str]:
    """Where a model's parameters on the meta device are in the safetensors of a folder or hub id.

    Returns:
        name of a parameter -> file, and its name there; or nothing, and why they cannot be read one by one.
    """
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in _files(path):
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - it is no mapping
                found[key] = file, tuple(opened.get_slice(key).get_shape())
    if not found:
        return {}, "it has no safetensors"
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.is_meta:
            names.setdefault(parameter, []).append(name)
    places = {}
    for parameter, aliases in names.items():
        keys = [key for key in (name.replace(".base_layer.", ".") for name in aliases) if key in found]
        if len(keys) != 1:
            what = "under none of its names" if not keys else "more than once"
            return {}, f"{aliases[0]} is there {what}"
        file, shape = found[keys[0]]
        if shape != tuple(parameter.shape):
            return {}, f"{keys[0]} is {shape} there, and {tuple(parameter.shape)} in the model"
        places[aliases[0]] = file, keys[0]
    return places, ""


def _files(path: str) -> list[str]:
    """The safetensors files of a folder or hub id."""
    if file := file_of(path, SAFE_WEIGHTS_NAME):
        return [file]
    if index := file_of(path, SAFE_WEIGHTS_INDEX_NAME):
        return list(get_checkpoint_shard_files(path, index)[0])
    return []


def file_of(path: str, name: str) -> str | None:
    """A file of a folder or hub id; None = there is none."""
    found: str | None = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
    return found


# -- giving it its weights --------------------------------------------------------------------------------------------


def take_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Let the models of a module that have yet to get their weights get these, once they are sharded.

    Returns:
        the weights that are not theirs.
    """
    rest = dict(weights)
    for prefix, model in module.named_children():
        if is_deferred(model):
            names = [name for name in rest if name.startswith(f"{prefix}.")]
            setattr(model, SOURCE, HeldWeights({name.removeprefix(f"{prefix}."): rest.pop(name) for name in names}))
    return rest


def fill(model: PreTrainedModel, device: torch.device) -> None:
    """Give a sharded model its weights: of each, this process reads the rows that it holds.

    Args:
        model: sharded along the first axis of every parameter; one that has its weights is left as it is.
        device: where they are held.
    """
    if not is_deferred(model):
        return
    source: WeightSource = getattr(model, SOURCE)
    filled: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        if name in source:
            begin, end = held_rows(parameter)
            own = source.rows(name, begin, end).to(device, parameter.dtype, copy=True)
            filled[name] = sharded_like(own, parameter)
    model.load_state_dict(filled, strict=False, assign=True)
    model.tie_weights()  # assigning has given one of two names a new parameter
    delattr(model, SOURCE)


def sharded_like(own: Tensor, parameter: DTensor) -> DTensor:
    """A tensor that is sharded as a parameter is, of which this process holds ``own``."""
    placed = (parameter.device_mesh, parameter.placements)
    return DTensor.from_local(own, *placed, run_check=False, shape=parameter.shape, stride=parameter.stride())


def held_rows(parameter: DTensor) -> tuple[int, int]:
    """Which rows of a parameter that is sharded along its first axis this process holds."""
    (dimension,) = (index for index, placement in enumerate(parameter.placements) if isinstance(placement, Shard))
    # by its rank and not by the mesh's groups: torch may give back an equal mesh of an earlier run of this process
    (place,) = (parameter.device_mesh.mesh == dist.get_rank()).nonzero().tolist()
    size = -(-parameter.shape[0] // parameter.device_mesh.size(dimension))
    begin = min(place[dimension] * size, parameter.shape[0])
    return begin, min(begin + size, parameter.shape[0])

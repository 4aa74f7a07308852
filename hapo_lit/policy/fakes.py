"""Policies of fake tensors, which have shapes and no contents: what a pass takes is counted with them, on a CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.fsdp import FSDPModule
from torch.utils._pytree import tree_map
from transformers import AutoModelForCausalLM, PreTrainedModel

from hapo_lit.policy.vocabulary import BUFFER, unreadable_ids

FEW, ONE_MORE = 2, 3
"""Numbers of layers that are run in place of all."""


def fake_mode() -> FakeTensorMode:
    """A context in which new tensors are fake."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def make_fake(model: PreTrainedModel, fakes: FakeTensorMode) -> None:
    """Replace the contents of a model by nothing, in place."""
    with fakes:
        model.to_empty(device="cpu")
        model.tie_weights()


def fake_copy(policy: PreTrainedModel, fakes: FakeTensorMode) -> PreTrainedModel:
    """A policy of the same shapes, dtype and adapters; of shards, the whole."""
    kind = {"dtype": policy.dtype, "attn_implementation": policy.config._attn_implementation}
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(policy.config, **kind)
        for name, settings in (getattr(policy, "peft_config", None) or {}).items():
            made.add_adapter(copy.deepcopy(settings), name)
    if (ids := unreadable_ids(policy)) is not None:
        made.register_buffer(BUFFER, ids.to("meta"), persistent=False)
    make_fake(made, fakes)
    layer: nn.Module = policy.get_decoder().layers[0]
    head = policy.get_output_embeddings().weight
    if isinstance(layer, FSDPModule) and any(weight.dtype != head.dtype for weight in policy.parameters()):
        with fakes:
            compute_in_bfloat16(made)
    return made


def compute_in_bfloat16(policy: PreTrainedModel) -> None:
    """Let a policy that is whole compute as its shards do in mixed precision, see :mod:`hapo_lit.policy.sharding`."""
    decoder = policy.get_decoder()

    def inputs_in_bfloat16(_: nn.Module, inputs: Any, settings: Any) -> Any:
        return tree_map(_rounded, (inputs, settings))

    def last_in_float32(layer: nn.Module, _: Any, output: Any) -> Any:
        return output.float() if layer is decoder.layers[-1] else output

    policy.get_input_embeddings().register_forward_hook(lambda _, _inputs, output: output.bfloat16())
    for layer in decoder.layers:
        for part in layer.modules():
            for name, weight in list(part.named_parameters(recurse=False)):
                setattr(part, name, nn.Parameter(weight.detach().bfloat16(), requires_grad=weight.requires_grad))
        layer.register_forward_pre_hook(inputs_in_bfloat16, with_kwargs=True)
        layer.register_forward_hook(last_in_float32)


def _rounded(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, Tensor) and value.is_floating_point() else value


def over_layers(policy: PreTrainedModel, count: Callable[[], Mapping[str, int]]) -> dict[str, int]:
    """What a count of bytes finds, by kind; where layers are alike, from what it finds with two and with three of them.

    It must be of one moment, so that each layer adds the same.
    """
    layers = len(policy.get_decoder().layers)
    if layers <= ONE_MORE or not _are_alike(policy):
        return dict(count())
    with with_layers(policy, FEW):
        few = count()
    with with_layers(policy, ONE_MORE):
        more = count()
    kinds = dict.fromkeys((*few, *more))
    return {kind: few.get(kind, 0) + (layers - FEW) * (more.get(kind, 0) - few.get(kind, 0)) for kind in kinds}


@contextmanager
def with_layers(policy: PreTrainedModel, count: int) -> Iterator[None]:
    """Inside, a policy has its first ``count`` layers only."""
    decoder, config = policy.get_decoder(), policy.config
    layers, kinds = decoder.layers, getattr(config, "layer_types", None)
    try:
        decoder.layers, config.num_hidden_layers = layers[:count], count
        if kinds is not None:
            config.layer_types = kinds[:count]
        yield
    finally:
        decoder.layers, config.num_hidden_layers = layers, len(layers)
        if kinds is not None:
            config.layer_types = kinds


def _are_alike(policy: PreTrainedModel) -> bool:
    """Whether the decoder's layers differ in contents alone."""
    shapes = {
        tuple((name, weight.shape, weight.dtype, weight.requires_grad) for name, weight in layer.named_parameters())
        for layer in policy.get_decoder().layers
    }
    return len(shapes) == 1 and len(set(getattr(policy.config, "layer_types", None) or [""])) == 1

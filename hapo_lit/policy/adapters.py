"""LoRA adapters: adding one to a policy, leaving it out, and merging it into the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

LORA: Mapping[str, Any] = {"rank": None, "alpha": 32, "dropout": 0.0, "targets": "all-linear", "seed": 0}
"""The keys of ``lora`` and their defaults.

``rank`` None = no adapter, all weights are trained; ``alpha``: the adapter's product counts ``alpha / rank`` times;
``dropout`` must be 0; ``targets``: ``all-linear`` = every linear layer but the output head, or names of linear layers
(``[q_proj, v_proj]``, and ``lm_head`` where it is not tied to the embeddings); ``seed``: of the initialisation.
"""


def adapter_settings(lora: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """``lora`` with defaults for the keys it leaves out; None where no adapter is wanted."""
    settings = {**LORA, **(lora or {})}
    if unknown := sorted(set(settings) - set(LORA)):
        raise ValueError(f"there is no key model.lora.{unknown[0]}; there are: {', '.join(LORA)}")
    rank, alpha, dropout = settings["rank"], settings["alpha"], settings["dropout"]
    if rank is None:
        return None
    if type(rank) is not int or rank < 1:
        raise ValueError(
            f"model.lora.rank must be a whole number of at least 1, or null to train all weights, got {rank!r}"
        )
    if type(alpha) not in (int, float) or not 0 < alpha < math.inf:
        raise ValueError(f"model.lora.alpha must be a number above 0, got {alpha!r}")
    if dropout != 0:
        raise ValueError(
            f"model.lora.dropout must be 0, got {dropout!r}: with dropout π_θ and π_old differ at the same weights"
        )
    return settings


def with_adapter(model: PreTrainedModel, settings: Mapping[str, Any] | None) -> PreTrainedModel:
    """The model with a new adapter, whose weights alone have gradients; unchanged if ``settings`` is None."""
    if settings is None:
        return model
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ValueError(
            f"model.lora.rank={settings['rank']} needs peft ({error}): pip install 'hapo_lit[lora]'"
        ) from None
    config = LoraConfig(
        r=settings["rank"], lora_alpha=settings["alpha"], target_modules=_targets(model, settings["targets"])
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings["seed"])
        model.add_adapter(config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    return model


def has_adapter(model: PreTrainedModel) -> bool:
    """Whether the model carries a LoRA adapter."""
    return bool(getattr(model, "peft_config", None))


@contextmanager
def without_adapter(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model computes as its base does: the reference policy of a run that trains an adapter.

    Neither the weights nor their ``requires_grad`` change, so that the optimiser and wrappers of the model are not
    affected.

    Raises:
        ValueError: the model has no adapter.
    """
    if not has_adapter(model):
        raise ValueError("the model has no adapter to leave out; set model.lora.rank, or keep a copy as the reference")
    layers = list(_adapter_layers(model).values())
    off = [layer.disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True  # peft's own enable_adapters(False) would clear requires_grad as well
        yield
    finally:
        for layer, was_off in zip(layers, off, strict=True):
            layer._disable_adapters = was_off


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """The policy as a plain model: a copy with the adapter added to its weights, or the model itself if it has none.

    The copy is of the same class, has the names of an ordinary checkpoint, and all its weights have gradients.  In
    bfloat16 the sums are rounded, so that it is only close to the adapted model.
    """
    if not has_adapter(model):
        return model
    plain = copy.deepcopy(model)
    for name, layer in _adapter_layers(plain).items():
        layer.merge()
        plain.set_submodule(name, layer.get_base_layer())
    del plain.peft_config
    plain._hf_peft_config_loaded = False  # what save_pretrained goes by: it would write the adapter only
    return plain.requires_grad_(True)


@torch.no_grad()
def plain_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Name and weight of everything in an ordinary checkpoint of the policy, one at a time.

    An adapter is added to the weights it belongs to, without changing them.  Shards are gathered, for which every rank
    must ask.  Weights that are tied come once.  A weight that needs neither is the parameter itself and not a copy.
    """
    layers = _adapter_layers(model) if has_adapter(model) else {}
    for name, parameter in model.named_parameters():
        value = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter.detach()
        owner, base, field = name.rpartition(".base_layer.")
        if base and owner in layers:
            if field == "weight":
                with torch.autocast(value.device.type, enabled=False):
                    for adapter in layers[owner].active_adapters:
                        added = layers[owner].get_delta_weight(adapter)
                        whole = added.full_tensor() if isinstance(added, DTensor) else added
                        value = value + whole.to(value.dtype)
            yield f"{owner}.{field}", value
        elif not any(name.startswith(f"{layer}.") for layer in layers):
            yield name, value


def _targets(model: PreTrainedModel, targets: Any) -> str | list[str]:
    """``targets`` as peft takes them; as with peft, a name matches the end of a layer's full name."""
    if targets == "all-linear":
        return "all-linear"
    wanted = [targets] if isinstance(targets, str) else list(targets) if isinstance(targets, Sequence) else []
    linear = [name for name, module in model.get_decoder().named_modules() if isinstance(module, nn.Linear)]
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        linear += [name for name, module in model.named_modules() if module is model.get_output_embeddings()]
    if not wanted or not all(any(f".{name}".endswith(f".{target}") for name in linear) for target in wanted):
        known = sorted({name.rpartition(".")[2] for name in linear})
        raise ValueError(f"model.lora.targets must be all-linear or some of [{', '.join(known)}], got {targets!r}")
    return wanted


def _adapter_layers(model: PreTrainedModel) -> dict[str, Any]:
    """The adapted layers by their names."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}

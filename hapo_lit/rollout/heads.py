"""Small attention heads, made wide enough for vLLM's kernels by zeros that change no result.

vLLM's kernels take heads of 32, 64, ..., and small models for experiments have smaller ones.  A head of size d
becomes one of size D > d: values and outputs get zeros at their end.  Rotary position embedding turns the pair
``(i, i + d/2)`` by ``base^(-2i/d)``, so queries and keys get their zeros behind each half and the base becomes
``base^(D/d)``, which turns the pair ``(i, i + D/2)`` by the same angle.  Scores are divided by ``sqrt(D)`` instead of
``sqrt(d)``, so queries are multiplied by ``sqrt(D/d)``.  The wide model is served as a Llama, whose head size is free,
with the biases that a Qwen2 has.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, PreTrainedConfig, PreTrainedModel

from hapo_lit.policy.adapters import plain_weights
from hapo_lit.policy.model_config import kv_shape
from hapo_lit.policy.vocabulary import token_rows

SMALLEST_HEAD = 32
"""Size of the smallest heads that vLLM 0.32's kernels take."""

KEPT_FIELDS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings"),
    *("pad_token_id", "bos_token_id", "eos_token_id"),
)
"""What the configuration with wider heads takes over."""


def served_config(config: PreTrainedConfig, tokens: int) -> PreTrainedConfig:
    """The configuration that vLLM gets.

    Args:
        config: the model's own; attention heads that are too small become wider.
        tokens: rows of embeddings and output head that belong to tokens; the others are left out.
    """
    if tokens != config.vocab_size:
        config = copy.deepcopy(config)
        config.vocab_size = tokens
    return config if kv_shape(config)[2] >= SMALLEST_HEAD else widened_config(config)


def served_weights(policy: PreTrainedModel) -> Iterable[tuple[str, Tensor]]:
    """The weights that vLLM gets, for the configuration of :func:`served_config`.  Shards are gathered, for which
    every rank must ask."""
    config, weights = policy.config, token_weights(policy)
    return weights if kv_shape(config)[2] >= SMALLEST_HEAD else widened_weights(config, weights)


def token_weights(policy: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """A policy's plain weights; embeddings and output head without the rows that no token belongs to."""
    tokens, ends = token_rows(policy), (policy.get_input_embeddings(), policy.get_output_embeddings())
    cut = {name for name, module in policy.named_modules() if module in ends}
    for name, weight in plain_weights(policy):
        yield name, weight[:tokens] if name.rpartition(".")[0] in cut else weight


def widened_config(config: PreTrainedConfig) -> LlamaConfig:
    """The configuration of the model with wider heads.

    Raises:
        ValueError: for a model of this kind it is not known to be exact.
    """
    rope: dict[str, Any] = dict(getattr(config, "rope_parameters", None) or {})
    plain = rope.get("rope_type", "default") == "default" and not getattr(config, "use_sliding_window", False)
    if config.model_type not in ("qwen2", "llama") or not plain:
        raise ValueError(
            f"vLLM takes attention heads of {SMALLEST_HEAD} and more, this {config.model_type} has heads of "
            f"{kv_shape(config)[2]}, and only plain qwen2 and llama can be widened: use rollout=hf"
        )
    rope["rope_theta"] = float(rope["rope_theta"]) ** (SMALLEST_HEAD / kv_shape(config)[2])
    return LlamaConfig(
        **{name: getattr(config, name) for name in KEPT_FIELDS},
        architectures=["LlamaForCausalLM"],
        head_dim=SMALLEST_HEAD,
        rope_parameters=rope,
        attention_bias=True,
        mlp_bias=bool(getattr(config, "mlp_bias", False)),
        dtype=config.dtype,
    )


def widened_weights(config: PreTrainedConfig, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The weights of the model with wider heads, made of its weights."""
    old, new = kv_shape(config)[2], SMALLEST_HEAD
    given = {}
    for name, weight in weights:
        layer, _, field = name.rpartition(".self_attn.")
        if not layer:
            yield name, weight
            continue
        given[name] = weight.new_empty(0)
        if field.startswith("o_proj.weight"):
            yield name, _padded(weight.unflatten(1, (-1, 1, old)), new).flatten(1)
        elif field.startswith("v_proj"):
            yield name, _padded(weight.unflatten(0, (-1, 1, old)).movedim(2, -1), new).movedim(-1, 2).flatten(0, 2)
        elif field.startswith(("q_proj", "k_proj")):
            halves = weight.unflatten(0, (-1, 2, old // 2)).movedim(2, -1)
            wide = _padded(halves, new // 2).movedim(-1, 2).flatten(0, 2)
            yield name, wide * math.sqrt(new / old) if field.startswith("q_proj") else wide
        else:
            yield name, weight
    for name in sorted(given):  # a Llama with biases has all four
        bias = name.replace(".weight", ".bias")
        if bias not in given:
            heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
            yield bias, given[name].new_zeros(config.hidden_size if ".o_proj." in name else heads * new)


def _padded(values: Tensor, size: int) -> Tensor:
    """Zeros at the end of the last axis."""
    return torch.nn.functional.pad(values, (0, size - values.shape[-1]))

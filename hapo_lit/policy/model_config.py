"""What a model's configuration says about its shape, before there is a model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig

from hapo_lit.numerics.ranges import check_count, check_not_negative

LARGEST_NEW = 8 * 2**30
"""Bytes of a model that is made, and not loaded."""
MOST_SIZE = 2**24
"""Of a dimension of such a model."""


def with_positions(config: PreTrainedConfig, positions: int | None, rope_theta: float | None) -> PreTrainedConfig:
    """The configuration with other positions; the model's weights keep their shapes.

    Args:
        config: a model's; it is changed.
        positions: tokens of prompt and response together that the model takes; None = as it is.
        rope_theta: base of a plain rotary embedding; None = as it is.

    Raises:
        ValueError: the model has no such limit, or its rotary embedding is not a plain one.
    """
    if positions is not None:
        if getattr(config, "max_position_embeddings", None) is None:
            raise ValueError(f"{config.model_type} models do not limit their positions: leave model.positions null")
        if type(positions) is not int or positions < 1:
            raise ValueError(f"model.positions must be a whole number of at least 1, or null, got {positions!r}")
        config.max_position_embeddings = positions
    if rope_theta is not None:
        rope = getattr(config, "rope_parameters", None) or {}
        if rope.get("rope_type") != "default":
            raise ValueError(
                f"model.rope_theta changes a plain rotary embedding, and that of this {config.model_type} is another "
                f"({rope.get('rope_type')}): leave it null"
            )
        if type(rope_theta) not in (int, float) or not 1 < rope_theta < math.inf:
            raise ValueError(f"model.rope_theta must be a number above 1, or null, got {rope_theta!r}")
        config.rope_parameters = {**rope, "rope_theta": float(rope_theta)}
    return config


def check_sizes(sizes: Mapping[str, Any]) -> None:
    """Whether the sizes of a model are sizes, and fit into memory; transformers takes any number."""
    for name, value in sizes.items():
        if re.fullmatch(r"num_\w+|\w+_size|max_position_embeddings|head_dim", name) and value is not None:
            check_count(f"sizes.{name}", value, most=MOST_SIZE)
    check_not_negative("sizes.initializer_range", sizes.get("initializer_range", 0.02))
    hidden, inner = sizes.get("hidden_size", 1), sizes.get("intermediate_size", 1)
    needed = 4 * hidden * sizes.get("num_hidden_layers", 1) * (2 * hidden + 3 * inner)
    if needed > LARGEST_NEW:
        raise ValueError(
            f"model.policy.sizes make a model of {needed / 2**30:,.0f} GiB, and a new one may have "
            f"{LARGEST_NEW / 2**30:.0f}: lower hidden_size, num_hidden_layers or intermediate_size"
        )


def check_heads(config: PreTrainedConfig) -> None:
    """Raise ``ValueError`` if the attention heads do not divide the hidden size, or one another."""
    size, heads = getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", None)
    if size is None or heads is None:  # a model of another kind
        return
    pairs = getattr(config, "num_key_value_heads", None) or heads
    if getattr(config, "head_dim", None) is None and size % heads:
        raise ValueError(
            f"hidden_size={size} is not divisible by num_attention_heads={heads}: correct the sizes of the model"
        )
    if heads % pairs:
        raise ValueError(
            f"num_attention_heads={heads} is not divisible by num_key_value_heads={pairs}: correct the "
            f"sizes of the model"
        )


def check_lengths(config: PreTrainedConfig, prompt: int, response: int) -> None:
    """Raise ``ValueError`` if a prompt and its response may be longer than the model's positions reach."""
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and prompt + response > limit:
        raise ValueError(
            f"max_prompt_tokens={prompt} and max_response_tokens={response} are {prompt + response} tokens, and the "
            f"model has {limit} positions: lower one of them, or set model.positions={prompt + response} and a larger "
            f"model.rope_theta"
        )


def kv_shape(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Layers, heads per layer and numbers per head of a token's key; of its value they are the same."""
    text = config.get_text_config()
    if getattr(text, "kv_lora_rank", None) is not None:
        raise ValueError(f"{config.model_type} models keep compressed keys and values, which is not supported")
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return text.num_hidden_layers, heads, size


def kv_bytes_per_token(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of one token in all layers; layers with a limited window count as full ones."""
    layers, heads, size = kv_shape(config)
    return 2 * layers * heads * size * dtype.itemsize

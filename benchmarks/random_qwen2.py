"""The random model of the cases that measure a step."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config


def random_qwen2(vocabulary: int, hidden: int, layers: int, positions: int, **more: Any) -> PreTrainedModel:
    """A Qwen2 with four heads that share two keys, its head tied; ``more`` goes to its configuration."""
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=3 * hidden,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        **more,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)

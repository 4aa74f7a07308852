"""Attention of one new token for each sequence, where several heads share keys and values, without repeating these.

transformers (5.19) repeats keys and values for each head that shares them as soon as there is a mask, which there is
beside padded prompts; while decoding, reading them is most of the work.  Here the queries of heads that share a key
take the place of a query's length, ``[N, H, 1, D] -> [N, K, H / K, D]``: the same attention to the same keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "hapo_grouped"
"""How transformers knows it."""
KEPT_ON_CPU = ("eager", "sdpa")
"""Implementations that decode as they are on a CPU, where repeating costs little."""


def grouped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """What transformers' ``sdpa`` returns, ``[N, L, H, D]`` and no weights.

    Args:
        query: ``[N, H, L, D]``.
        key, value: ``[N, K, S, D]``, of which H is a multiple.
        attention_mask: added to the scores, ``[N, 1, 1, S]`` or None.
        settings: of ``sdpa``; ``scaling`` is what scores are multiplied by.
    """
    if query.shape[2] != 1 or query.shape[1] == key.shape[1]:
        attended: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)[0]
        return attended, None
    queries = query.unflatten(1, (key.shape[1], -1)).squeeze(3)
    mixed = scaled_dot_product_attention(queries, key, value, attn_mask=attention_mask, scale=settings.get("scaling"))
    return mixed.flatten(1, 2)[:, None], None


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def decoding_attention(policy: PreTrainedModel, on_cpu: bool) -> Iterator[None]:
    """Inside, the policy attends by :func:`grouped_attention`, which also takes the mask of padded prompts that flash
    and flex attention do not; with ``eager``, or on a CPU with ``sdpa``, as it does anyway."""
    config, before = policy.config, policy.config._attn_implementation
    if before in (KEPT_ON_CPU if on_cpu else KEPT_ON_CPU[:1]):
        yield
        return
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before

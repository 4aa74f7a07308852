"""A cache of keys and values with spare room, so that a token is written into it without copying those before it."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from hapo_lit.policy.model_config import kv_shape


class GrowingLayer(DynamicLayer):
    """The cache of one layer.  Its first prompt is taken as it is; room is made at the first token after it."""

    room: tuple[Tensor, Tensor] | None = None
    """Keys and values with the spare room behind them; None = there is none yet."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        length = self.keys.shape[-2]
        total = length + key_states.shape[-2]
        moved = self.room is None or self.keys.data_ptr() != self.room[0].data_ptr()
        if moved or total > self.room[0].shape[-2]:  # type: ignore[index]
            self.room = self._grown(self.keys, total), self._grown(self.values, total)
        keys, values = self.room  # type: ignore[misc]
        keys.narrow(-2, length, total - length).copy_(key_states)
        values.narrow(-2, length, total - length).copy_(value_states)
        self.keys, self.values = keys.narrow(-2, 0, total), values.narrow(-2, 0, total)
        return self.keys, self.values

    @staticmethod
    def _grown(held: Tensor, total: int) -> Tensor:
        room = held.new_empty(*held.shape[:-2], total + max(64, total // 2), held.shape[-1])
        room[..., : held.shape[-2], :] = held
        return room


def growing_cache(policy: PreTrainedModel) -> Cache:
    """An empty cache for a policy."""
    cache = DynamicCache(config=policy.config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def full_cache(
    policy: PreTrainedModel, sequences: int, prompt: int, length: int, dtypes: tuple[torch.dtype, torch.dtype]
) -> Cache:
    """The cache as it is when it has grown token by token, of arbitrary contents.

    Args:
        policy: gives its shape.
        sequences: in the batch.
        prompt: tokens of every sequence that were there at first.
        length: tokens of every sequence that are there now.
        dtypes: of keys and of values.
    """
    _, heads, size = kv_shape(policy.config)
    cache = growing_cache(policy)
    for layer in cache.layers:
        count, room = prompt, prompt
        layer.update(
            *(torch.empty(sequences, heads, prompt, size, dtype=dtype, device=policy.device) for dtype in dtypes)
        )
        while count < length:
            added = 1 if count == room else min(room, length) - count
            layer.update(
                *(torch.empty(sequences, heads, added, size, dtype=dtype, device=policy.device) for dtype in dtypes)
            )
            count, room = count + added, layer.room[0].shape[-2]
    return cache


def cache_tensors(cache: Cache) -> list[Tensor]:
    """Keys and values of all layers, spare room included."""
    return [tensor for layer in cache.layers for tensor in layer.room or (layer.keys, layer.values)]

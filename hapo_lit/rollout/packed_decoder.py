"""One more token for each sequence through a Llama or Qwen2 decoder on a CPU, in few operations.

While a small model decodes, most time goes into calls of small operations, and into products of few rows with weights
that lie the wrong way round.  Here queries, keys and values are one product, gate and up another; all weights are
copies that lie as the products read them, with the weight of the norm before them multiplied in; angles of all
positions are computed once.  Results are those of the forward pass of transformers but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import embedding, scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2Model

from hapo_lit.policy.output_head import Head

DECODERS = {LlamaModel: LlamaDecoderLayer, Qwen2Model: Qwen2DecoderLayer}
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
FIXED_ROPE = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings whose angles do not depend on how long a sequence has become."""
MOST_PARAMETERS = 2**28
"""Of larger models there is no copy: it would take more than a GiB, and products are most of their time anyway."""


def can_be_packed(policy: PreTrainedModel) -> bool:
    """Whether :class:`PackedDecoder` computes what a policy does; not shards, adapters, hooks and autocast."""
    decoder: Any = policy.get_decoder()
    kind = DECODERS.get(type(decoder))
    if kind is None or torch.is_autocast_enabled("cpu") or policy.num_parameters() > MOST_PARAMETERS:
        return False
    config = policy.config
    layers = list(decoder.layers)
    projections = [
        getattr(part, name)
        for layer in layers
        for part, names in zip((layer.self_attn, layer.mlp), PROJECTIONS, strict=True)
        for name in names
    ]
    return (
        all(type(layer) is kind for layer in layers)
        and all(type(projection) is nn.Linear for projection in projections)
        and all(weight.dtype in (torch.float32, torch.float64) for weight in policy.parameters())
        and config._attn_implementation == "sdpa"
        and not any(module._forward_hooks or module._forward_pre_hooks for module in policy.modules())
        and decoder.rotary_emb.rope_type in FIXED_ROPE
        and 2 * len(decoder.rotary_emb.inv_freq) == layers[0].self_attn.head_dim
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    )


class _Product(NamedTuple):
    """Linear layers side by side, after a norm or none: ``x @ weight + bias``."""

    weight: Tensor
    """``[in, out]``."""
    bias: Tensor | None

    least: Tensor | None = None
    """By which inputs that are 0 are divided in the norm; None = there is no norm."""

    @classmethod
    def of(cls, weights: Sequence[Tensor], biases: Sequence[Tensor | None], norm: Any = None) -> _Product:
        """The product of linear layers, ``weights`` ``[out, in]``, and of the norm before them."""
        weight, given, least = torch.cat(list(weights)), [bias for bias in biases if bias is not None], None
        if norm is not None:
            size = weight.shape[1]
            weight = weight * (norm.weight * size**0.5)
            least = weight.new_tensor((size * norm.variance_epsilon) ** 0.5)
        return cls(weight.T.contiguous(), torch.cat(given) if given else None, least)

    def __call__(self, inputs: Tensor) -> Tensor:
        if self.least is not None:
            inputs = inputs / vector_norm(inputs, dim=-1, keepdim=True).hypot(self.least)
        if self.bias is None:
            return torch.mm(inputs, self.weight)
        return torch.addmm(self.bias, inputs, self.weight)


class _Layer(NamedTuple):
    qkv: _Product
    attended: _Product
    gate_up: _Product
    activation: nn.Module
    down: _Product
    scaling: float


class PackedDecoder:
    """A policy's decoder and head for one token at a time.

    Args:
        policy: see :func:`can_be_packed`; its weights are copied as they are now.
        head: its output head.
        length: tokens of a sequence with its prompt, at most.
    """

    def __init__(self, policy: PreTrainedModel, head: Head, length: int) -> None:
        decoder: Any = policy.get_decoder()
        self._embeddings = decoder.embed_tokens.weight
        self._head = _Product.of([head.weight], [head.bias], decoder.norm)
        self._layers = [_packed(layer) for layer in decoder.layers]
        attention = decoder.layers[0].self_attn
        self._size = size = attention.head_dim
        self._heads = tuple(layer.out_features // size for layer in (attention.q_proj, attention.k_proj))
        places = torch.arange(length, device=policy.device)[None]
        cosine, sine = decoder.rotary_emb(self._embeddings, places)
        self._cosine, self._sine = cosine[0, :, None], sine[0, :, None].clone()  # ``[length, 1, D]``
        self._sine[..., : size // 2].neg_()

    def __call__(self, tokens: Tensor, places: Tensor, bias: Tensor, cache: Cache) -> Tensor:
        """The logits of the next token, ``[n, V]``.

        Args:
            tokens: ``[n]``, the last of each sequence.
            places: ``[n]``, their positions.
            bias: ``[n, 1, 1, seen]``, added to attention's scores.
            cache: keys and values of what came before; those of the tokens are added.
        """
        queries, keys = self._heads
        cosine, sine = self._cosine[places], self._sine[places]
        hidden = embedding(tokens, self._embeddings)
        for index, layer in enumerate(self._layers):
            heads = layer.qkv(hidden).unflatten(1, (-1, self._size))
            # rotary embedding turns the halves (a, b) into (a cos - b sin, b cos + a sin)
            turned = heads[:, : queries + keys]
            turned = turned * cosine + turned.roll(self._size // 2, -1) * sine
            past = cache.update(turned[:, queries:, None], heads[:, queries + keys :, None], index)
            asked = turned[:, :queries].unflatten(1, (keys, -1))  # those that share a key, in place of a query's length
            mixed = scaled_dot_product_attention(asked, past[0], past[1], attn_mask=bias, scale=layer.scaling)
            hidden = hidden + layer.attended(mixed.flatten(1))
            gate, up = layer.gate_up(hidden).chunk(2, 1)
            hidden = hidden + layer.down(layer.activation(gate) * up)
        return self._head(hidden)


def _packed(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp

    def product(*layers: Any, norm: Any = None) -> _Product:
        return _Product.of([linear.weight for linear in layers], [linear.bias for linear in layers], norm)

    return _Layer(
        qkv=product(attention.q_proj, attention.k_proj, attention.v_proj, norm=layer.input_layernorm),
        attended=product(attention.o_proj),
        gate_up=product(mlp.gate_proj, mlp.up_proj, norm=layer.post_attention_layernorm),
        activation=mlp.act_fn,
        down=product(mlp.down_proj),
        scaling=attention.scaling,
    )

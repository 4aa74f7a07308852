"""Heads that share keys attend as transformers has them attend, and nothing is repeated."""

from __future__ import annotations

import pytest
import torch
from support.engines import engine, prompt_batch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hapo_lit.policy.loading import new_policy
from hapo_lit.rollout import grouped_attention, hf

SIZES = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
SIZES |= {"intermediate_size": 96, "initializer_range": 0.3, "tie_word_embeddings": True}


class KeyHeads(TorchDispatchMode):
    """Heads of the keys of every attention to a single new token."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "scaled_dot_product" in str(func) and self._is_one_token(args[0]):
            self.seen.add(args[1].shape[1])
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _is_one_token(query):
        return query.shape[1] * query.shape[2] == 4  # 4 heads of one token, however they are laid out


@pytest.mark.parametrize("padded", [True, False])
def test_it_is_the_attention_of_transformers(padded):
    draw = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(3, heads, width, 16, generator=draw) for heads, width in ((8, 1), (2, 11), (2, 11))
    )
    bias = torch.zeros(3, 1, 1, 11)
    bias[1, ..., :4] = torch.finfo(bias.dtype).min
    module = torch.nn.Module()
    module.num_key_value_groups = 4
    ways = (sdpa_attention_forward, grouped_attention.grouped_attention)
    (one, _), (other, _) = (way(module, query, key, value, bias if padded else None, scaling=0.25) for way in ways)
    assert one.shape == other.shape == (3, 1, 8, 16)
    assert (one - other).abs().max() < 1e-6


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_engine_draws_the_same_with_it_and_repeats_no_keys(tokenizer, monkeypatch, temperature):
    """As on a device, where it decodes so."""
    policy = new_policy("qwen2", SIZES, tokenizer, 0)
    made, prompts = engine(policy, temperature=temperature), prompt_batch(5)
    monkeypatch.setattr(hf, "can_be_packed", lambda policy: False)
    with KeyHeads() as plain:
        expected = made.generate(prompts, 4, 0)
    monkeypatch.setattr(grouped_attention, "KEPT_ON_CPU", ("eager",))
    with KeyHeads() as grouped:
        found = made.generate(prompts, 4, 0)
    assert (plain.seen, grouped.seen) == ({4}, {2})
    assert torch.equal(found.tokens, expected.tokens)
    assert (found.behaviour_logprobs - expected.behaviour_logprobs)[expected.mask].abs().max() < 1e-5
    assert policy.config._attn_implementation == "sdpa"


def test_an_engine_samples_from_a_policy_whose_attention_takes_no_mask_of_padded_prompts(tokenizer):
    """Flex attention here, as flash attention on a GPU."""
    policy = new_policy("qwen2", SIZES, tokenizer, 0)
    expected = engine(policy).generate(prompt_batch(5), 4, 0)
    policy.set_attn_implementation("flex_attention")
    found = engine(policy).generate(prompt_batch(5), 4, 0)
    assert torch.equal(found.tokens, expected.tokens)
    assert policy.config._attn_implementation == "flex_attention"

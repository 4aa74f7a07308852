"""The packed decoder computes what the forward pass of transformers does."""

from __future__ import annotations

import pytest
import torch
from support.builders import make_group, make_prompts

from hapo_lit.policy.adapters import adapter_settings, with_adapter
from hapo_lit.policy.output_head import head_of
from hapo_lit.rollout import hf, packed_decoder
from hapo_lit.rollout.growing_cache import growing_cache
from hapo_lit.rollout.hf import HFEngine
from hapo_lit.rollout.packed_decoder import PackedDecoder, can_be_packed

ROPE = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
KINDS = {
    "qwen2": ("qwen2", {}),
    "qwen2, one head of keys": ("qwen2", {"num_key_value_heads": 1}),
    "llama, not tied": ("llama", {"tie_word_embeddings": False}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama3 angles": ("llama", {"rope_parameters": {**ROPE, "original_max_position_embeddings": 16}}),
}


@pytest.mark.parametrize(("architecture", "sizes"), KINDS.values(), ids=list(KINDS))
@torch.no_grad()
def test_logits_and_cache_are_those_of_the_forward_pass(make_policy, architecture, sizes):
    policy = make_policy(architecture, **sizes).double()
    for name, parameter in policy.named_parameters():
        if "norm" in name or "bias" in name:
            parameter.add_(torch.linspace(-0.4, 0.4, parameter.numel()))
    assert can_be_packed(policy)
    decoder, head = policy.get_decoder(), head_of(policy)
    prompts = torch.arange(3, 15).view(2, 6)
    padding = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    places = (padding.cumsum(1) - 1).clamp(min=0)
    caches = [growing_cache(policy), growing_cache(policy)]
    for cache in caches:
        decoder(input_ids=prompts, attention_mask=padding, position_ids=places, past_key_values=cache, use_cache=True)
    packed, tokens = PackedDecoder(policy, head, 10), torch.tensor([5, 9])
    for index in range(4):
        seen = torch.nn.functional.pad(padding, (0, index + 1), value=1).bool()
        bias = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, torch.finfo(torch.float64).min)
        bias, at = bias[:, None, None], padding.sum(1) + index
        ours = packed(tokens, at, bias, caches[0])
        theirs = decoder(
            input_ids=tokens[:, None],
            attention_mask=bias,
            position_ids=at[:, None],
            past_key_values=caches[1],
            use_cache=True,
        ).last_hidden_state[:, -1]
        torch.testing.assert_close(ours, head.logits(theirs), atol=1e-5, rtol=0)  # their norms are in float32
        for layer, other in zip(caches[0].layers, caches[1].layers, strict=True):
            torch.testing.assert_close(layer.keys, other.keys, atol=1e-5, rtol=0)
            torch.testing.assert_close(layer.values, other.values, atol=1e-5, rtol=0)
        tokens = ours.argmax(-1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_engine_draws_the_same_with_it_and_without(make_policy, monkeypatch, temperature):
    policy = make_policy("llama", num_key_value_heads=2)
    group = make_group([[0, 1], [1, 0]])
    found = []
    for packs in (can_be_packed, lambda policy: False):
        monkeypatch.setattr(hf, "can_be_packed", packs)
        engine = HFEngine(12, temperature, seed=3, stop_ids=[2, 7])
        engine.sync(policy)
        found.append(engine.generate(make_prompts(group, [1, 1]), 8, 0))
    assert torch.equal(found[0].tokens, found[1].tokens)
    assert torch.equal(found[0].mask, found[1].mask)
    torch.testing.assert_close(found[0].behaviour_logprobs, found[1].behaviour_logprobs, atol=1e-5, rtol=0)
    assert (found[0].behaviour_logprobs[~found[0].mask] == 0).all()


def test_what_computes_otherwise_is_left_to_transformers(make_policy, monkeypatch):
    assert can_be_packed(make_policy())
    assert not can_be_packed(make_policy().bfloat16())
    assert not can_be_packed(with_adapter(make_policy(), adapter_settings({"rank": 2})))
    assert not can_be_packed(make_policy("mistral"))
    assert not can_be_packed(
        make_policy("llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    )
    sliding = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}
    assert not can_be_packed(make_policy("qwen2", **sliding))
    hooked = make_policy()
    hooked.get_decoder().layers[1].register_forward_hook(lambda layer, inputs, output: output)
    assert not can_be_packed(hooked)
    eager = make_policy()
    eager.set_attn_implementation("eager")
    assert not can_be_packed(eager)
    with torch.autocast("cpu", torch.bfloat16):
        assert not can_be_packed(make_policy())
    monkeypatch.setattr(packed_decoder, "MOST_PARAMETERS", 100)
    assert not can_be_packed(make_policy())

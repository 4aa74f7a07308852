"""Implementations of attention: passes without padding, decoding, and what is refused."""

from __future__ import annotations

import pytest
import torch
from support.builders import make_group, make_prompts
from support.training import data, hapo, module, phase
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoModelForCausalLM
from transformers import modeling_flash_attention_utils as flash

from hapo_lit.policy.attention import check_installed, check_runs, keeps_rows_apart, leaves_padding_out
from hapo_lit.policy.loading import load_policy, meta_model
from hapo_lit.policy.scoring import logprobs_as_in_update, token_logprobs
from hapo_lit.protocols import ALONE
from hapo_lit.rollout.hf import HFEngine
from hapo_lit.rows import MicroBatchLimit
from hapo_lit.training.update import micro_batches

LENGTHS = [[9, 1, 4], [30, 2, 17], [1, 1, 6]]
"""Of responses; one token alone and a prompt of one token among them."""


def with_attention(policy, attention):
    policy.config._attn_implementation = attention
    return policy


def gradient(policy, value):
    policy.zero_grad()
    value.backward()
    return torch.cat([parameter.grad.flatten() for parameter in policy.parameters()])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_a_pass_without_padding_equals_the_padded_one(make_policy, architecture, attention):
    policy = with_attention(make_policy(architecture), attention)
    text = make_group([[0, 1, 0]] * 3, lengths=LENGTHS).text()
    draw = torch.rand(2, *text.mask.shape, generator=torch.Generator().manual_seed(0))
    found = []
    for padding_free in (False, True):
        logprobs, entropy = token_logprobs(policy, text, 0.7, entropy_gradient=True, padding_free=padding_free)
        slope = gradient(policy, (draw[0] * logprobs + draw[1] * entropy).sum() / text.mask.sum())
        assert (logprobs[~text.mask] == 0).all()
        found.append((logprobs.detach(), entropy.detach(), slope))
    assert found[0][0].abs().max() > 1
    for padded, packed in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-5)


def test_flash_attention_is_told_where_rows_begin(make_policy, monkeypatch):
    """In place of its kernel, which needs a GPU, attention within each of the stretches that it was given."""
    seen = []

    def varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal=False, softmax_scale=None):
        seen.append(cu_seqlens_q.diff().tolist())
        assert causal
        settings = {"is_causal": True, "scale": softmax_scale, "enable_gqa": True}
        stretches = zip(*(part.transpose(0, 1).split(seen[-1], 1) for part in (q, k, v)), strict=True)
        return torch.cat([scaled_dot_product_attention(*stretch, **settings) for stretch in stretches], 1).transpose(
            0, 1
        )

    kernels = (None, varlen, None, None, None), (flash._lazy_define_process_function(varlen), dict)
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda *_, **__: kernels)
    policy, text = make_policy(), make_group([[0, 1, 0]] * 3, lengths=LENGTHS).text()
    padded, _ = token_logprobs(policy, text)
    packed, _ = token_logprobs(with_attention(policy, "flash_attention_2"), text, padding_free=True)
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-5)
    rows = (text.prompt_mask.sum(1) + text.mask.sum(1)).tolist()
    assert seen == [rows] * policy.config.num_hidden_layers


def test_a_row_by_itself_has_no_padding_either_way(make_policy):
    policy = make_policy()
    text = make_group([[1]], lengths=[[7]]).text().trimmed()
    assert torch.equal(token_logprobs(policy, text)[0], token_logprobs(policy, text, padding_free=True)[0])


def test_without_padding_a_micro_batch_is_filled_by_real_tokens():
    prompts, responses = [2, 4, 2, 1, 2, 8], [10, 3, 4, 9, 3, 1]
    padded, real = MicroBatchLimit(100, tokens=30), MicroBatchLimit(100, tokens=30, padding_free=True)
    assert padded.fill(prompts, responses) == [[0, 3], [2, 1, 4], [5]]  # of 2 x 12, 3 x 8 and 9
    assert real.fill(prompts, responses) == [[0, 3, 2], [1, 4, 5]]
    assert [real.tokens_of(batch, prompts, responses) for batch in real.fill(prompts, responses)] == [28, 21]
    assert MicroBatchLimit(2, 30, padding_free=True).fill(prompts, responses) == [[0, 3], [2, 1], [4, 5]]


@pytest.mark.parametrize("padding_free", [True, None])
def test_a_module_trains_without_padding_and_its_first_ratios_are_exactly_one(make_policy, tokenizer, padding_free):
    settings = {"micro_batch_tokens": 60, "updates_per_batch": 2, "padding_free": padding_free}
    built = module(make_policy(), tokenizer, phase(hapo(), kl=0.1), **settings)
    assert built.micro_batch_limit == MicroBatchLimit(128, 60, padding_free=bool(padding_free))  # null: not for sdpa
    experience = built.collect(data(tokenizer).batch(0))
    batches, _ = built.micro_batches(experience, policy_moves=True)
    assert len(batches) > 1
    for rows in batches:
        logprobs = built.logprobs(built.policy, rows.text)[0]
        assert torch.equal(logprobs, rows.old_logprobs)
        assert torch.equal(logprobs, rows.reference_logprobs)
        assert rows.text.mask.sum() + rows.text.prompt_mask.sum() <= 60
    (whole,), _ = micro_batches(experience, built.phase.loss, MicroBatchLimit(128), built.ranks)
    padded = module(make_policy(), tokenizer, phase(hapo(), kl=0.1))
    losses = sum(built.loss(rows).loss for rows in batches), padded.loss(padded.score(whole, policy_moves=True)).loss
    gradients = [gradient(made.policy, loss) for made, loss in zip((built, padded), losses, strict=True)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_ranks_make_as_many_passes_when_they_score_other_numbers_of_rows(make_policy):
    policy, passes = make_policy(), []
    policy.get_decoder().register_forward_hook(lambda *_: passes.append(1))
    text, limit = make_group([[0, 1, 0]] * 3, lengths=LENGTHS).text(), MicroBatchLimit(4)
    alone = logprobs_as_in_update(policy, text, 1.0, limit, ALONE)
    assert len(passes) == 3
    beside_more = logprobs_as_in_update(policy, text, 1.0, limit, ALONE._replace(max=lambda number: number + 2))
    assert len(passes) == 3 + 5
    assert torch.equal(beside_more, alone)


def test_an_attention_that_cannot_decode_gives_way_to_one_that_can(make_policy):
    """Cached keys are read with a mask of four dimensions, which flash and flex attention do not take."""
    prompts = make_prompts(make_group([[0, 1], [1, 0]]), [1, 1])
    sampled = {}
    for attention in ("sdpa", "eager", "flex_attention"):
        policy = with_attention(make_policy(), attention)
        engine = HFEngine(12, seed=3)
        engine.sync(policy)
        sampled[attention] = engine.generate(prompts, 2, 0)
        assert policy.config._attn_implementation == attention
    for attention in ("eager", "flex_attention"):
        assert torch.equal(sampled[attention].tokens, sampled["sdpa"].tokens)
        torch.testing.assert_close(sampled[attention].behaviour_logprobs, sampled["sdpa"].behaviour_logprobs)


def test_padding_is_left_out_where_it_pays_and_where_rows_stay_apart(make_policy):
    policy = make_policy()
    for attention, pays in {"sdpa": False, "eager": False, "flex_attention": True, "flash_attention_2": True}.items():
        assert leaves_padding_out(with_attention(policy, attention), None) == pays
        assert leaves_padding_out(policy, True)
        assert not leaves_padding_out(policy, False)
        assert policy.config._attn_implementation == attention


def test_a_model_that_reads_on_from_row_to_row_keeps_its_padding(make_policy):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, "vocab_size": 24}
    recurrent = AutoModelForCausalLM.from_config(AutoConfig.for_model("mamba", **sizes))
    assert not keeps_rows_apart(recurrent)
    with pytest.raises(ValueError, match="padding_free=true: in mamba models rows of one sequence see one another"):
        leaves_padding_out(recurrent, True)


def test_what_does_not_run_here_is_refused_in_one_line(make_policy, tmp_path):
    with pytest.raises(ValueError, match=r"model\.attention=flashy is not known: set one of sdpa, eager, flash_att"):
        check_installed("flashy")
    with pytest.raises(ValueError, match=r"flash_attention_2 needs a CUDA device and the package flash-attn"):
        load_policy("none", attention="flash_attention_2")
    make_policy().save_pretrained(tmp_path)
    assert load_policy(str(tmp_path), attention="eager").config._attn_implementation == "eager"
    policy = with_attention(make_policy(), "flash_attention_2")
    with pytest.raises(ValueError, match=r"flash_attention_2 does not train on a CPU: set model\.attention=sdpa"):
        check_runs(policy, "cpu", mixed=True)
    with pytest.raises(ValueError, match=r"does not compute in float32: set precision=bf16-mixed"):
        check_runs(policy, "cuda", mixed=False)
    check_runs(policy, "cuda", mixed=True)
    check_runs(with_attention(policy, "flex_attention"), "cuda", mixed=False)
    check_runs(with_attention(policy, "eager"), "cpu", mixed=False)


def test_a_plan_is_made_where_the_attention_is_not_installed():
    shape = {"model_type": "qwen2", "vocab_size": 24, "hidden_size": 16, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 1, "num_hidden_layers": 1, "intermediate_size": 16}
    kinds = {name: meta_model("none", shape, attention=name).config._attn_implementation for name in ("eager", "sdpa")}
    assert kinds == {"eager": "eager", "sdpa": "sdpa"}
    assert meta_model("none", shape, attention="flash_attention_3").config._attn_implementation == "sdpa"
    assert leaves_padding_out(meta_model("none", shape), True)

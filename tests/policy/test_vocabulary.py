"""Ids without a token have no probability, and what cannot be cut or embedded is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from support.builders import make_group
from support.engines import engine, prompt_batch
from support.policies import wider_policy
from support.tiny_qwen import qwen_tokenizer, write_qwen

from hapo_lit.data.arithmetic import arithmetic_tokenizer
from hapo_lit.policy.loading import load_policy
from hapo_lit.policy.scoring import token_logprobs
from hapo_lit.policy.vocabulary import check_embeddings, hide_unreadable, token_rows, unreadable_ids

TEXT = make_group([[0, 1, 0], [1, 0, 0]]).text()


def hidden():
    policy, tokens = wider_policy()
    hide_unreadable(policy, arithmetic_tokenizer())
    return policy, tokens


def test_the_distribution_is_that_over_the_tokens():
    policy, tokens = hidden()
    cut = copy.deepcopy(policy)
    cut.resize_token_embeddings(tokens)
    cut.register_buffer("unreadable_ids", None)
    ours, entropy = token_logprobs(policy, TEXT, 0.7, entropy_gradient=True)
    theirs, their_entropy = token_logprobs(cut, TEXT, 0.7, entropy_gradient=True)
    torch.testing.assert_close((ours, entropy), (theirs, their_entropy))
    (ours.sum() + entropy.sum()).backward()
    (theirs.sum() + their_entropy.sum()).backward()
    gradient = policy.get_output_embeddings().weight.grad
    assert (gradient[tokens:] == 0).all()
    torch.testing.assert_close(gradient[:tokens], cut.get_output_embeddings().weight.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 5.0])
def test_no_temperature_samples_them(temperature):
    policy, tokens = hidden()
    assert engine(policy, temperature=temperature).generate(prompt_batch(8), 4, 0).tokens.max() < tokens
    plain, _ = wider_policy()
    assert engine(plain, temperature=temperature).generate(prompt_batch(8), 4, 0).tokens.max() >= tokens


def test_what_is_hidden_is_no_part_of_the_weights_and_goes_where_the_policy_goes():
    policy, tokens = hidden()
    assert "unreadable_ids" not in policy.state_dict()
    assert unreadable_ids(copy.deepcopy(policy)).tolist() == list(range(tokens, tokens + 8))
    assert token_rows(policy) == tokens
    assert unreadable_ids(wider_policy(0)[0]) is None


def test_ids_without_a_token_between_tokens_are_hidden_here_and_refused_for_vllm():
    policy, _ = wider_policy()
    policy.register_buffer("unreadable_ids", torch.tensor([3, 9]), persistent=False)
    found = engine(policy).generate(prompt_batch(8), 4, 0).tokens
    assert not torch.isin(found, torch.tensor([3, 9])).any()
    with pytest.raises(ValueError, match=r"the id 3 has no token though later ones have.*use rollout=hf"):
        token_rows(policy)


def test_a_token_without_an_embedding_is_refused_unless_it_pads(tmp_path):
    tokenizer = qwen_tokenizer()
    policy = load_policy(write_qwen(tmp_path, tokenizer))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    check_embeddings(policy, tokenizer)
    tokenizer.add_tokens(["<answer>"])
    tokenizer.eos_token = None  # as where nobody teaches
    with pytest.raises(ValueError, match=r"has more \('<answer>'\): call model.resize_token_embeddings"):
        check_embeddings(policy, tokenizer)

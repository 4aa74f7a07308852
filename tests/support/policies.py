"""Small random policies for tests of rollout engines, and what greedy sampling from one must give."""

from __future__ import annotations

import torch
from support.builders import TINY
from support.engines import prompt_batch, responses

from hapo_lit.data.arithmetic import arithmetic_tokenizer
from hapo_lit.policy.loading import new_policy
from hapo_lit.policy.scoring import positions, token_logprobs
from hapo_lit.rollout.hf import HFEngine

NARROW = TINY
"""Heads of 16, which vLLM does not take as they are."""
WIDE = {**TINY, "hidden_size": 64, "intermediate_size": 96}
"""Heads of 32, which it does."""
LIMIT, PROMPT = 20, 8
"""Tokens of a response and of a prompt."""


def policy_of(architecture="qwen2", tied=True, sizes=NARROW):
    return new_policy(architecture, {**sizes, "tie_word_embeddings": tied}, arithmetic_tokenizer(), 0)


def wider_policy(rows=8):
    """A policy whose head has more rows than there are tokens, and likes them."""
    policy = policy_of()
    tokens = policy.config.vocab_size
    policy.resize_token_embeddings(tokens + rows, mean_resizing=False)
    with torch.no_grad():
        weight = policy.get_output_embeddings().weight
        weight[tokens:] = 1.5 * weight[:rows]
    return policy, tokens


def synced(engine, policy):
    engine.sync(policy)
    return engine


def train(policy, steps):
    """Optimiser steps that move every weight."""
    group = synced(HFEngine(LIMIT), policy).generate(prompt_batch(16), 1, 99)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        token_logprobs(policy, group.text())[0].sum().backward()
        optimizer.step()


def must_be_greedy(policy, group):
    """Every token is the policy's most likely one, responses end at the first stop or the limit, and say so."""
    with torch.no_grad():
        logprobs, _ = token_logprobs(policy, group.text())
        logits = policy(
            input_ids=torch.cat([group.text().prompt_tokens, group.text().tokens], 1),
            attention_mask=torch.cat([group.text().prompt_mask, group.text().mask], 1).long(),
            position_ids=positions(torch.cat([group.text().prompt_mask, group.text().mask], 1)),
        ).logits
    width = group.tokens.shape[2]
    best = logits[:, -width - 1 : -1].argmax(-1)
    mask = group.mask.flatten(0, 1)
    assert torch.equal(best[mask], group.tokens.flatten(0, 1)[mask])
    assert (logprobs - group.behaviour_logprobs.flatten(0, 1)).abs().max() <= 1e-4
    for (sample,), finished in zip(responses(group), group.finished[:, 0].tolist(), strict=True):
        assert 2 not in sample[:-1]
        assert finished == (sample[-1] == 2)
        assert finished or len(sample) == LIMIT

"""What must hold for every rollout engine, held against the policy's own forward pass."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from support.engines import prompt_batch, responses, take
from support.policies import LIMIT, NARROW, PROMPT, WIDE, must_be_greedy, policy_of, synced, train, wider_policy
from support.servers import NEEDS_VLLM

from hapo_lit.data.arithmetic import arithmetic_tokenizer
from hapo_lit.policy.adapters import merged
from hapo_lit.policy.loading import load_policy
from hapo_lit.policy.scoring import token_logprobs
from hapo_lit.policy.vocabulary import hide_unreadable
from hapo_lit.protocols import RolloutEngine


def greedy_cases() -> list:
    """Of the eight models three, and the served one over HTTP; the others are exhaustive."""
    served = ("qwen2", True, NARROW)
    few = [("qwen2", False, WIDE), ("llama", True, WIDE), served]
    sizes = [("wide", WIDE), ("narrow", NARROW)]
    cases = []
    for kind in ("hf", "vllm", "vllm_server"):
        for architecture, tied, (name, size) in itertools.product(("llama", "qwen2"), (False, True), sizes):
            model = (architecture, tied, size)
            marks = [] if kind == "hf" else list(NEEDS_VLLM)
            if model not in (few if kind == "vllm" else [served] if kind == "vllm_server" else [model]):
                marks.append(pytest.mark.exhaustive)
            label = f"{kind}-{architecture}-{'tied' if tied else 'untied'}-{name}"
            cases.append(pytest.param(kind, *model, marks=marks, id=label))
    return cases


@pytest.mark.parametrize(("make", "architecture", "tied", "sizes"), greedy_cases(), indirect=["make"])
def test_greedy_tokens_are_the_policys_own_before_and_after_updates(make, architecture, tied, sizes):
    """Heads of both sizes; the updates move biases too, which begin as zeros."""
    policy, prompts = policy_of(architecture, tied, sizes), prompt_batch(100, width=PROMPT)
    engine = synced(make(policy, temperature=0.0), policy)
    before = engine.generate(prompts, 1, 0)
    must_be_greedy(policy, before)
    assert before.finished.any()
    assert not before.finished.all()
    train(policy, 5)
    engine.sync(policy)
    after = engine.generate(prompts, 1, 0)
    must_be_greedy(policy, after)
    assert sum(a != b for a, b in zip(responses(before), responses(after), strict=True)) > 50


def test_ids_without_a_token_are_neither_sampled_nor_scored(make):
    """The head has eight rows more than the tokenizer; a server has the model without them."""
    policy, tokens = wider_policy()
    hide_unreadable(policy, arithmetic_tokenizer())
    prompts = prompt_batch(16, width=PROMPT)
    group = synced(make(policy), policy).generate(prompts, 4, 3)
    assert group.tokens.max() < tokens
    with torch.no_grad():
        logprobs, _ = token_logprobs(policy, group.text())
    assert (logprobs - group.behaviour_logprobs.flatten(0, 1)).abs().max() <= 1e-4


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_the_distribution_sampled_from(make, temperature):
    policy = policy_of()
    group = synced(make(policy, temperature=temperature), policy).generate(prompt_batch(16, width=PROMPT), 4, 3)
    with torch.no_grad():
        logprobs, _ = token_logprobs(policy, group.text(), temperature)
    assert (logprobs - group.behaviour_logprobs.flatten(0, 1)).abs().max() <= 1e-4
    assert group.finished.any()
    assert not group.finished.all()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_frequencies_pass_a_chi_square_test(make, temperature):
    policy, prompts = policy_of(), take(prompt_batch(1, width=PROMPT), [0])
    engine = synced(make(policy, max_new_tokens=1, temperature=temperature), policy)
    group = engine.generate(prompts, 4000, 0)
    observed = torch.bincount(group.tokens.flatten(), minlength=24).numpy()
    with torch.no_grad():
        logits = policy(input_ids=prompts.tokens, attention_mask=prompts.mask.long()).logits[0, -1].double()
    expected = 4000 * (logits / temperature).softmax(-1).numpy()
    rare = expected < 5
    observed, expected = (np.append(counts[~rare], counts[rare].sum()) for counts in (observed, expected))
    assert len(expected) > 4
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_a_draw_depends_on_seed_prompt_sample_and_step_only(make):
    policy, prompts = policy_of(), prompt_batch(5, width=PROMPT)
    engine = synced(make(policy), policy)
    whole = responses(engine.generate(prompts, 4, 7))
    order = [3, 0, 4, 1, 2]
    assert responses(engine.generate(take(prompts, order), 4, 7)) == [whole[i] for i in order]
    assert responses(engine.generate(take(prompts, [2]), 2, 7)) == [whole[2][:2]]
    assert len({tuple(sample) for sample in whole[0]}) > 1
    assert responses(engine.generate(prompts, 4, 8)) != whole
    assert responses(synced(make(policy, seed=1), policy).generate(prompts, 4, 7)) != whole
    twins = prompt_batch(1, width=PROMPT)
    one, other = (
        responses(engine.generate(copy.copy(twins).to("cpu"), 4, 7)),
        responses(engine.generate(type(twins)(**{**vars(twins), "prompt_ids": twins.prompt_ids + 1}), 4, 7)),
    )
    assert one != other  # the same text under another id


def test_stop_ids_end_a_response_and_belong_to_it(make):
    policy = policy_of()
    group = synced(make(policy, stop_ids=[5, 6]), policy).generate(prompt_batch(8, width=PROMPT), 8, 0)
    samples = list(itertools.chain(*responses(group)))
    ended = group.finished.flatten().tolist()
    assert any(2 in sample[:-1] for sample in samples)  # the model's own stop is no stop now
    for sample, finished in zip(samples, ended, strict=True):
        assert not {5, 6} & set(sample[:-1])
        assert finished == (sample[-1] in (5, 6))
        assert finished or len(sample) == LIMIT
    assert {True, False} == set(ended)


def test_it_leaves_random_generators_threads_and_modes_alone(make):
    policy = policy_of().train()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.set_num_threads  # noqa: NPY002
    threads, products = torch.get_num_threads(), torch.get_float32_matmul_precision()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        synced(make(policy), policy).generate(prompt_batch(4, width=PROMPT), 2, 0)
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert torch.set_num_threads is states[2]
    assert torch.get_float32_matmul_precision() == products
    assert torch.get_num_threads() == threads
    assert policy.training
    assert torch.is_grad_enabled()


def test_it_implements_the_protocol_and_reports_its_speed(make):
    policy = policy_of()
    engine = make(policy)
    assert isinstance(engine, RolloutEngine)
    with pytest.raises(RuntimeError, match="before sync"):
        engine.generate(prompt_batch(2, width=PROMPT), 2, 0)
    group = synced(engine, policy).generate(prompt_batch(2, width=PROMPT), 2, 0)
    metrics = engine.metrics()
    assert metrics["rollout/tokens"] == group.mask.sum()
    assert metrics["rollout/tokens_per_second"] == pytest.approx(metrics["rollout/tokens"] / metrics["time/rollout"])
    cold = engine.with_temperature(0.0)
    assert (cold.temperature, engine.temperature) == (0.0, 1.0)
    assert cold.metrics() == {}
    with pytest.raises(ValueError, match="temperature must be a number and not negative"):
        engine.with_temperature(-1.0)


def test_it_samples_from_the_merged_weights_of_an_adapter(make, tmp_path):
    pytest.importorskip("peft")
    policy_of().save_pretrained(tmp_path)
    policy = load_policy(str(tmp_path), lora={"rank": 3})
    train(policy, 3)
    group = synced(make(policy, temperature=0.0), policy).generate(prompt_batch(32, width=PROMPT), 1, 0)
    must_be_greedy(merged(policy), group)

"""The engine that samples from the policy itself, on a GPU."""

from __future__ import annotations

import warnings

import pytest
import torch
from support.engines import engine, prompt_batch, responses
from support.policies import must_be_greedy

from hapo_lit.policy.loading import new_policy

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
GROUPED = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
GROUPED |= {"intermediate_size": 96, "initializer_range": 0.3, "tie_word_embeddings": True}


@pytest.fixture
def policy(tokenizer):
    return new_policy("qwen2", GROUPED, tokenizer, 0).cuda()


def test_greedy_tokens_are_those_of_the_policys_own_forward_pass(policy):
    made = engine(policy, temperature=0.0)
    must_be_greedy(policy, made.generate(prompt_batch(64).to("cuda"), 1, 0))


def test_draws_are_those_of_a_cpu_but_where_rounding_decides(policy):
    on_device = responses(engine(policy).generate(prompt_batch(32).to("cuda"), 4, 0))
    on_cpu = responses(engine(policy.cpu()).generate(prompt_batch(32), 4, 0))
    same = [one == other for pair in zip(on_device, on_cpu, strict=True) for one, other in zip(*pair, strict=True)]
    assert sum(same) > 0.95 * len(same)


def test_the_host_waits_only_when_it_looks(policy):
    def waits(tokens, every):
        made = engine(policy, max_new_tokens=tokens, look_every=every, stop_ids=[99])
        made.generate(prompt_batch().to("cuda"), 2, 0)  # what is set up once
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                made.generate(prompt_batch().to("cuda"), 2, 0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in said)

    assert waits(20, 100) == waits(2, 100)
    assert waits(20, 1) > waits(20, 100)

"""Compiled decoder layers compute what they computed, under the names they had."""

from __future__ import annotations

import pytest
import torch
from support.builders import make_group
from support.engines import engine, prompt_batch
from torch._dynamo.utils import counters

from hapo_lit.data.arithmetic import arithmetic_tokenizer
from hapo_lit.policy.compiling import as_written, compiled_copy
from hapo_lit.policy.loading import load_policy, new_policy
from hapo_lit.policy.scoring import token_logprobs


def test_compiled_layers_have_the_same_losses_gradients_and_names_and_sampling_does_not_compile(tmp_path, make_policy):
    make_policy(num_hidden_layers=2).save_pretrained(tmp_path)
    plain, compiled = (load_policy(str(tmp_path), compiled=backend) for backend in (False, "eager"))
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    counters.clear()
    for policy in (plain, compiled):
        token_logprobs(policy, make_group([[0, 1], [1, 0]]).text())[0].sum().backward()
    assert counters["stats"]["unique_graphs"] == 1  # one for both layers
    pairs = list(zip(plain.parameters(), compiled.parameters(), strict=True))
    assert all(torch.allclose(one.grad, other.grad, atol=1e-5, rtol=1e-5) for one, other in pairs)

    responses = []
    for policy in (plain, compiled):
        responses.append(engine(policy).generate(prompt_batch(2), 2, 0).tokens)
    assert torch.equal(*responses)
    assert counters["stats"]["unique_graphs"] == 1
    copied = compiled_copy(compiled).get_decoder().layers[0]._compiled_call_impl
    assert copied is not None
    assert copied is not compiled.get_decoder().layers[0]._compiled_call_impl
    assert compiled_copy(plain).get_decoder().layers[0]._compiled_call_impl is None


def test_a_decoder_without_layers_runs_as_it_is_written():
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16}
    with as_written(new_policy("gpt2", sizes, arithmetic_tokenizer(), seed=0)) as stance:
        assert stance is None


def test_a_backend_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"model.compile must be true, false or a backend .*\(.*inductor[^_]*\), got 'fast'"
    ):
        load_policy(str(tmp_path), compiled="fast")

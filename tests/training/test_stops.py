"""Teachers end with a token that stops every engine of the run, or the run does not begin."""

from __future__ import annotations

import pytest
from support.tiny_qwen import END, TEXT_END, qwen_tokenizer, write_qwen
from support.training import hapo, phase

from hapo_lit.algorithm import Supervised
from hapo_lit.injectors import NoInjection
from hapo_lit.policy.loading import load_policy, load_tokenizer
from hapo_lit.rollout.hf import HFEngine
from hapo_lit.training.evaluation import Evaluator
from hapo_lit.training.stops import stop_ids
from hapo_lit.verify.exact import ExactVerifier
from hapo_lit.weighting import TokenMean


@pytest.fixture
def mixed(tmp_path):
    """A policy whose generation stops elsewhere than its tokenizer ends."""
    return write_qwen(tmp_path / "mixed", qwen_tokenizer(eos=TEXT_END), stops=[END])


def stops(path, *algorithms, engine=None, **settings):
    evaluators = {"greedy": Evaluator(engine or HFEngine(4), ExactVerifier())}
    phases = [phase(algorithm) for algorithm in algorithms]
    return stop_ids(load_policy(path), load_tokenizer(path, **settings), phases, evaluators)


def test_an_end_that_stops_nothing_is_refused_for_every_engine(mixed):
    said = r"teachers end in '<\|endoftext\|>' \(\d+\), at which the engine does not stop; .*eos_token='<\|im_end\|>'"
    for algorithm in (hapo(), Supervised(TokenMean())):
        with pytest.raises(ValueError, match=said):
            stops(mixed, algorithm)
    end, other = load_tokenizer(mixed).convert_tokens_to_ids([END, TEXT_END])
    assert stops(mixed, hapo(), eos_token=END) == [end]
    with pytest.raises(ValueError, match="at which the engine does not stop"):
        stops(mixed, hapo(), engine=HFEngine(4, stop_ids=[other]), eos_token=END)
    with pytest.raises(ValueError, match=r"model.tokenizer.eos_token='\.\.\.' is no token"):
        stops(mixed, hapo(), eos_token="...")


def test_a_policy_that_is_never_taught_may_end_as_it_likes(mixed):
    assert stops(mixed, hapo(injector=NoInjection())) == load_tokenizer(mixed).convert_tokens_to_ids([END])


def test_every_kind_of_engine_says_where_it_stops(mixed):
    pytest.importorskip("vllm")
    from hapo_lit.rollout.vllm import VLLMEngine
    from hapo_lit.rollout.vllm_server import VLLMServerEngine

    policy = load_policy(mixed)
    for engine in (HFEngine(4), VLLMEngine(4, 4, 4, 4), VLLMServerEngine(["http://127.0.0.1:9"], 4)):
        assert engine.stops(policy) == [policy.generation_config.eos_token_id[0]]


@pytest.mark.parametrize("ids", [258, "2", ["<|im_end|>"], [2.0]])
def test_stops_are_token_ids(ids):
    with pytest.raises(ValueError, match=r"rollout.stop_ids must be a list of token ids, such as \[2\], got"):
        HFEngine(4, stop_ids=ids)


def test_a_stop_without_a_token_is_refused(mixed):
    end = load_tokenizer(mixed).convert_tokens_to_ids(TEXT_END)
    with pytest.raises(ValueError, match="responses are to stop at 99999, for which the tokenizer has no token"):
        stops(mixed, hapo(), engine=HFEngine(4, stop_ids=[99999, end]), eos_token=END)

"""What must hold for every rollout engine, held against the policy's own forward pass."""

from __future__ import annotations

import copy
import itertools
import os
import subprocess
from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from support.engines import prompt_batch, responses, take
from support.servers import NEEDS_VLLM, serving

from hapo_lit.data.arithmetic import arithmetic_tokenizer
from hapo_lit.errors import EngineError
from hapo_lit.policy.adapters import merged
from hapo_lit.policy.loading import load_policy, new_policy
from hapo_lit.policy.scoring import positions, token_logprobs
from hapo_lit.protocols import RolloutEngine
from hapo_lit.rollout.hf import HFEngine
from hapo_lit.rollout.sampling import prompt_lists

SIZES = {
    "hidden_size": 64,  # heads of 32, which vLLM takes as they are
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}
NARROW = {**SIZES, "hidden_size": 32}
"""Heads of 16, which it does not."""
MODELS = [(architecture, tied) for architecture in ("qwen2", "llama") for tied in (True, False)]
LIMIT, PROMPT = 20, 8
ENGINES = ["hf", *(pytest.param(name, marks=NEEDS_VLLM) for name in ("vllm", "vllm_server"))]


def policy_of(architecture="qwen2", tied=True, sizes=SIZES):
    return new_policy(architecture, {**sizes, "tie_word_embeddings": tied}, arithmetic_tokenizer(), 0)


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """``policy`` -> the address of a server for models of its shape; all are ended afterwards."""
    started = {}
    with ExitStack() as stack:

        def server_for(policy):
            key = policy.config.to_json_string()
            if key not in started:
                folder = tmp_path_factory.mktemp("server")
                merged(policy).save_pretrained(folder / "model")
                limits = [f"max_prompt_tokens={PROMPT}", f"max_response_tokens={LIMIT}"]
                model = [f"model.path={folder / 'model'}", "prompts_per_step=32", "group_size=4"]
                started[key] = stack.enter_context(serving(folder, *model, *limits))[0]
            return started[key]

        yield server_for


@pytest.fixture(params=ENGINES)
def make(request, servers):
    """``(policy, **settings)`` -> an engine of each kind, not yet synced."""
    kind = request.param

    def made(policy, **settings):
        settings = {"max_new_tokens": LIMIT, **settings}
        if kind == "hf":
            return HFEngine(**settings)
        if kind == "vllm":
            from hapo_lit.rollout.vllm import VLLMEngine

            plan = {"max_prompt_tokens": PROMPT, "prompts_per_step": 32, "group_size": 4}
            return VLLMEngine(**plan, max_model_len=PROMPT + LIMIT, **settings)
        from hapo_lit.rollout.vllm_server import VLLMServerEngine

        return VLLMServerEngine([servers(policy)], **settings)

    made.kind = kind
    return made


@pytest.fixture(scope="module", autouse=True)
def _close():
    yield
    from hapo_lit.rollout.vllm_process import ProcessVLLM

    ProcessVLLM.end()


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


@pytest.mark.parametrize(("architecture", "tied"), MODELS)
def test_greedy_tokens_are_the_policys_own_before_and_after_updates(make, architecture, tied):
    policy, prompts = policy_of(architecture, tied), prompt_batch(100, width=PROMPT)
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


def test_small_heads_are_served_exactly(make):
    if make.kind == "vllm_server":
        pytest.skip("tests/rollout/test_engine_runs.py has a server of such a model")
    for architecture in ("qwen2", "llama"):
        policy = policy_of(architecture, sizes=NARROW)
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if name.endswith("bias"):  # which begin as zeros
                    parameter.normal_(generator=torch.Generator().manual_seed(1))
        engine = synced(make(policy, temperature=0.0), policy)
        must_be_greedy(policy, engine.generate(prompt_batch(100, width=PROMPT), 1, 0))


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


def test_it_samples_from_the_merged_weights_of_an_adapter(make, tmp_path):
    pytest.importorskip("peft")
    policy_of().save_pretrained(tmp_path)
    policy = load_policy(str(tmp_path), lora={"rank": 3})
    train(policy, 3)
    group = synced(make(policy, temperature=0.0), policy).generate(prompt_batch(32, width=PROMPT), 1, 0)
    must_be_greedy(merged(policy), group)


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
    with pytest.raises(ValueError, match="0 \\(greedy\\) or positive"):
        engine.with_temperature(-1.0)


# -- one kind of engine alone


@pytest.mark.parametrize("make", [pytest.param("vllm_server", marks=NEEDS_VLLM)], indirect=True)
def test_weights_that_somebody_else_has_put_there_are_an_error(make):
    from hapo_lit.rollout.vllm_client import Server

    policy, prompts = policy_of(), prompt_batch(4, width=PROMPT)
    ours = synced(make(policy), policy)
    synced(make(policy, seed=1), policy)  # of the same run
    ours.generate(prompts, 2, 0)
    theirs = Server(ours.servers[0].url, 60)
    theirs.post("/update_weight_version", {"new_version": "theirs"})
    with pytest.raises(EngineError, match=r"weights of version 'theirs' before sampling.* does another run use it"):
        ours.generate(prompts, 2, 0)
    ours.sync(policy)
    ours.generate(prompts, 2, 0)


@pytest.mark.parametrize("make", [pytest.param("vllm_server", marks=NEEDS_VLLM)], indirect=True)
def test_a_request_that_a_server_refuses_is_one_error_that_says_so(make):
    policy = policy_of()
    engine = synced(make(policy), policy)
    with pytest.raises(EngineError, match=r"vllm_server at http://127.* answered 4\d\d to /inference/v1/generate"):
        engine.generate(prompt_batch(4, width=PROMPT + LIMIT + 9), 2, 0)
    engine.max_new_tokens = 10 * LIMIT
    with pytest.raises(EngineError, match=r"cut off after \d+ tokens, before max_response_tokens=200"):
        engine.generate(prompt_batch(16, width=PROMPT), 2, 0)


@pytest.mark.parametrize("make", [pytest.param("vllm_server", marks=NEEDS_VLLM)], indirect=True)
def test_weights_that_cannot_be_sent_are_an_error_that_names_the_setting(make, tmp_path):
    policy = policy_of()
    with pytest.raises(EngineError, match=r"vllm_server failed while taking over weights.*rollout.exchange"):
        make(policy, exchange=str(tmp_path / "nowhere")).sync(policy)
    synced(make(policy, exchange=str(tmp_path)), policy).generate(prompt_batch(4, width=PROMPT), 2, 0)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_a_killed_process_left_behind_are_swept_up(tmp_path, monkeypatch):
    from hapo_lit.rollout import vllm_server

    monkeypatch.setattr(vllm_server, "SHARED_MEMORY", tmp_path)
    gone = subprocess.Popen(["true"])
    gone.wait()
    for number in (gone.pid, os.getpid()):
        (tmp_path / f"hapo-weights-{number}-abc").mkdir()
    vllm_server.remove_leftovers()
    assert [path.name for path in tmp_path.iterdir()] == [f"hapo-weights-{os.getpid()}-abc"]


@pytest.mark.parametrize("make", [pytest.param("vllm", marks=NEEDS_VLLM)], indirect=True)
def test_too_little_memory_is_an_error_that_names_the_setting(make):
    policy = policy_of()
    engine = make(policy)
    engine.options = {"kv_cache_memory_bytes": 1000}
    with pytest.raises(EngineError, match=r"vllm failed while starting.*memory.*see rollout.gpu_memory_utilization"):
        engine.sync(policy)
    synced(make(policy), policy).generate(prompt_batch(4, width=PROMPT), 2, 0)  # and the next one starts


@pytest.mark.parametrize("make", [pytest.param("vllm", marks=NEEDS_VLLM)], indirect=True)
def test_a_weight_that_does_not_arrive_is_an_error(make, monkeypatch):
    from hapo_lit.rollout import vllm_process

    policy = policy_of()
    engine = synced(make(policy), policy)

    def without_one(model):
        return ((name, weight) for name, weight in policy.named_parameters() if name != "model.norm.weight")

    monkeypatch.setattr(vllm_process, "plain_weights", without_one)
    with pytest.raises(EngineError, match=r"parameters model.norm.weight got no weights from the policy"):
        engine.sync(policy)


@pytest.mark.parametrize("width", [pytest.param(300, marks=NEEDS_VLLM)])
def test_nothing_of_a_long_prompt_is_kept_over_new_weights(width):
    """Blocks of 128 tokens would be found in vLLM's prefix cache, as the old weights filled them."""
    from hapo_lit.rollout.vllm import VLLMEngine

    policy, prompts = policy_of(sizes={**SIZES, "max_position_embeddings": 512}), prompt_batch(8, width=width)
    prompts.mask[:] = True
    engine = synced(VLLMEngine(LIMIT, width, 8, 1, temperature=0.0), policy)
    must_be_greedy(policy, engine.generate(prompts, 1, 0))
    train(policy, 5)
    engine.sync(policy)
    must_be_greedy(policy, engine.generate(prompts, 1, 0))


@pytest.mark.parametrize("make", [pytest.param("vllm", marks=NEEDS_VLLM)], indirect=True)
def test_engines_of_a_process_share_one_vllm(make):
    from hapo_lit.rollout.vllm_process import ProcessVLLM

    policy, prompts = policy_of(), prompt_batch(4, width=PROMPT)
    first, second = (synced(make(policy, seed=seed), policy) for seed in (0, 1))
    assert first._vllm is second._vllm is ProcessVLLM.running
    first.close()
    second.generate(prompts, 2, 0)  # the last to close ends it
    second.close()
    assert ProcessVLLM.running is None
    for engine in (first, second):
        with pytest.raises(RuntimeError, match="before sync"):
            engine.generate(prompts, 2, 0)


@pytest.mark.parametrize("lora", [pytest.param(None, marks=NEEDS_VLLM), pytest.param({"rank": 3}, marks=NEEDS_VLLM)])
def test_an_exported_policy_is_an_ordinary_folder_to_vllm(tmp_path, lora):
    import vllm

    from hapo_lit.rollout.vllm_process import ProcessVLLM, undisturbed
    from hapo_lit.training.export import export

    ProcessVLLM.end()
    policy_of().save_pretrained(tmp_path / "model")
    arithmetic_tokenizer().save_pretrained(tmp_path / "model")
    policy = load_policy(str(tmp_path / "model"), lora=lora)
    train(policy, 3)
    export(policy.state_dict(), tmp_path / "model", lora, tmp_path / "policy")
    with undisturbed(torch.device("cpu")):
        llm = vllm.LLM(
            str(tmp_path / "policy"),
            dtype="float32",
            enforce_eager=True,
            max_model_len=64,
            kv_cache_memory_bytes=2**24,
            disable_log_stats=True,
        )
    prompts = prompt_batch(32, width=PROMPT)
    asked = [{"prompt_token_ids": tokens} for tokens in prompt_lists(prompts)]
    answers = llm.generate(asked, vllm.SamplingParams(temperature=0.0, max_tokens=LIMIT), use_tqdm=False)
    ours = synced(HFEngine(LIMIT, 0.0), policy).generate(prompts, 1, 0)
    assert [list(answer.outputs[0].token_ids) for answer in answers] == [sample for (sample,) in responses(ours)]
    llm.llm_engine.engine_core.shutdown()


def test_settings_that_cannot_be_are_refused():
    from hapo_lit.rollout.vllm import VLLMEngine
    from hapo_lit.rollout.vllm_server import VLLMServerEngine

    with pytest.raises(ValueError, match="gpu_memory_utilization must be in"):
        VLLMEngine(4, 4, 4, 4, gpu_memory_utilization=1.5)
    with pytest.raises(ValueError, match=r"max_model_len=7 would cut off"):
        VLLMEngine(4, 4, 4, 4, max_model_len=7)
    for engine in (partial(VLLMEngine, 4, 4, 4, 4), partial(VLLMServerEngine, ["http://127.0.0.1:1"], 4)):
        with pytest.raises(ValueError, match=r"rollout.dtype must be null or one of float32"):
            engine(dtype="auto")
    for url in ("http://10.0.0.1:8000", "http://localhost.elsewhere.org", "http://127.elsewhere.org:1"):
        with pytest.raises(ValueError, match=r"not this machine: set rollout.anywhere=true"):
            VLLMServerEngine([url], 4)
    with pytest.raises(ValueError, match=r"write http://host:port"):
        VLLMServerEngine(["127.0.0.1:8000"], 4)
    VLLMServerEngine(["http://10.0.0.1:8000"], 4, anywhere=True)
    with pytest.raises(ValueError, match="must be one of file, nccl"):
        VLLMServerEngine(["http://localhost:1"], 4, transfer="post")
    with pytest.raises(ValueError, match=r"rollout.urls is empty"):
        VLLMServerEngine([], 4)
    with pytest.raises(EngineError, match=r"does not answer .* start it with `hapo serve`"):
        VLLMServerEngine(["http://127.0.0.1:9"], 4).sync(policy_of())

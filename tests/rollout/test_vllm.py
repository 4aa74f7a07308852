"""What must hold for one kind of rollout engine alone: vLLM in process, a vLLM server."""

from __future__ import annotations

import os
import subprocess
from functools import partial

import pytest
import torch
from support.engines import prompt_batch, responses
from support.policies import LIMIT, NARROW, PROMPT, WIDE, must_be_greedy, policy_of, synced, train
from support.servers import NEEDS_VLLM

from hapo_lit.data.arithmetic import arithmetic_tokenizer
from hapo_lit.errors import EngineError
from hapo_lit.policy.loading import load_policy
from hapo_lit.rollout.buckets import written_buckets
from hapo_lit.rollout.heads import served_weights
from hapo_lit.rollout.hf import HFEngine
from hapo_lit.rollout.sampling import prompt_lists
from hapo_lit.rollout.server_token import VARIABLE


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
        engine.generate(prompt_batch(4, width=150), 2, 0)
    engine.max_new_tokens = 10 * LIMIT
    with pytest.raises(EngineError, match=r"cut off after \d+ tokens, before max_response_tokens=200"):
        engine.generate(prompt_batch(16, width=PROMPT), 2, 0)


@pytest.mark.parametrize("make", [pytest.param("vllm_server", marks=NEEDS_VLLM)], indirect=True)
def test_a_server_asks_for_its_token_and_outlives_an_id_that_is_none(make, monkeypatch):
    policy, prompts = policy_of(), prompt_batch(4, width=PROMPT)
    engine = synced(make(policy), policy)
    server = engine.servers[0]
    settings = {"max_tokens": 2, "min_tokens": 1}
    for body in (
        {"token_ids": [5, 10**9], "sampling_params": settings},
        {"token_ids": [5], "sampling_params": {**settings, "stop_token_ids": [10**9]}},
    ):
        with pytest.raises(EngineError, match=r"answered 400 .*token id 1000000000 is none of the model's"):
            server.post("/inference/v1/generate", body)
    with monkeypatch.context() as patch:
        patch.setenv(VARIABLE, "another")
        for route in ("/pause", "/update_weights", "/inference/v1/generate"):
            with pytest.raises(EngineError, match="has another token than this run"):
                server.post(route, {})
    engine.generate(prompts, 2, 0)


@pytest.mark.parametrize("make", [pytest.param("vllm_server", marks=NEEDS_VLLM)], indirect=True)
def test_weights_that_cannot_be_sent_are_an_error_that_names_the_setting(make, tmp_path):
    policy = policy_of()
    train(policy, 1)  # weights that the server has would not be sent
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
    from hapo_lit.rollout import heads

    policy = policy_of()
    engine = synced(make(policy), policy)

    def without_one(model):
        return ((name, weight) for name, weight in policy.named_parameters() if name != "model.norm.weight")

    train(policy, 1)
    monkeypatch.setattr(heads, "plain_weights", without_one)
    with pytest.raises(EngineError, match=r"parameters model.norm.weight got no weights from the policy"):
        engine.sync(policy)


@pytest.mark.parametrize("width", [pytest.param(300, marks=NEEDS_VLLM)])
def test_nothing_of_a_long_prompt_is_kept_over_new_weights(width):
    """Blocks of 128 tokens would be found in vLLM's prefix cache, as the old weights filled them."""
    from hapo_lit.rollout.vllm import VLLMEngine

    policy, prompts = policy_of(sizes={**NARROW, "max_position_embeddings": 512}), prompt_batch(8, width=width)
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


@pytest.mark.parametrize("make", [pytest.param("vllm", marks=NEEDS_VLLM)], indirect=True)
def test_engines_of_a_process_take_the_weights_over_once(make, monkeypatch):
    """And again after an optimiser step, and where vLLM has lost them in its sleep."""
    from hapo_lit.rollout import heads

    passes = []
    plain = heads.plain_weights

    def counted(model):
        passes.append(model)
        return plain(model)

    monkeypatch.setattr(heads, "plain_weights", counted)
    policy, prompts = policy_of(), prompt_batch(16, width=PROMPT)
    engines = [make(policy, seed=seed, temperature=0.0) for seed in (0, 1)]
    for count in (1, 2):
        for engine in (*engines, engines[0].with_temperature(0.0)):
            must_be_greedy(policy, synced(engine, policy).generate(prompts, 1, 0))
        assert len(passes) == count
        train(policy, 1)
    vllm = engines[0]._vllm
    vllm.held = None  # as after its sleep, which a CPU has not
    synced(engines[1], policy)
    assert len(passes) == 3
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("make", [pytest.param("vllm_server", marks=NEEDS_VLLM)], indirect=True)
def test_weights_in_many_files_take_the_place_of_an_update_that_was_left_half_done(make, tmp_path):
    policy, prompts = policy_of(), prompt_batch(16, width=PROMPT)
    engine = make(policy, temperature=0.0, bucket_bytes=2000, exchange=str(tmp_path))
    (server,) = engine.servers
    synced(engine, policy)
    server.start_weight_update()
    half = [(name, torch.randn_like(weight)) for name, weight in served_weights(policy)][:6]
    (path,) = written_buckets(half, tmp_path, torch.float32, 10**9)
    server.update_weights({"path": str(path)})
    path.unlink()  # and its sender is killed
    train(policy, 2)
    must_be_greedy(policy, synced(engine, policy).generate(prompts, 1, 0))


@pytest.mark.parametrize("lora", [pytest.param({"rank": 3}, marks=NEEDS_VLLM)])
def test_an_exported_policy_is_an_ordinary_folder_to_vllm(tmp_path, lora):
    import vllm

    from hapo_lit.rollout.vllm_process import ProcessVLLM, undisturbed
    from hapo_lit.training.export import export

    ProcessVLLM.end()
    policy_of(sizes=WIDE).save_pretrained(tmp_path / "model")
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
    text = "Compute 3+4.\n"
    assert llm.get_tokenizer()(text)["input_ids"] == arithmetic_tokenizer()(text)["input_ids"]
    llm.llm_engine.engine_core.shutdown()


def test_settings_that_cannot_be_are_refused():
    from hapo_lit.rollout.vllm import VLLMEngine
    from hapo_lit.rollout.vllm_server import VLLMServerEngine

    with pytest.raises(ValueError, match="gpu_memory_utilization must be in"):
        VLLMEngine(4, 4, 4, 4, gpu_memory_utilization=1.5)
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        option = name.replace("_", "-")
        said = rf"rollout.options.{name}: .* use rollout=vllm_server with 'rollout.options=\[\"--{option}=2\"\]'"
        with pytest.raises(ValueError, match=said):
            VLLMEngine(4, 4, 4, 4, options={name: 2})
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

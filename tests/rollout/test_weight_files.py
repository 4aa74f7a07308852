"""How weights travel to servers, held against one that takes weights as vLLM's does, and has no vLLM."""

from __future__ import annotations

import pytest
import torch
from support.policies import LIMIT, policy_of, train
from support.weight_server import weight_server

from hapo_lit.errors import EngineError
from hapo_lit.policy.adapters import merged, with_adapter
from hapo_lit.rollout.buckets import read_bucket, written_buckets
from hapo_lit.rollout.heads import served_weights
from hapo_lit.rollout.vllm_server import VLLMServerEngine


@pytest.fixture
def server():
    with weight_server() as made:
        yield made


def test_files_hold_all_weights_once_cast_and_no_more_of_them_than_the_size(tmp_path):
    weights = {
        "one": torch.randn(4, 5),
        "two": torch.randn(10),
        "large": torch.randn(50),
        "last": torch.randn(3).double(),
    }
    kept = {}
    for path in written_buckets(weights.items(), tmp_path, torch.bfloat16, 60):
        assert [path] == list(tmp_path.iterdir())
        bucket = dict(read_bucket(str(path), torch.device("cpu")))
        assert sum(weight.nbytes for weight in bucket.values()) <= 60 or len(bucket) == 1
        path.unlink()
        kept[path.name] = list(bucket)
        assert all(torch.equal(weight, weights[name].bfloat16()) for name, weight in bucket.items())
    assert list(kept.values()) == [["one", "two"], ["large"], ["last"]]
    assert list(written_buckets([], tmp_path, torch.bfloat16, 60)) == []


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [({}, torch.float32), ({"precision": "bf16-mixed"}, torch.bfloat16), ({"dtype": "float16"}, torch.float16)],
)
def test_a_server_gets_all_weights_in_its_dtype_a_file_at_a_time(server, tmp_path, settings, dtype):
    url, seen = server
    policy = policy_of()
    VLLMServerEngine([url], LIMIT, exchange=str(tmp_path), bucket_bytes=20_000, **settings).sync(policy)
    expected = dict(served_weights(policy))
    assert seen.weights.keys() == expected.keys()
    assert all(torch.equal(seen.weights[name], weight.to(dtype)) for name, weight in expected.items())
    assert len(seen.buckets) > 2
    assert set(seen.beside) == {1}
    assert list(tmp_path.iterdir()) == []
    assert seen.calls.count("/start_weight_update") == seen.updates == 1


def test_weights_are_sent_once_whoever_asks(server, tmp_path):
    """Also with an adapter: its changes are the policy's."""
    url, seen = server
    policy = with_adapter(policy_of(), {"rank": 2, "alpha": 4, "targets": "all-linear", "seed": 0})
    engine = VLLMServerEngine([url], LIMIT, exchange=str(tmp_path))
    others = [engine.with_temperature(0.0), VLLMServerEngine([url], LIMIT, seed=5, exchange=str(tmp_path))]
    for one in (engine, *others):
        one.sync(policy)
    assert seen.updates == 1
    assert seen.calls.count("/reset_prefix_cache") == 3  # what earlier prompts left may not change a draw
    (first, *_) = (parameter for name, parameter in policy.named_parameters() if "lora_B" in name)
    first.data.add_(1.0)
    for one in (*others, engine):
        one.sync(policy)
    assert seen.updates == 2
    expected = dict(served_weights(merged(policy)))
    assert all(torch.allclose(seen.weights[name], weight, atol=1e-6) for name, weight in expected.items())
    seen.version = "of another run"
    engine.sync(policy)
    assert seen.updates == 3
    VLLMServerEngine([url], LIMIT, dtype="bfloat16", exchange=str(tmp_path)).sync(policy)
    assert seen.updates == 4


def test_an_optimiser_step_is_sent(server, tmp_path):
    url, seen = server
    policy = policy_of()
    engine = VLLMServerEngine([url], LIMIT, exchange=str(tmp_path))
    engine.sync(policy)
    train(policy, 1)
    engine.sync(policy)
    assert seen.updates == 2
    assert torch.equal(seen.weights["model.norm.weight"], policy.get_decoder().norm.weight)


def test_a_server_that_cannot_load_is_an_error_and_gets_the_weights_again(server, tmp_path):
    url, seen = server
    policy = policy_of()
    engine = VLLMServerEngine([url], LIMIT, exchange=str(tmp_path))
    engine.sync(policy)
    train(policy, 1)
    seen.full = True
    with pytest.raises(EngineError, match=r"answered 500 to /update_weights"):
        engine.sync(policy)
    assert list(tmp_path.iterdir()) == []
    seen.full = False
    engine.sync(policy)
    assert torch.equal(seen.weights["model.norm.weight"], policy.get_decoder().norm.weight)


def test_an_update_that_a_killed_process_left_unfinished_is_ended(server, tmp_path):
    url, seen = server
    seen.under_way = True
    VLLMServerEngine([url], LIMIT, exchange=str(tmp_path)).sync(policy_of())
    assert seen.updates == 1
    assert seen.calls.count("/start_weight_update") == 2


def test_a_size_that_no_file_can_have_is_refused():
    with pytest.raises(ValueError, match=r"rollout.bucket_bytes must be a whole number of at least 1, got 0"):
        VLLMServerEngine(["http://127.0.0.1:9"], LIMIT, bucket_bytes=0)

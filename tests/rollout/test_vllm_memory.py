"""What vLLM takes of a device beside a run, by arithmetic: nothing here needs vLLM or a GPU."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf
from support.configs import CONF

from hapo_lit.device_memory import PLENTY, DeviceMemory, RolloutBatch
from hapo_lit.errors import EngineError
from hapo_lit.policy.loading import meta_model
from hapo_lit.policy.model_config import kv_bytes_per_token
from hapo_lit.rollout.vllm import BLOCK, WORKSPACE, VLLMEngine, vllm_memory
from hapo_lit.training.optimizer import bytes_to_come

GIB = 2**30
SETTINGS = {"dtype": "bfloat16", "max_num_seqs": 256, "max_model_len": 9216}


@pytest.fixture(scope="module")
def policy_1p5b():
    """1.5 billion parameters."""
    model = OmegaConf.load(CONF / "model/qwen_math_1p5b.yaml")
    return meta_model(model.path, OmegaConf.to_container(model.shape))


def test_its_share_leaves_what_the_run_will_keep_and_is_the_plans(monkeypatch, policy_1p5b):
    """On one card of 80 GiB: Adam's moments are made after vLLM has started."""
    policy = policy_1p5b
    weights = 4 * policy.num_parameters()
    free = 80 * GIB - weights
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * GIB))
    engine = VLLMEngine(8192, 1024, 128, 8, precision="bf16-mixed")
    engine.reserve_memory(lambda: bytes_to_come(None, policy.parameters()))
    share = engine._memory_settings(policy, SETTINGS)["gpu_memory_utilization"]
    left = free - 2 * weights
    assert 0.85 * left < share * 80 * GIB < 0.95 * left
    assert engine.with_temperature(0.0)._memory_settings(policy, SETTINGS) == {"gpu_memory_utilization": share}
    planned = engine.memory(policy, RolloutBatch(1024, 1024, 8192, 8), DeviceMemory(80 * GIB, left))
    assert round(planned.total / (80 * GIB), 3) == share
    sequence = 9216 * kv_bytes_per_token(policy.config, torch.bfloat16)
    room = 0.9 * left - weights / 2 - WORKSPACE
    assert planned.at_once == int(room / sequence) < 256  # of 1,024


def test_a_run_is_refused_where_not_one_sequence_of_full_length_fits(monkeypatch, policy_1p5b):
    engine = VLLMEngine(8192, 1024, 128, 8, precision="bf16-mixed")
    least = engine.memory(policy_1p5b, RolloutBatch(1, 1024, 8192), PLENTY).total
    for spare, fits in ((1, True), (-1, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, spare=spare: (least + spare, 80 * GIB))
        if fits:
            assert engine._memory_settings(policy_1p5b, SETTINGS)["gpu_memory_utilization"] == round(
                least / GIB / 80, 3
            )
            continue
        with pytest.raises(EngineError, match=r"the cache of one sequence of 9216 tokens, and 7.* GiB are left: take"):
            engine._memory_settings(policy_1p5b, SETTINGS)


@pytest.mark.parametrize(
    ("free", "share", "sleeps", "cache", "at_once"),
    [
        (1000, None, True, 21, 10),  # no more than it can use: 10 sequences of 2 blocks and a block to spare
        (20, None, True, 18, 8),
        (20, None, False, 10, 4),  # half is for the update
        (1, None, True, 3, 1),  # one sequence, whether or not that is there
        (20, 0.5, True, 50, 10),  # what is set, of the device
        (20, 0.08, True, 8, 3),
    ],
)
def test_its_cache_gets_what_is_left_within_what_it_can_use(free, share, sleeps, cache, at_once):
    block, fixed = 10**12, WORKSPACE + 10**6
    device = DeviceMemory(100 * block, free * block)
    found = vllm_memory(10**6, block, 10, 2 * BLOCK, device, share, sleeps)
    assert found.held["keys and values"] / block == pytest.approx(cache, abs=0.01)
    assert found.total == fixed + found.held["keys and values"]
    assert (found.at_once, found.stays) == (at_once, not sleeps)


def test_moments_are_to_come_until_the_first_step(policy):
    parameters = list(policy.parameters())
    size = sum(parameter.nbytes for parameter in parameters)
    assert bytes_to_come(None, parameters) == 2 * size
    for optimizer, kept in (
        (torch.optim.AdamW(parameters), 2),
        (torch.optim.SGD(parameters, lr=0.1, momentum=0.9), 1),
        (torch.optim.SGD(parameters, lr=0.1), 0),
    ):
        assert bytes_to_come(optimizer, parameters) == kept * size
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        assert bytes_to_come(optimizer, parameters) == 0

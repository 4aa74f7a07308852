"""What vLLM takes of a device beside a run, by arithmetic: nothing here needs vLLM or a GPU."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf
from support.configs import CONF

from hapo_lit.policy.loading import meta_model
from hapo_lit.rollout.vllm import VLLMEngine, device_share
from hapo_lit.training.optimizer import bytes_to_come

GIB = 2**30


def test_its_share_leaves_what_the_run_will_keep(monkeypatch):
    """1.5 billion parameters on one card of 80 GiB: Adam's moments are made after vLLM has started."""
    model = OmegaConf.load(CONF / "model/qwen_math_1p5b.yaml")
    policy = meta_model(model.path, OmegaConf.to_container(model.shape))
    weights = 4 * policy.num_parameters()
    free = 80 * GIB - weights
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * GIB))
    engine = VLLMEngine(8192, 1024, 128, 8, precision="bf16-mixed")
    settings = {"dtype": "bfloat16", "max_num_seqs": 256, "max_model_len": 9216}
    careless = engine._memory_settings(policy, settings)["gpu_memory_utilization"]
    assert careless * 80 * GIB > free - 2 * weights  # from step 2 on there would not be so much
    engine.reserve_memory(lambda: bytes_to_come(None, policy.parameters()))
    share = engine._memory_settings(policy, settings)["gpu_memory_utilization"]
    assert 0.85 * (free - 2 * weights) < share * 80 * GIB < 0.95 * (free - 2 * weights)
    assert engine.with_temperature(0.0)._memory_settings(policy, settings) == {"gpu_memory_utilization": share}


@pytest.mark.parametrize(("needed", "sleeps", "share"), [(10, True, 0.1), (90, True, 0.54), (90, False, 0.3)])
def test_it_takes_no_more_than_it_needs_and_half_of_what_is_free_if_it_does_not_sleep(needed, sleeps, share):
    assert device_share(needed, 60, 100, sleeps) == share


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

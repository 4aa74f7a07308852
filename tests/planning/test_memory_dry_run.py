"""What a dry run counts without contents is what real passes, optimisers and engines hold."""

from __future__ import annotations

import pytest
import torch
from support.shapes import SHAPE, module_of, real_policy, shapes_of_policy
from support.training import hapo, module
from torch.profiler import ProfilerActivity, profile

from hapo_lit.device_memory import PLENTY, DeviceMemory, RolloutBatch
from hapo_lit.losses import Surrogate
from hapo_lit.planning import memory_dry_run
from hapo_lit.planning.memory_dry_run import DryRun, blank_rows, track_gradient
from hapo_lit.planning.memory_plan import ModelWeights
from hapo_lit.policy.adapters import adapter_settings, with_adapter
from hapo_lit.policy.loading import meta_model
from hapo_lit.policy.memory_tracker import MemoryTracker
from hapo_lit.policy.scoring import token_logprobs
from hapo_lit.rollout.hf import HFEngine
from hapo_lit.rollout.vllm import WORKSPACE, VLLMEngine
from hapo_lit.rollout.vllm_server import VLLMServerEngine
from hapo_lit.schedules import Constant
from hapo_lit.teacher import UnitRatio
from hapo_lit.training.phases import Phase
from hapo_lit.types import PromptBatch


def loss_module(make, checkpointing, entropy=0.0, kl=0.0, **sizes):
    learn = Phase(hapo(), Surrogate(UnitRatio(), entropy_coefficient=entropy, kl_coefficient=kl), Constant(1e-3))
    return module(make(checkpointing, **sizes), None, learn)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"num_hidden_layers": 3, "vocab_size": 400, "tie_word_embeddings": False, "model_type": "llama"},
        {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "entropy": 0.01, "kl": 0.1},
        {"num_hidden_layers": 6},  # of which two and three are run
    ],
    ids=["qwen2", "llama", "entropy, kl", "6 layers"],
)
def test_a_dry_pass_holds_what_a_real_one_holds_to_the_byte(monkeypatch, sizes, checkpointing, mixed):
    monkeypatch.setattr(token_logprobs, "__defaults__", (1.0, 2**15, False, False))  # tiles of 81 to 327 tokens
    dry = DryRun(loss_module(shapes_of_policy, checkpointing, **sizes), mixed).gradient(3, 12, 120)
    real = loss_module(real_policy, checkpointing, **sizes)
    batch = blank_rows(real, 3, 12, 120)
    batch.text.prompt_mask[0, 0] = False  # without any padding no mask is made
    found = track_gradient(real, batch, mixed)
    assert dry.peak.total() == found.peak.total() > 0


def test_more_than_two_tiles_of_logits_is_never_held():
    shapes = [DryRun(loss_module(shapes_of_policy, True, vocab_size=30_000), False) for _ in range(2)]
    few, many = shapes[0].gradient(1, 4, 700), shapes[1].gradient(4, 4, 2000)
    assert 0 < many.peak_logits <= 1.2 * few.peak_logits
    assert many.peak_logits < 4 * 2000 * 30_000 * 4 / 2


def test_the_allocator_gives_out_what_is_planned():
    """torch's own account of the pass, kernels' buffers included, is within 2 %."""
    dry = DryRun(loss_module(shapes_of_policy, False, vocab_size=2000), mixed=False).gradient(4, 30, 300)
    real = loss_module(real_policy, False, vocab_size=2000)
    batch = blank_rows(real, 4, 30, 300)
    batch.text.prompt_mask[0, 0] = False
    for parameter in real.policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        real.loss(batch).loss.backward()
    now = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    assert dry.peak.total() == pytest.approx(peak, rel=0.02)


def test_checkpoints_save_memory_and_the_optimisers_step_needs_a_copy():
    kept, saved = (
        DryRun(loss_module(shapes_of_policy, checkpointing, num_hidden_layers=6), False).gradient(2, 10, 100)
        for checkpointing in (False, True)
    )
    assert saved.peak.total() < 0.5 * kept.peak.total()
    shapes = module_of(shapes_of_policy())
    moments, step = DryRun(shapes, False).optimizer()
    assert step >= 4 * ModelWeights.of(shapes).count  # foreach: the square roots of all second moments at once
    assert len(moments) == 3 * len(list(shapes.policy.parameters()))


@pytest.mark.parametrize("mixed", [False, True])
def test_sampling_holds_what_a_real_engine_holds_when_no_response_ends(mixed):
    """But for its table of draws, what it returns, and a layer's old room while the new one is filled: 1 to 7 %."""
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 6}
    engine = HFEngine(68, stop_ids=[10_000])
    dry = DryRun(module_of(shapes_of_policy(True, **sizes, vocab_size=1000)), mixed)
    planned = dry.sampling(engine, RolloutBatch(4 * 8, 30, 68, 8))
    assert dry.module.policy.training

    policy = real_policy(**sizes, vocab_size=1000)
    mask = torch.ones(4, 30, dtype=torch.bool)
    mask[0, 0] = False
    prompts = PromptBatch(
        prompt_ids=torch.arange(4),
        tokens=mask.long(),
        mask=mask,
        answers=("",) * 4,
        teacher_tokens=torch.ones(4, 1, dtype=torch.int64),
        teacher_mask=torch.ones(4, 1, dtype=torch.bool),
        teacher_rewards=torch.ones(4),
    )
    engine.sync(policy)
    tracker = MemoryTracker(policy.parameters(), policy.buffers())
    with tracker, torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        engine.generate(prompts, 8, 0)
    assert 0.92 < planned.total / tracker.peak.total() <= 1


def test_a_run_decodes_as_many_sequences_at_once_as_its_plan_says():
    """With an adapter and autocast."""
    shape, lora = {**SHAPE, "vocab_size": 1000}, {"rank": 4}
    shapes, policy = meta_model("none", shape, lora=lora), with_adapter(real_policy(**shape), adapter_settings(lora))
    engine, batch = HFEngine(68), RolloutBatch(4 * 8, 30, 68, 8)
    dry = DryRun(module_of(shapes), mixed=True)
    device = DeviceMemory(0, dry.sampling(engine, batch, PLENTY).total // 3)
    planned = dry.sampling(engine, batch, device)
    assert 1 < planned.at_once < 32 / 3
    assert planned.total <= 0.9 * device.free
    with torch.autocast("cpu", torch.bfloat16):
        assert engine.sequences_for(policy, batch, device) == planned.at_once


def test_vllm_holds_its_own_weights_and_a_cache_in_blocks_and_a_server_nothing():
    policy = shapes_of_policy(hidden_size=64, num_hidden_layers=3)  # one head of 32 for keys and values
    batch = RolloutBatch(sequences=10, prompt=100, response=60)
    count = policy.num_parameters()
    # 10 sequences in 2 blocks of 128 tokens and one to spare; keys and values of 3 layers
    numbers = (10 * 2 + 1) * 128 * 2 * 3 * 32
    for dtype, size in ((None, 4), ("bfloat16", 2)):
        memory = VLLMEngine(60, 100, 10, 1, dtype=dtype).memory(policy, batch)
        held = {"the engine's weights": size * count, "keys and values": size * numbers}
        assert memory == (held, 10, True)
        memory = VLLMEngine(60, 100, 10, 1, dtype=dtype).memory(policy, batch, PLENTY)
        assert memory == (held | {"the engine's workspace": WORKSPACE}, 10, False)
    assert VLLMServerEngine(["http://127.0.0.1:1"], 60).memory(policy, batch).total == 0


def test_wider_tiles_of_logits_change_nothing_that_is_counted(monkeypatch):
    found = []
    for tiles in (8, 100):
        monkeypatch.setattr(memory_dry_run, "TILES", tiles)
        found.append(DryRun(loss_module(shapes_of_policy, True, vocab_size=30_000), False).gradient(1, 8, 9000))
    wide, narrow = found
    assert wide.peak_logits == narrow.peak_logits
    assert narrow.peak.total() <= wide.peak.total() <= 1.01 * narrow.peak.total()

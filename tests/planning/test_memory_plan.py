"""Planned bytes are those of real weights, gradients, optimisers, checkpoints and shards."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.distributed as dist
from support.shapes import SHAPE, module_of, real_policy, shapes_of_policy
from support.training import data

from hapo_lit.device_memory import PLENTY, RolloutBatch, SamplingMemory
from hapo_lit.planning.memory_dry_run import DryRun, blank_rows
from hapo_lit.planning.memory_plan import (
    GRADIENT,
    SAMPLING,
    STEP,
    ModelWeights,
    Sharding,
    TransientMemory,
    bytes_of,
    checkpoint_bytes,
    memory_plan,
)
from hapo_lit.policy.fakes import fake_copy, fake_mode
from hapo_lit.policy.loading import meta_model
from hapo_lit.policy.sharding import shard, unsharded
from hapo_lit.rollout.hf import HFEngine
from hapo_lit.training.checkpoint_folder import CheckpointFolder
from hapo_lit.training.engines import _memory_to_come
from hapo_lit.training.run_state import capture

NOTHING = TransientMemory({}, 0)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_weights_gradients_moments_and_checkpoints_are_those_of_a_real_run(tokenizer, tmp_path, tied, kl):
    sizes = {"tie_word_embeddings": tied, "vocab_size": len(tokenizer)}
    real, shapes = (module_of(make(**sizes), tokenizer, kl) for make in (real_policy, shapes_of_policy))
    weights = ModelWeights.of(shapes)
    optimizer_state, _ = DryRun(shapes, mixed=False).optimizer()
    memory = memory_plan(weights, optimizer_state, NOTHING)

    real.optimizer = optimizer = real.configure_optimizers()
    real.loss(blank_rows(real, 2, 3, 4)).loss.backward()
    optimizer.step()
    trained = list(real.policy.parameters())
    assert memory.lasting["weights"] == sum(parameter.nbytes for parameter in trained)
    assert memory.transient[STEP]["gradients"] == sum(parameter.grad.nbytes for parameter in trained)
    moments = [value for state in optimizer.state.values() for value in state.values()]
    assert memory.lasting["optimiser"] == sum(moment.nbytes for moment in moments)
    assert memory.lasting.get("reference", 0) == (memory.lasting["weights"] if kl else 0)

    real.data = problems = data(tokenizer)
    problems.setup()
    state = capture(real, problems, {})
    saved = [value for moments in state["optimizer"]["state"].values() for value in moments.values()]
    size = checkpoint_bytes(weights, optimizer_state)
    assert size == sum(tensor.nbytes for tensor in (*state["module"].values(), *saved))
    file = CheckpointFolder(tmp_path).write(1, state).stat().st_size
    assert size < file < size + 64 * 1024  # names, generators and the archive's directory
    real.policy.save_pretrained(tmp_path / "policy")
    file = (tmp_path / "policy" / "model.safetensors").stat().st_size
    assert weights.export_bytes < file < weights.export_bytes + 8192


def test_an_adapter_alone_has_gradients_and_moments():
    shapes = module_of(meta_model("none", SHAPE, lora={"rank": 3}))
    weights = ModelWeights.of(shapes)
    optimizer_state, _ = DryRun(shapes, mixed=False).optimizer()
    memory = memory_plan(weights, optimizer_state, NOTHING)
    # rank 3 times (in + out) of q, k, v, o, gate, up, down in two layers
    count = 2 * 3 * ((32 + 32) + 2 * (32 + 16) + (32 + 32) + 2 * (32 + 48) + (48 + 32))
    assert weights.trained_count == count
    assert memory.transient[STEP]["gradients"] == 4 * count
    assert memory.lasting["optimiser"] == 2 * 4 * count + 4 * 2 * 2 * 7
    assert memory.lasting["weights"] == weights.export_bytes + 4 * count
    assert weights.export_bytes == 4 * sum(parameter.numel() for parameter in shapes_of_policy().parameters())


def test_other_optimisers_keep_what_they_keep():
    shapes = module_of(shapes_of_policy(), optimizer=partial(torch.optim.SGD, lr=0.1))
    assert DryRun(shapes, mixed=False).optimizer() == ([], 0)


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_a_shard_is_as_large_as_fsdp2_makes_it(processes, tokenizer):
    from torch.testing._internal.distributed.fake_pg import FakeStore

    module = module_of(real_policy(vocab_size=len(tokenizer)), tokenizer, kl=0.1)
    memory = memory_plan(ModelWeights.of(module), [], NOTHING, processes, Sharding(processes))
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        shard(module, dist.device_mesh.init_device_mesh("cpu", (processes,)))
        sizes = [
            sum(parameter._local_tensor.untyped_storage().nbytes() for parameter in model.parameters())
            for model in (module.policy, module.reference)
        ]
    finally:
        dist.destroy_process_group()
    assert [memory.lasting["weights"], memory.lasting["reference"]] == sizes
    assert memory.transient[STEP]["gradients"] == sizes[0]


@pytest.mark.parametrize("mixed", [False, True])
def test_for_shards_a_run_chooses_by_a_copy_of_the_whole_in_the_dtypes_that_they_compute_in(mixed, tokenizer):
    from torch.testing._internal.distributed.fake_pg import FakeStore

    sizes = {"vocab_size": len(tokenizer), "tie_word_embeddings": False}
    module, whole = module_of(real_policy(**sizes), tokenizer), shapes_of_policy(**sizes)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        shard(module, dist.device_mesh.init_device_mesh("cpu", (2,)), mixed=mixed)
        to_come = _memory_to_come(module)
        with unsharded(module.policy):
            copied = fake_copy(module.policy, fake_mode())
            assert HFEngine(8).sequences_for(module.policy, RolloutBatch(6, 5, 8, 2), PLENTY) == 6
    finally:
        dist.destroy_process_group()
    found = {name: (weight.shape, weight.dtype) for name, weight in copied.named_parameters()}
    for name, weight in whole.named_parameters():
        computed = torch.bfloat16 if mixed and ".layers." in name else torch.float32
        assert found[name] == (weight.shape, computed)
    weights = ModelWeights.of(module_of(whole))
    moments = 2 * bytes_of(weights.trained, 2)  # and an engine gets one weight gathered
    assert to_come == moments + max(weight.nbytes for weight in weights.policy)


def test_several_processes_hold_more_with_ddp_and_less_with_fsdp():
    weights = ModelWeights.of(module_of(shapes_of_policy()))
    transient = TransientMemory({"activations": 500}, 800)
    ways = ((1, None), (4, None), (4, Sharding(4)), (8, Sharding(4)))
    alone, ddp, fsdp, replicated = (memory_plan(weights, [], transient, *way) for way in ways)
    whole = 4 * weights.count
    assert ddp.peak - alone.peak == ddp.lasting["buckets of ddp"] == whole
    assert whole / 4 <= fsdp.lasting["weights"] < 1.02 * whole / 4
    assert fsdp.transient[STEP]["temporaries"] == 200
    assert alone.peak_moment == STEP
    assert replicated == fsdp


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_gathered_is_in_the_dtype_that_is_computed_in(tied):
    weights = ModelWeights.of(module_of(shapes_of_policy(tie_word_embeddings=tied)))
    head, end = 4 * 97 * 32, 4 * (97 * 32 + 32)
    whole, embeddings = 4 * weights.count, 0 if tied else head
    layers = whole - end - embeddings
    for mixed, share in ((False, 1), (True, 0.5)):
        itself, served = (
            memory_plan(weights, [], NOTHING, 4, Sharding(4, mixed), samples).transient[SAMPLING]["gathered weights"]
            for samples in (True, False)
        )
        assert itself == end + embeddings + share * layers
        assert served == end + max(4 * 32 * 48, embeddings)  # an engine gets one weight at a time
        freed, kept = (
            memory_plan(weights, [], NOTHING, 4, Sharding(4, mixed, free)).transient[GRADIENT]["gathered weights"]
            for free in (True, False)
        )
        one = layers // 2
        assert freed == 2 * end + share * one + max(share * one, embeddings) + share * one + one
        assert kept == 2 * end + share * layers + embeddings + share * one + one


def test_a_bfloat16_base_with_an_adapter_is_gathered_as_it_is_and_the_adapter_alone_has_gradients():
    weights = ModelWeights.of(module_of(meta_model("none", SHAPE, dtype="bfloat16", lora={"rank": 3})))
    sharding = Sharding(4, mixed=True)
    served, itself = (
        memory_plan(weights, [], NOTHING, 4, sharding, samples).transient[SAMPLING]["gathered weights"]
        for samples in (False, True)
    )
    assert itself == 2 * weights.count  # layers in bfloat16, the adapter in them too
    end, layer = 2 * (97 * 32 + 32), weights.count - (97 * 32 + 32)
    assert served == end + max(weight.nbytes for weight in weights.policy[1:-1])
    gathered = memory_plan(weights, [], NOTHING, 4, sharding).transient[GRADIENT]["gathered weights"]
    assert gathered == end + 2 * 2 * layer // 2 + (2 + 4) * weights.trained_count // 2


def test_what_an_engine_takes_is_held_while_it_samples_or_all_the_time():
    plan = memory_plan(ModelWeights.of(module_of(shapes_of_policy())), [], TransientMemory({"activations": 500}, 800))
    before = {moment: plan.at(moment) for moment in plan.transient}
    sleeps = plan.with_sampling(SamplingMemory({"keys and values": 10**9, "the engine's weights": 7}, 5))
    added = {moment: sleeps.at(moment) - size for moment, size in before.items()}
    assert added == {SAMPLING: 10**9 + 7, GRADIENT: 0, STEP: 0}
    assert (sleeps.peak_moment, sleeps.peak) == (SAMPLING, before[SAMPLING] + 10**9 + 7)
    stays = plan.with_sampling(SamplingMemory({"keys and values": 10**9}, 5, stays=True))
    assert [stays.at(moment) - size for moment, size in before.items()] == [10**9] * 3

"""What a plan advises where memory is short: what saves most comes first, and saves about that much."""

from __future__ import annotations

from support.shapes import planned

from hapo_lit.planning.memory_plan import GRADIENT, SAMPLING, STEP, Sharding
from hapo_lit.planning.phase_plan import phase_plans
from hapo_lit.planning.remedies import remedies
from hapo_lit.planning.run_memory import ONE_PROCESS, run_memory

SMALL = ["experiment=qwen_math_numina", "model.shape.num_hidden_layers=2", "model.shape.vocab_size=8000"]


def planned_memory(*settings, processes=1, response=2048):
    module, data = planned(*SMALL, f"max_response_tokens={response}", *settings)
    phases = phase_plans(module, data.prompts_per_step, processes, response, response)
    checkpointing = module.policy.is_gradient_checkpointing
    strategies = {"ddp": None, "fsdp": Sharding(processes, True)} if processes > 1 else {ONE_PROCESS: None}
    return run_memory(module, phases, True, strategies), phases[0], checkpointing


def advice(memory, phase, checkpointing, strategy="one process"):
    found = remedies(memory, strategy, phase, checkpointing, adapter=False)
    assert [remedy.saves for remedy in found] == sorted((remedy.saves for remedy in found), reverse=True)
    return {remedy.setting: remedy.saves for remedy in found}


def test_in_a_backward_pass_what_is_promised_is_saved():
    others = "module.micro_batch_size=4", "rollout=vllm_server"
    kept = planned_memory("model.gradient_checkpointing=false", *others)
    plan = kept[0].strategies["one process"].plan
    assert plan.peak_moment == GRADIENT
    found = advice(*kept)
    assert {"model.gradient_checkpointing=true", "module.micro_batch_size=1"} <= set(found)
    memory, *_ = planned_memory("model.gradient_checkpointing=true", *others)
    saved = plan.at(GRADIENT) - memory.strategies["one process"].plan.at(GRADIENT)
    assert found["model.gradient_checkpointing=true"] == saved


def test_shards_are_advised_for_the_optimisers_step_and_are_not_where_there_are_some():
    memory, phase, checkpointing = planned_memory(
        "rollout=vllm_server", "module.micro_batch_size=1", processes=8, response=32
    )
    ddp, fsdp = (memory.strategies[name].plan for name in ("ddp", "fsdp"))
    assert ddp.peak_moment == STEP
    found = advice(memory, phase, checkpointing, "ddp")
    assert next(iter(found)) == "fabric.strategy=fsdp"
    assert found["fabric.strategy=fsdp"] == ddp.peak - fsdp.at(STEP)
    assert "model.lora.rank=16" in found
    assert "fabric.strategy=fsdp" not in advice(memory, phase, checkpointing, "fsdp")


def test_where_an_engine_takes_most_another_device_is_advised():
    memory, phase, checkpointing = planned_memory(response=8192)
    assert memory.strategies["one process"].plan.peak_moment == SAMPLING
    assert next(iter(advice(memory, phase, checkpointing))) == "rollout=vllm_server on other devices"

"""What a step consists of, from the settings of the presets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.shapes import planned

from hapo_lit.device_memory import RolloutBatch
from hapo_lit.planning.memory_plan import ModelWeights
from hapo_lit.planning.phase_plan import PhasePlan, phase_plans
from hapo_lit.rows import MicroBatchLimit

PARAMETERS = {"qwen_math_numina": 1_543_714_304, "qwen_math_numina_7b": 7_615_616_512}
"""Of the public models."""


@pytest.mark.parametrize("preset", PARAMETERS)
def test_the_presets_have_the_sizes_of_the_public_models(preset):
    module, data = planned(f"experiment={preset}")
    weights = ModelWeights.of(module)
    assert weights.count == PARAMETERS[preset]
    assert {parameter.device.type for parameter in weights.policy} == {"meta"}
    config = module.policy.config
    assert (config.max_position_embeddings, config.rope_parameters["rope_theta"]) == (16384, 40000.0)
    assert module.policy.is_gradient_checkpointing
    (plan,) = phase_plans(module, data.prompts_per_step, 8, 1024, 8192)
    assert (plan.steps, plan.prompts, plan.prompts_per_process, plan.rollouts) == (500, 128, 16, 8)
    assert (plan.rows, plan.teachers, plan.micro_batches, plan.updates) == (8, 1, 64, 2)
    assert (plan.sampled_tokens, plan.trained_tokens) == (128 * 8 * 8192, 128 * 8 * 9216)
    assert plan.rollout_batch == RolloutBatch(16 * 8, 1024, 8192, 8)
    assert module.phases.learning_rate(0) == module.phases.learning_rate(499) == 1e-6
    optimizer = module.make_optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert [optimizer.defaults[name] for name in ("betas", "weight_decay")] == [(0.9, 0.999), 0.01]


def test_the_model_of_32_billion_parameters_has_the_size_of_the_public_one():
    module, _ = planned("experiment=qwen_math_numina", "model=qwen_32b")
    assert ModelWeights.of(module).count == 32_763_876_352


@pytest.mark.parametrize(
    ("preset", "expected"),
    [  # of each phase: steps, rollouts, rows, teachers
        ("hapo", [(600, 4, 4, 1)]),
        ("grpo", [(600, 4, 4, 0)]),
        ("luffy", [(600, 7, 8, 1)]),
        ("relift", [(600, 8, 9, 1)]),
        ("hpt", [(600, 8, 8, 1)]),
        ("sft_then_hapo", [(200, 0, 1, 1), (400, 4, 4, 1)]),
    ],
)
def test_rows_are_those_that_the_injector_makes(preset, expected):
    module, data = planned(f"experiment={preset}", command="train")
    plans = phase_plans(module, data.prompts_per_step, 1, 64, 72)
    assert [(plan.steps, plan.rollouts, plan.rows, plan.teachers) for plan in plans] == expected
    assert [plan.supervised for plan in plans] == [plan.rollouts == 0 for plan in plans]


def test_mini_batches_make_more_updates_of_fewer_passes():
    module, _ = planned("module.minibatches=16", "module.updates_per_batch=2", "module.micro_batch_size=4")
    (plan,) = phase_plans(module, 40, 2, 10, 20)
    assert (plan.passes, plan.minibatches, plan.updates, plan.minibatch) == (2, 16, 32, 3)
    assert (plan.rows_per_update, plan.micro_batches, plan.micro_batch) == (2 * 4, 2, 4)  # 3 prompts are 2 and 1
    assert plan.trained_tokens == 40 * 4 * 30 * 2
    (plan,) = phase_plans(module, 8, 2, 10, 20)
    assert (plan.minibatches, plan.updates, plan.minibatch, plan.micro_batches) == (8, 16, 1, 1)
    module, _ = planned("module.minibatches=16", "module.micro_batch_tokens=70")  # 2 rows of 10 + 20
    (plan,) = phase_plans(module, 40, 2, 10, 20)
    assert (plan.rows_per_update, plan.micro_batches, plan.micro_batch) == (2 * 4, 4, 2)
    assert plan.fullest_micro_batch == (3, 3, 20)  # 69 tokens, where 2 rows of the greatest length are 60
    for tokens, rows, fullest in ((60, 128, (2, 10, 20)), (70, 2, (2, 10, 20)), (None, 3, (3, 10, 20))):
        limited = replace(plan, micro_batch_limit=MicroBatchLimit(rows, tokens))
        assert limited.fullest_micro_batch == fullest


def test_a_rollout_batch_is_that_of_the_process_with_most():
    assert RolloutBatch.largest(128, 8, 7, 1024, 8192) == (16 * 7, 1024, 8192, 7)
    assert RolloutBatch.largest(10, 4, 2, 1, 1) == (3 * 2, 1, 1, 2)
    assert RolloutBatch(6, 1024, 8192).tokens == 9216


def test_a_step_is_a_line():
    plan = PhasePlan(
        steps=5,
        prompts=8,
        rollouts=4,
        rows=5,
        teachers=1,
        processes=2,
        micro_batch_limit=MicroBatchLimit(6),
        passes=2,
        minibatches=2,
        prompt=10,
        response=30,
    )
    assert plan.line() == (
        "a step: 8 prompts x 4 responses, at most 960 tokens sampled; 4 updates on at most 3,200 tokens, each in "
        "at most 2 passes of 6 rows a process"
    )
    assert replace(plan, rollouts=0, rows=1, processes=1, minibatches=1, passes=1).line() == (
        "a step: 8 prompts; 1 update on at most 320 tokens, each in at most 2 passes of 6 rows"
    )

"""Qwen2.5 at its own sizes on GPUs of 80 GiB: what the repository says about them fits."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from support.shapes import planned

from hapo_lit.planning.memory_plan import GRADIENT, SAMPLING, STEP, Sharding
from hapo_lit.planning.phase_plan import phase_plans
from hapo_lit.planning.run_memory import run_memory
from hapo_lit.rollout.vllm import WORKSPACE

GIB = 2**30


PARAMETERS = 1_543_714_304
"""Of Qwen2.5-Math-1.5B."""


@pytest.mark.slow
def test_one_and_a_half_billion_parameters_and_vllm_share_a_card_from_the_second_step_on():
    """By the code that makes the table of the docs, whose first cell it is."""
    spec = importlib.util.spec_from_file_location("plan_table", Path(__file__).parents[2] / "benchmarks/plan_table.py")
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    cell = table.cell("qwen_math_1p5b", gpus=1, memory_gib=80)
    plan, batch, sampling = cell.memory.plan, cell.memory.batch, cell.memory.sampling
    assert str(cell) == f"`vllm`, {sampling.at_once} of 1,024 at once: {plan.peak / GIB:.0f} GiB while sampling"
    weights = 4 * PARAMETERS
    assert plan.lasting["weights"] + plan.lasting["optimiser"] == pytest.approx(3 * weights, rel=1e-4)  # after a step
    assert sampling.held["the engine's weights"] == weights / 2
    assert sampling.held["the engine's workspace"] == WORKSPACE
    assert not sampling.stays
    assert 0.9 * 80 * GIB < plan.at(SAMPLING) < 0.94 * 80 * GIB  # its cache gets what is left
    assert 150 < sampling.at_once < 256 < batch.sequences
    assert plan.at(GRADIENT) < 40 * GIB
    assert plan.at(STEP) == pytest.approx(5 * weights, rel=0.01)


@pytest.mark.slow
def test_seven_billion_parameters_fit_on_eight_cards():
    module, data = planned("experiment=qwen_math_numina_7b")
    phases = phase_plans(module, data.prompts_per_step, 8, 1024, 8192)
    strategies = {"fsdp": Sharding(8, mixed=True)}
    found = run_memory(module, phases, True, strategies, total=80 * GIB).strategies["fsdp"]
    assert found.plan.peak < 80 * GIB
    assert 64 < found.sampling.at_once < found.batch.sequences == 128
    assert found.plan.at(GRADIENT) < 40 * GIB  # no casts of all layers
    assert "casts of the weights" not in found.plan.transient[GRADIENT]

"""Held-out accuracy: counted over batches and ranks."""

from __future__ import annotations

from dataclasses import replace

import torch
from support.builders import ScriptedEngine, ScriptedVerifier, make_group, make_prompts

from hapo_lit.protocols import ALONE
from hapo_lit.training.evaluation import Evaluator, HeldOutEvaluation

CPU = torch.device("cpu")


def evaluation():
    """Two evaluators whose batches always have 2 of 3 and 0 of 3 right answers."""
    group = make_group([[0], [0], [0]])
    verdicts = {"some": [[1], [0], [1]], "none": [[0], [0], [0]]}
    evaluators = {
        name: Evaluator(ScriptedEngine(group), ScriptedVerifier(rewards)) for name, rewards in verdicts.items()
    }
    return HeldOutEvaluation(evaluators), make_prompts(group, [1, 1, 1])


def test_success_rates_are_over_all_batches_of_all_ranks_and_begin_anew():
    held_out, prompts = evaluation()
    policy = torch.nn.Linear(1, 1)
    for _ in range(2):
        held_out.begin(policy)
        for _ in range(2):
            held_out.add(prompts, 0, lambda group: [""] * group.rewards.numel())
        alone = held_out.finish(ALONE, CPU)
        assert (alone["heldout/some"], alone["heldout/none"]) == (4 / 6, 0.0)
        assert alone["time/evaluate"] > 0
    engines = [evaluator.engine for evaluator in held_out.evaluators.values()]
    assert [engine.synced for engine in engines] == [[policy, policy]] * 2
    assert all(engine.asleep for engine in engines)
    other = torch.tensor([[1.0, 3.0], [3.0, 3.0], [5.0, 1.0]], dtype=torch.float64)  # by name; with a batch less
    ranks = ALONE._replace(gather=lambda own: torch.cat([own, other]))
    assert {name: round(value, 6) for name, value in held_out.finish(ranks, CPU).items() if "/e" not in name} == {
        "heldout/some": round(7 / 9, 6),
        "heldout/none": round(1 / 9, 6),
    }


def test_accuracy_counts_successes_and_not_rewards():
    """Wrong answers that earn something for their form are wrong, as is one that never ended."""
    group = make_group([[0], [0], [0], [0]])
    group = replace(group, finished=torch.tensor([[True], [True], [True], [False]]))
    evaluator = Evaluator(ScriptedEngine(group), ScriptedVerifier([[0.1], [1.0], [0.9], [1.0]]))
    right = evaluator(make_prompts(group, [1] * 4), 0, lambda group: [""] * 4)
    assert right.tolist() == [[False], [True], [False], [False]]

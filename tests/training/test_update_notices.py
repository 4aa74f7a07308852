"""What is said at the start of updates that do less than their settings say, and that it is true."""

from __future__ import annotations

import pytest
from support.training import data, fit, hapo, module, phase

from hapo_lit.algorithm import Supervised
from hapo_lit.gates import AlwaysGate
from hapo_lit.losses import Cispo, Clipped, DualClipped, Surrogate, Unclipped
from hapo_lit.rollout.vllm import VLLMEngine, request
from hapo_lit.schedules import Constant
from hapo_lit.teacher import ClippedRatio, NegativeLogLikelihood, UnitRatio
from hapo_lit.training.phases import Phase
from hapo_lit.training.update_notices import update_notices
from hapo_lit.weighting import TokenMean

TIGHT = 1e-9
"""A clip that holds back every ratio that is not exactly 1."""


def built(policy, tokenizer, clip, teacher=None, algorithm=None, **settings):
    loss = Surrogate(teacher or UnitRatio(), clip=clip)
    return module(policy, tokenizer, Phase(algorithm or hapo(AlwaysGate()), loss, Constant(1e-2)), **settings)


@pytest.mark.parametrize("clip", [Clipped(TIGHT, TIGHT), DualClipped(TIGHT, TIGHT), Cispo(TIGHT, TIGHT)])
@pytest.mark.parametrize(
    ("settings", "inert"), [({}, True), ({"minibatches": 2}, False), ({"updates_per_batch": 2}, False)]
)
def test_a_clip_that_can_never_act_is_named_and_never_acts(make_policy, tokenizer, clip, settings, inert):
    run = built(make_policy(), tokenizer, clip, **settings)
    lines = update_notices(run, 4)
    assert [line.split(" never acts")[0] for line in lines] == ["loss.clip"] * inert
    fit(run, data(tokenizer), steps=1)
    assert (run.metrics["loss/clipped_share"] == 0) == inert


@pytest.mark.parametrize("clip", [Unclipped(), Clipped(float("inf"), float("inf"))])
def test_nothing_is_said_of_what_does_not_clip(make_policy, tokenizer, clip):
    assert update_notices(built(make_policy(), tokenizer, clip), 4) == []


def test_one_prompt_makes_one_update_and_a_teachers_clip_is_a_clip_too(make_policy, tokenizer):
    run = built(make_policy(), tokenizer, Unclipped(), ClippedRatio(), minibatches=2)
    assert update_notices(run, 2) == []
    clamped, clip = update_notices(run, 1)
    assert clamped == "module.minibatches=2: a batch has 1 prompt, so it makes 1, of one prompt each"
    assert clip.startswith("teacher=clipped never acts: with one update on a whole batch every ratio is exactly 1")


def test_a_supervised_phase_has_no_ratios_to_clip(make_policy, tokenizer):
    assert (
        update_notices(built(make_policy(), tokenizer, Clipped(), NegativeLogLikelihood(), Supervised(TokenMean())), 4)
        == []
    )


@pytest.mark.parametrize("seeded", [True, False])
def test_a_run_says_that_it_cannot_be_repeated(make_policy, tokenizer, seeded):
    part = hapo()
    part.engine = VLLMEngine(4, 4, 4, 4, seeded=seeded)
    lines = update_notices(module(make_policy(), tokenizer, phase(part), minibatches=2), 4)
    assert [line.split(":")[0] for line in lines] == ["rollout.seeded=false"] * (not seeded)
    sent = request(part.engine, 7, 0, 2, [1])
    assert ("seed" in sent) == seeded
    assert part.engine.with_temperature(0.0).seeded == seeded

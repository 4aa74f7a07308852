"""The table of what a step spends its time on, of a run of a few steps."""

from __future__ import annotations

import pytest
from support.training import data, fit, hapo, module, phase

from benchmarks import profile_step
from hapo_lit.rollout.hf import HFEngine


@pytest.mark.slow
def test_the_lines_add_up_to_a_step_and_what_a_step_does_is_found(make_policy, tokenizer, monkeypatch):
    monkeypatch.setattr(profile_step, "FIRST", 1)
    monkeypatch.setattr(HFEngine, "_draw", profile_step.recorded(HFEngine._draw, profile_step.DRAW))
    monkeypatch.setattr(profile_step.StepProfile, "made", [])
    found = profile_step.StepProfile()
    fit(module(make_policy(), tokenizer, phase(hapo())), data(tokenizer), watch=found)
    assert (len(found.profiled), len(found.plain)) == (1, 2)  # of the second, third and fourth step
    rows = dict(profile_step.lines_of(found))
    assert all(found.seconds[name] > 0 for name in profile_step.NAMED)
    assert found.inside[profile_step.OPTIMISER] > 10
    assert rows["these together"] == pytest.approx(sum(rows[name] for name in profile_step.NAMED))
    known = rows["these together"] + rows["other operations"] + rows["Python and dispatch"]
    assert known == pytest.approx(rows["a step"])
    assert rows["by phase: time/rollout"] > 0

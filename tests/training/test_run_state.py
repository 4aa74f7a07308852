"""What a run state holds, and which run it fits."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from support.training import data, hapo, module, phase, weights

from hapo_lit.errors import ResumeError
from hapo_lit.gates import BetaGate, Memory
from hapo_lit.training.run_state import capture, changed, restore


class Alone:
    """What a module's optimiser is without Trainer or Fabric."""

    def __init__(self, module):
        module.optimizer = module.configure_optimizers()
        self.module = module

    def step(self):
        for parameter in self.module.policy.parameters():
            parameter.grad = torch.full_like(parameter, 0.5)
        self.module.optimizer.step()


def run_of(make_policy, tokenizer, seed=0, **gate):
    built = module(make_policy(seed=seed), tokenizer, phase(hapo(**gate)))
    built.data = data(tokenizer)
    return built


def remembering(**settings):
    return BetaGate(0.6, memory=Memory(0.5), **settings)


def test_a_state_brings_back_everything(make_policy, tokenizer):
    first = run_of(make_policy, tokenizer, gate=remembering())
    alone = Alone(first)
    alone.step()
    gate = next(iter(first.phases)).algorithm.gate
    gate.observe(torch.tensor([3, 4]), torch.tensor([1, 2]), torch.tensor([4, 4]))
    first.step, first.skips.in_a_row = 5, 2
    first.data.advance(first.data.batch(4), 5)
    random.seed(7)
    torch.manual_seed(7)
    state = capture(first, first.data, {"seed": 1})
    drawn = random.random(), np.random.random(), torch.rand(1)  # noqa: NPY002

    second = run_of(make_policy, tokenizer, seed=9, gate=remembering())
    assert not torch.equal(weights(first), weights(second))
    restore(state, second, second.data)
    assert torch.equal(weights(first), weights(second))
    assert (second.step, second.skips.in_a_row) == (5, 2)
    assert second.data.state_dict() == first.data.state_dict()
    again = next(iter(second.phases)).algorithm.gate
    assert str(again.state_dict()) == str(gate.state_dict())
    assert (random.random(), np.random.random(), torch.rand(1)) == drawn  # noqa: NPY002
    Alone(second).step()
    alone.step()
    assert torch.equal(weights(first), weights(second))  # the moments were there


def test_a_state_is_a_copy(make_policy, tokenizer):
    built = run_of(make_policy, tokenizer)
    Alone(built)
    state = capture(built, built.data, {})
    before = {name: value.clone() for name, value in state["module"].items()}
    with torch.no_grad():
        next(built.policy.parameters()).add_(1.0)
    assert all(torch.equal(before[name], value) for name, value in state["module"].items())


def test_another_run_is_refused_with_what_differs(make_policy, tokenizer):
    built = run_of(make_policy, tokenizer, gate=remembering())
    Alone(built)
    state = capture(built, built.data, {})
    other = run_of(make_policy, tokenizer, gate=remembering(prior_beta=3.0))
    with pytest.raises(ResumeError, match=r"another prior of BetaGate \(\(1.0, 1.0\) then, \(1.0, 3.0\) now\)"):
        restore(state, other, other.data)
    wider = module(make_policy(intermediate_size=64), tokenizer, phase(hapo(gate=remembering())))
    with pytest.raises(ResumeError, match=r"another model: policy.*is \(48, 32\) there and \(64, 32\) here"):
        restore(state, wider, built.data)
    deeper = module(make_policy(num_hidden_layers=2), tokenizer, phase(hapo(gate=remembering())))
    with pytest.raises(ResumeError, match=r"only this run's model has 'policy\.model\.layers\.1"):
        restore(state, deeper, built.data)
    state["data"]["tokenizer"] = "another"
    with pytest.raises(ResumeError, match=r"another tokenizer \(another then"):
        restore(state, built, built.data)


def test_settings_that_differ_are_listed():
    assert changed({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 4, "d": 5}) == [
        "b: 2 -> 4",
        "c: 3 -> (absent)",
        "d: (absent) -> 5",
    ]

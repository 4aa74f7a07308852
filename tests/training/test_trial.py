"""Parts and optimiser are tried before a run begins."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from support.builders import ScriptedEngine, ScriptedVerifier, make_group
from support.training import module

from hapo_lit.advantages import BatchWhitened, GroupNormalised, SpareFailures
from hapo_lit.algorithm import Hapo, Supervised
from hapo_lit.errors import PartError
from hapo_lit.gates import AlwaysGate
from hapo_lit.injectors import Append, LeastLikely, ReplaceGroup, ReplaceSlot, ReplaceWorst
from hapo_lit.losses import Cispo, Surrogate
from hapo_lit.schedules import Constant
from hapo_lit.teacher import Literal, NegativeLogLikelihood, UnitRatio
from hapo_lit.training.phases import Phase
from hapo_lit.training.trial import try_out
from hapo_lit.weighting import SequenceMean, TokenMean

REWARDS = [[0.0, 1.0], [0.0, 0.0]]


class Counts:
    """An advantage of one's own, which remembers how often it was asked."""

    calls = 0

    def __call__(self, group, mean):
        self.calls += 1
        return group.rewards - 0.5


class IsNotFinite(Counts):
    def __call__(self, group, mean):
        return group.rewards / 0.0


class NeedsItsPrompts(Counts):
    def __call__(self, group, mean):
        return torch.stack([{100: group.rewards}[int(prompt)] for prompt in group.prompt_ids])


def built(make_policy, tokenizer, optimizer=None, loss=None, rate=1e-3, **parts):
    parts = {"injector": ReplaceWorst(), "advantage": GroupNormalised(), "weighting": TokenMean(), **parts}
    engine, verifier = ScriptedEngine(make_group(REWARDS)), ScriptedVerifier(REWARDS)
    algorithm = Hapo(2, engine, verifier, AlwaysGate(), **parts)
    made = module(make_policy(), tokenizer, Phase(algorithm, loss or Surrogate(UnitRatio()), Constant(rate)))
    if optimizer is not None:
        made.make_optimizer = optimizer
    return made


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"advantage": SpareFailures(GroupNormalised()), "injector": Append(), "weighting": SequenceMean()},
        {"injector": ReplaceSlot(), "advantage": BatchWhitened()},
        {"injector": ReplaceGroup(), "loss": Surrogate(NegativeLogLikelihood(), clip=Cispo())},
        {"injector": ReplaceWorst(LeastLikely()), "loss": Surrogate(Literal(), kl_coefficient=0.1)},
        {"loss": Surrogate(UnitRatio(), entropy_coefficient=0.1), "optimizer": partial(torch.optim.SGD, lr=1.0)},
        {"advantage": NeedsItsPrompts()},  # a made-up group has none of them, which says nothing
    ],
    ids=range(7),
)
def test_parts_that_go_together_pass(make_policy, tokenizer, parts):
    try_out(built(make_policy, tokenizer, **parts))


def test_supervised_learning_and_a_policy_that_learns_from_an_estimate_pass(make_policy, tokenizer):
    supervised = Phase(Supervised(TokenMean()), Surrogate(NegativeLogLikelihood()), Constant(1e-3))
    try_out(module(make_policy(), tokenizer, supervised))


def test_a_part_that_remembers_is_as_it_was(make_policy, tokenizer):
    advantage = Counts()
    try_out(built(make_policy, tokenizer, advantage=advantage))
    assert advantage.calls == 0


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"advantage": GroupNormalised(eps=1e300)}, "gives no gradient at all"),
        ({"advantage": IsNotFinite()}, "IsNotFinite.__call__ must return finite numbers"),
        ({"loss": Surrogate(Literal(), kl_coefficient=1e300)}, "its gradient is not finite"),
        ({"optimizer": partial(torch.optim.AdamW, betas=(2.0, 3.0))}, r"betas=\(2.0, 3.0\)"),
        ({"optimizer": partial(torch.optim.AdamW, weight_decay=float("inf"))}, "optim.weight_decay must be finite"),
        ({"optimizer": partial(torch.optim.AdamW, weight_decay=3e3)}, "takes a weight of 1 to -2 with a gradient of 0"),
        ({"optimizer": torch.optim.LBFGS}, "cannot take a step at the learning rate 0.001"),
        ({"rate": 1e300}, "cannot take a step at the learning rate 1e\\+300"),
    ],
)
def test_parts_and_optimisers_that_would_fail_later_are_refused(make_policy, tokenizer, parts, message):
    with pytest.raises(PartError, match=message):
        try_out(built(make_policy, tokenizer, **parts))

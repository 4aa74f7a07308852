"""Parts of one's own: what they lack is said when they are built, and what else they return when they are asked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.builders import ScriptedEngine, ScriptedVerifier, make_group, make_prompts, make_rows

from hapo_lit import contracts, protocols
from hapo_lit.advantages import GroupNormalised
from hapo_lit.algorithm import Hapo
from hapo_lit.contracts import check_part, reported
from hapo_lit.errors import PartError
from hapo_lit.gates import AlwaysGate, BetaGate, NeverGate
from hapo_lit.injectors import ReplaceWorst
from hapo_lit.losses import Surrogate
from hapo_lit.protocols import ALONE
from hapo_lit.teacher import UnitRatio
from hapo_lit.training.evaluation import Evaluator
from hapo_lit.training.phases import Phase
from hapo_lit.types import GateDecision
from hapo_lit.verify.exact import ExactVerifier
from hapo_lit.weighting import TokenMean

REWARDS = [[0, 1], [0, 0]]


def hapo(**other):
    parts = {
        "engine": ScriptedEngine(make_group(REWARDS)),
        "verifier": ScriptedVerifier(REWARDS),
        "gate": AlwaysGate(),
        "injector": ReplaceWorst(),
        "advantage": GroupNormalised(),
        "weighting": TokenMean(),
    }
    return Hapo(2, **(parts | other))


def collected(**other):
    prompts = make_prompts(make_group(REWARDS), [1, 0])
    return hapo(**other).collect(prompts, 0, lambda group: [""] * group.rewards.numel(), ALONE)


class NoMetrics:
    def __call__(self, responses, answers):
        return torch.zeros(len(responses))


class TakesMore(ExactVerifier):
    def __call__(self, responses, answers, prompts):
        return torch.zeros(len(responses))


class AsksForAWord(ExactVerifier):
    asks_for = "problems"


class KeepsNothing(AlwaysGate):
    state_dict = None


class SamplesText(ReplaceWorst):
    def rollouts(self, group_size):
        return "2"


class TakesRatios:
    def __call__(self, ratio):
        return ratio, ratio > 1


# -- when they are built


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: hapo(verifier=NoMetrics()),
            r"verifier: .*NoMetrics lacks metrics; hapo_lit.protocols.Ver",
        ),
        (
            lambda: hapo(verifier=TakesMore()),
            r"TakesMore\.__call__\(responses, answers, prompts\) must take \(responses, an",
        ),
        (lambda: Evaluator(ScriptedEngine(make_group(REWARDS)), NoMetrics()), "verifier: .*NoMetrics lacks metrics"),
        (lambda: Evaluator(None, ExactVerifier()), "rollout: there is none; .*RolloutEngine says what it must have"),
        (
            lambda: hapo(gate=object()),
            "gate: builtins.object lacks estimates, check, observe, __call__, metrics, state",
        ),
        (lambda: hapo(injector=NoMetrics()), "injector: .*NoMetrics lacks teacher_stands_alone, rollouts"),
        (lambda: hapo(advantage=lambda group: group.rewards), r"advantage: .*<lambda>.* must take \(group, mean\)"),
        (lambda: hapo(weighting=3), "weighting: builtins.int lacks __call__"),
        (lambda: hapo(gate=KeepsNothing()), "gate: .*KeepsNothing lacks state_dict;"),
        (lambda: hapo(verifier=AsksForAWord()), r"AsksForAWord.asks_for is 'problems'; it may have of problems, pro"),
        (
            lambda: hapo(injector=SamplesText()),
            r"SamplesText\.rollouts must return a whole number; it returned str",
        ),
        (lambda: BetaGate(0.3, rule=object()), "gate.rule: builtins.object lacks draws, probability, thresholds, open"),
        (lambda: BetaGate(0.3, memory=object()), "gate.memory: builtins.object lacks .*effective_trials"),
        (
            lambda: Surrogate(UnitRatio(), clip=TakesRatios()),
            r"loss.clip: .* must take \(ratio, advantages",
        ),
        (lambda: Surrogate(UnitRatio(), correction=3), "loss.correction: builtins.int lacks __call__"),
        (lambda: Surrogate(lambda logprobs, rows: logprobs), "teacher: .*lacks needs_advantage, needs_confidence"),
        (lambda: Phase(hapo(), Surrogate(UnitRatio()), lambda progress: "fast"), "learning_rate: .*returned 'fast'"),
        (lambda: Phase(hapo(), Surrogate(UnitRatio()), 1e-3), "learning_rate: builtins.float.*must take the share"),
    ],
)
def test_what_a_part_lacks_is_said_in_one_line(build, message):
    with pytest.raises(PartError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", ["abc", 4.0, None, True])
def test_a_group_size_is_a_whole_number(size):
    with pytest.raises(ValueError, match="group_size must be a whole number from 1 to 4,096, got"):
        Hapo(size, None, None, NeverGate(), ReplaceWorst(), GroupNormalised(), TokenMean())


def test_shipped_parts_keep_to_their_protocols():
    for key, protocol in {
        "gate": protocols.Gate,
        "injector": protocols.Injector,
        "verifier": protocols.Verifier,
    }.items():
        check_part(key, getattr(hapo(), key), protocol)


# -- when they are asked


class OnlyTensor(AlwaysGate):
    def __call__(self, prompt_ids, successes):
        return torch.ones_like(prompt_ids, dtype=torch.bool)


class OnePrompt(AlwaysGate):
    def __call__(self, prompt_ids, successes):
        return GateDecision(torch.ones(1, dtype=torch.bool), torch.ones(1))


class TooSure(AlwaysGate):
    def __call__(self, prompt_ids, successes):
        return GateDecision(torch.ones(2, dtype=torch.bool), torch.full((2,), 1.5))


class Weighs(AlwaysGate):
    def __call__(self, prompt_ids, successes):
        return GateDecision(torch.ones(2), torch.ones(2))


class OpensAList(AlwaysGate):
    def __call__(self, prompt_ids, successes):
        return GateDecision([True, True], torch.ones(2))


class Everywhere(ReplaceWorst):
    def __call__(self, group, prompts, open, step):
        usable = replace(prompts, teacher_usable=torch.ones_like(open))
        return super().__call__(group, usable, open, step)


class Lists(ExactVerifier):
    def __call__(self, responses, answers):
        return [0.0] * len(responses)


class ListsMetrics(AlwaysGate):
    def metrics(self):
        return [("opened", 1.0)]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            {"gate": OnlyTensor()},
            r"OnlyTensor\.__call__ must return a GateDecision\(open, confidence\) for 2 prompts; it",
        ),
        ({"gate": OnePrompt()}, r"OnePrompt\.__call__ must return open of shape \[P\] = \(2,\); it returned \(1,\)"),
        ({"gate": TooSure()}, r"a confidence in \[0, 1\]; it returned \[1.5, 1.5\]"),
        ({"gate": Weighs()}, r"Weighs\.__call__: GateDecision.open has dtype torch.float32, expected torch.bool"),
        ({"gate": OpensAList()}, r"OpensAList\.__call__: GateDecision.open must be a tensor, got list"),
        ({"injector": Everywhere()}, "Everywhere.*teachers only where the gate is open and prompts.teacher_usable"),
        ({"verifier": Lists()}, "must return a tensor of 4 rewards.*it returned a list"),
        ({"advantage": lambda group, mean: group.rewards.tolist()}, r"\[P, G\] = \(2, 2\); it returned list"),
        ({"advantage": lambda group, mean: group.rewards.sum(1)}, r"it returned a tensor of float32 and shape \(2,\)"),
        ({"advantage": lambda group, mean: group.rewards.long()}, "it returned a tensor of int64"),
        (
            {"advantage": lambda group, mean: group.rewards / 0},
            "must return finite numbers; it returned 4 that are not",
        ),
        ({"weighting": lambda group, mean, step: group.rewards}, r"\[P, G, T\] = .*it returned a tensor of float32"),
        ({"weighting": lambda group, mean, step: -group.mask.float()}, "weights of 0 or more; it returned one of -1.0"),
    ],
)
def test_another_output_is_one_line_with_part_method_and_what_was_expected(part, message):
    with pytest.raises(PartError, match=message) as error:
        collected(**part)
    assert "\n" not in str(error.value)


def test_metrics_are_names_with_numbers():
    with pytest.raises(
        PartError, match=r"ListsMetrics\.metrics must return a dictionary of names and numbers; it retur"
    ):
        hapo(gate=ListsMetrics()).metrics()
    assert reported(None, {"a": torch.tensor(2.0), "b": 1}) == {"a": 2.0, "b": 1.0}


def test_an_engine_samples_what_it_is_asked_for():
    class Fewer(ScriptedEngine):
        def generate(self, prompts, group_size, step):
            return super().generate(prompts, group_size - 1, step)

    with pytest.raises(
        PartError, match=r"Fewer\.generate must return a group of shape \[P, G\] = \(2, 2\); it returned"
    ):
        collected(engine=Fewer(make_group(REWARDS)))


def test_a_teachers_term_is_one_number_for_each_token():
    class Sums(UnitRatio):
        def __call__(self, logprobs, rows):
            return super().__call__(logprobs, rows).sum(1)

    rows = make_rows([1.0, -1.0], is_teacher=[True, False], width=2)
    logprobs = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(
        PartError, match=r"Sums\.__call__ must return a floating-point tensor of shape \[N, T\] = \(2, 2\)"
    ):
        Surrogate(Sums())(logprobs, torch.zeros(2, 2), rows)


def adds_up(*tensors):
    return tensors[0].sum()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"clip": lambda ratio, advantages, logprobs: ratio},
            r"must return a pair of tensors \(objective, wh",
        ),
        ({"clip": lambda ratio, advantages, logprobs: (ratio, ratio)}, "where it acted as a tensor of bool"),
        (
            {"ratio": lambda log_ratio, mask: None},
            r"floating-point tensor of shape \[N, T\].*returned NoneType",
        ),
        ({"kl": adds_up, "kl_coefficient": 0.1}, r"test_contracts.adds_up must return a floating-point tensor"),
        ({"correction": lambda log_ratio, mask: mask}, "it returned a tensor of bool"),
    ],
)
def test_the_parts_of_a_loss_give_one_number_for_each_token(parts, message):
    zeros = [0.0, 0.0]
    rows = make_rows([1.0, -1.0], old=zeros, reference=zeros, behaviour=zeros)
    loss = Surrogate(UnitRatio(), **parts)
    with pytest.raises(PartError, match=message):
        loss(torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2, 1), rows)


def test_a_group_that_keeps_to_its_protocol_is_not_changed():
    group, prompts = make_group(REWARDS), make_prompts(make_group(REWARDS), [1, 0])
    assert contracts.sampled(None, group, prompts, 2) is group
    assert contracts.credited(None, group.rewards, group) is group.rewards

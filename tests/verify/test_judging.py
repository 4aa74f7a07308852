"""What a verifier returns: rewards, successes, or an error that names it."""

from __future__ import annotations

import pytest
import torch

from hapo_lit.errors import PartError, VerifierError
from hapo_lit.rows import Judgement, Questions
from hapo_lit.verify.judging import judge

QUESTIONS = Questions(["1", "2", "3"], ["one?", "two?", "three?"], [11, 12, 13], ["easy", "easy", "hard"])


class Returns:
    """A verifier that returns one thing, whatever it is asked."""

    def __init__(self, output):
        self.output = output

    def __call__(self, responses, answers):
        return self.output

    def metrics(self):
        return {}


class AtLeastHalf(Returns):
    def succeeds(self, rewards):
        return rewards >= 0.5


def judged_by(verifier):
    return judge(verifier, ["a", "b", "c"], QUESTIONS)


@pytest.mark.parametrize(
    ("verifier", "successes"),
    [
        (Returns(torch.tensor([0.1, 1.0, 1.2])), [False, True, False]),  # exactly 1, and never "above 0"
        (Returns(torch.tensor([-1.0, 1.0, 0.0])), [False, True, False]),
        (Returns(torch.tensor([0, 1, 0])), [False, True, False]),
        (Returns(torch.tensor([True, False, True])), [True, False, True]),
        (Returns((torch.tensor([0.1, 1.0, 0.9]), torch.tensor([True, False, True]))), [True, False, True]),
        (Returns(Judgement(torch.tensor([0.1, 1.0, 0.9]), torch.tensor([False] * 3))), [False] * 3),
        (AtLeastHalf(torch.tensor([0.1, 0.5, 0.9])), [False, True, True]),
    ],
    ids=["graded", "signed", "whole", "bool", "pair", "judgement", "own rule"],
)
def test_success_is_what_the_verifier_says_or_a_reward_of_exactly_one(verifier, successes):
    judgement = judged_by(verifier)
    assert judgement.successes.tolist() == successes
    assert judgement.rewards.dtype == torch.float32


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ([0.0, 1.0, 0.0], "a list"),
        (None, "a NoneType"),
        (torch.zeros(2), r"a tensor of shape \(2,\)"),
        (torch.zeros(3, 1), r"a tensor of shape \(3, 1\)"),
        ((torch.zeros(3), torch.zeros(3)), "successes of dtype torch.float32"),
        ((torch.zeros(3), [True] * 3), "a list"),
        (torch.zeros(3, dtype=torch.complex64), "dtype torch.complex64"),
    ],
)
def test_another_output_is_refused_with_the_verifiers_name(output, found):
    with pytest.raises(PartError, match=rf"test_judging\.Returns\.__call__ must return a tensor of 3 rewards.*{found}"):
        judged_by(Returns(output))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_reward_that_is_not_finite_is_refused_with_what_was_seen(value):
    says = rf"test_judging\.Returns gave the reward {value} to response 2 of 3.*reference '2', response 'b'"
    with pytest.raises(VerifierError, match=says):
        judged_by(Returns(torch.tensor([0.0, value, 1.0])))
    with pytest.raises(VerifierError, match=says):
        judged_by(Returns((torch.tensor([0.0, value, 1.0]), torch.tensor([False, False, True]))))


def test_a_verifier_gets_what_it_asks_for():
    class Asks(Returns):
        asks_for = ("problems", "prompt_ids", "difficulties")

        def __call__(self, responses, answers, problems, prompt_ids, difficulties):
            self.seen = (problems, prompt_ids, difficulties)
            return self.output

    verifier = Asks(torch.zeros(3))
    judged_by(verifier)
    assert verifier.seen == QUESTIONS[1:]
    with pytest.raises(PartError, match="Asks asks for problems, and these prompts come without"):
        judge(verifier, ["a"], Questions(["1"]))

    verifier.asks_for = ("weather",)
    with pytest.raises(PartError, match=r"asks_for is .*weather.*it may have of problems, prompt_ids, difficulties"):
        judged_by(verifier)

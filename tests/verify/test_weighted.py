"""Several rewards with weights: the sum for advantages, one of them for success."""

from __future__ import annotations

import pytest
import torch

from hapo_lit.errors import VerifierError
from hapo_lit.protocols import Verifier
from hapo_lit.rows import Questions
from hapo_lit.storage.cache_key import cache_key
from hapo_lit.verify.exact import ExactVerifier
from hapo_lit.verify.judging import judge
from hapo_lit.verify.weighted import BoxAtTheEnd, Brevity, WeightedVerifier

RESPONSES = [r"3+4=7;\boxed{7}", r"\boxed{8}", "7", "x" * 60 + r"\boxed{7}"]
QUESTIONS = Questions(["7"] * 4, problems=["Compute 3+4."] * 4)


def weighted(**weights):
    parts = {"accuracy": ExactVerifier(), "format": BoxAtTheEnd(), "length": Brevity(20, 60)}
    return WeightedVerifier(parts, {"accuracy": 1.0, "format": 0.1, "length": 0.2, **weights})


def test_rewards_are_added_up_and_only_accuracy_is_success():
    """Lengths 15, 9, 1 and 69 against 20 and 60: the last is too long to earn anything for it."""
    verifier = weighted()
    assert isinstance(verifier, Verifier)
    judgement = judge(verifier, RESPONSES, QUESTIONS)
    assert judgement.successes.tolist() == [True, False, False, True]
    assert judgement.rewards.tolist() == pytest.approx([1.3, 0.3, 0.2, 1.1])
    metrics = verifier.metrics()
    assert metrics["rewards/accuracy"] == 0.5
    assert metrics["rewards/format"] == 0.75
    assert metrics["rewards/length"] == 0.75
    assert metrics["verify/no_answer"] == 0.25  # accuracy's own
    assert metrics["time/verify"] > 0
    assert judge(verifier, [], Questions([])).rewards.tolist() == []


def test_brevity_falls_in_a_straight_line():
    earned = Brevity(20, 60)(["x" * length for length in (0, 20, 30, 60, 90)], [""] * 5)
    assert earned.tolist() == [1.0, 1.0, 0.75, 0.0, 0.0]
    with pytest.raises(ValueError, match="0 <= free < limit, got free=5 and limit=5"):
        Brevity(5, 5)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"style": 1.0}, "verifier.weights has accuracy, format, length, style, and verifier.rewards has accuracy, fo"),
        ({"accuracy": 0.0}, "verifier.weights.accuracy=0.0 would not pay for success"),
        ({"format": float("inf")}, "verifier.weights.format=inf must be a finite number"),
        ({"format": "much"}, "verifier.weights.format=much must be a finite number"),
        ({"format": None}, "verifier.weights.format=None must be a finite number"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        weighted(**weights)


def test_success_must_be_one_of_the_rewards():
    with pytest.raises(ValueError, match=r"verifier\.success=taste is none of the rewards format"):
        WeightedVerifier({"format": BoxAtTheEnd()}, {"format": 1.0}, success="taste")


class Wordy:
    """Asks for the problems, and may give what is no number."""

    asks_for = ("problems",)
    bad = False

    def __call__(self, responses, answers, problems):
        assert problems == QUESTIONS.problems
        return torch.full((len(responses),), float("nan") if self.bad else 0.25)

    def metrics(self):
        return {}


def test_a_reward_of_ones_own_gets_what_it_asks_for_and_is_named_when_it_fails():
    own = Wordy()
    verifier = WeightedVerifier({"accuracy": ExactVerifier(), "own": own}, {"accuracy": 1, "own": 2})
    assert verifier.asks_for == ("problems",)
    assert judge(verifier, RESPONSES, QUESTIONS).rewards.tolist() == [1.5, 0.5, 0.5, 1.5]
    own.bad = True
    with pytest.raises(VerifierError, match=r"test_weighted\.Wordy gave the reward nan to response 1 of 4"):
        judge(verifier, RESPONSES, QUESTIONS)


def test_verdicts_on_disk_depend_on_every_reward_and_weight():
    keys = {cache_key({"verifier": verifier}).key for verifier in (weighted(), weighted(), weighted(format=0.5))}
    assert len(keys) == 2
    used = weighted()
    judge(used, RESPONSES, QUESTIONS)
    assert cache_key({"verifier": used}) == cache_key({"verifier": weighted()})

"""The gate of the paper and its rules, in closed form."""

import re
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from support.gates import after, ids

from hapo_lit import injection_law as law
from hapo_lit.gates import BetaGate, CredibleBound, Memory, PosteriorMean, ThompsonSample
from hapo_lit.schedules import Linear


@pytest.mark.parametrize("successes", range(9))
def test_paper_values_open_up_to_six_of_eight(successes):
    decision = after(BetaGate(0.8), successes, 8)
    assert bool(decision.open) == (successes <= 6)
    assert float(decision.confidence) == pytest.approx((1 + successes) / 10)


@pytest.mark.parametrize(
    ("threshold", "size", "most"),
    [
        (0.2, 4, 0),  # the default: all wrong
        (0.2, 8, 0),  # (1+1)/10 = 0.2 is not below 0.2
        (0.8, 2, 2),  # c <= 3/4 < 0.8: cannot close
        (0.1, 8, -1),  # c >= 1/10: cannot open
        (0.7, 8, 5),  # (1+6)/10 = 0.7 is not below 0.7, which float32 gets wrong
        (0.9, 8, 7),
        (0.3, 8, 1),
    ],
)
def test_the_edge_is_exact(threshold, size, most):
    opens = [bool(after(BetaGate(threshold), successes, size).open) for successes in range(size + 1)]
    assert opens == [successes <= most for successes in range(size + 1)]


def test_the_comparison_agrees_with_rationals_everywhere():
    prompts = torch.arange(9)  # the prompt with this id has so many successes of 8
    for hundredths, (alpha, beta) in product(range(1, 101), ((1.0, 1.0), (0.5, 0.5), (0.1, 2.7))):
        gate = BetaGate(hundredths / 100, prior_alpha=alpha, prior_beta=beta)
        gate.observe(prompts, prompts, torch.full((9,), 8))
        a, b = Fraction(str(alpha)), Fraction(str(beta))
        means = [(a + successes) / (a + b + 8) for successes in range(9)]
        opened = gate(prompts, torch.zeros(9, 8)).open.tolist()
        assert opened == [mean < Fraction(hundredths, 100) for mean in means]


def test_without_a_memory_earlier_visits_do_not_count():
    gate = BetaGate(0.8)
    for _ in range(5):
        after(gate, 0, 8)
    assert float(after(gate, 8, 8).confidence) == pytest.approx(0.9)


def test_a_prompt_never_observed_is_judged_by_the_prior():
    assert float(BetaGate(0.5, prior_alpha=3.0)(ids(9), torch.zeros(1, 4)).confidence) == 0.75


def test_two_groups_of_one_prompt_in_a_batch_are_one_visit():
    gate = BetaGate(0.5, memory=Memory(0.5))
    gate.observe(ids(1), ids(0), ids(4))
    gate.observe(ids(1, 1), ids(4, 2), ids(4, 4))
    # 1 + 0.5·0 + 6 over 2 + 0.5·4 + 8
    assert float(gate(ids(1), torch.zeros(1, 4)).confidence) == pytest.approx(7 / 12)


RULES = {
    "thompson": (ThompsonSample(), law.thompson_rule),
    "median": (CredibleBound(0.5), lambda *a: law.bound_rule(*a, level=0.5)),
    "upper": (CredibleBound(0.95), lambda *a: law.bound_rule(*a, level=0.95)),
}


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("name", RULES)
def test_every_rule_opens_as_often_as_the_injection_law_says(name, rate):
    """Twenty thousand groups of eight through the gate; five standard errors."""
    rule, predicted = RULES[name]
    groups, gate = 20_000, BetaGate(0.8, rule)
    wins = torch.from_numpy(np.random.default_rng(2).binomial(8, rate, groups))
    gate.observe(torch.arange(groups), wins, torch.full((groups,), 8))
    observed = float(gate(torch.arange(groups), torch.zeros(groups, 8)).open.double().mean())
    expected = predicted(rate, 0.8, 8)
    assert abs(observed - expected) <= 5 * (expected * (1 - expected) / groups) ** 0.5 + 1e-9


def test_thompson_draws_anew_at_each_visit_and_not_at_each_call():
    gate, prompts, rewards = BetaGate(0.8, ThompsonSample()), torch.arange(200), torch.zeros(200, 8)
    decisions = []
    for _ in range(2):
        gate.observe(prompts, torch.full((200,), 6), torch.full((200,), 8))
        decisions.append(gate(prompts, rewards).open)
        assert torch.equal(gate(prompts, rewards).open, decisions[-1])
        flipped = gate(prompts.flip(0), rewards).open.flip(0)
        assert torch.equal(flipped, decisions[-1])
    assert not torch.equal(*decisions)
    other = BetaGate(0.8, ThompsonSample(), seed=1)
    other.observe(prompts, torch.full((200,), 6), torch.full((200,), 8))
    assert not torch.equal(other(prompts, rewards).open, decisions[0])


def test_an_annealed_gate_closes_for_good_at_the_cut_off():
    gate, horizon = BetaGate(Linear(0.3, 0.0), horizon=30), 30
    opens = []
    for _ in range(horizon):
        opens.append(bool(after(gate, 0, 4).open))
        assert gate.metrics()["threshold"] == pytest.approx(0.3 - 0.01 * (len(opens) - 1))
    # 0.3 − 0.01 t is above 1/6 up to t = 13
    assert opens == [step <= 13 for step in range(horizon)]
    assert law.cut_off(4) == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.5}, r"gate.threshold must stay in \[0, 1\], and is 1.5"),
        ({"threshold": Linear(1.5, 0), "horizon": 9}, r"must stay in \[0, 1\], and is 0.16\d* to 1.5"),
        ({"threshold": "high"}, "gate.threshold must be a number or a schedule, got 'high'"),
        ({"threshold": None}, "gate.threshold must be a number or a schedule, got None"),
        ({"threshold": Linear(0.5, 0), "horizon": -5}, "needs a horizon of at least 1 step"),
        ({"threshold": 0.5, "prior_alpha": 0}, "prior_alpha must be a number above 0"),
        ({"threshold": Linear(0.5, 0)}, "gate.threshold is a schedule and needs a horizon"),
    ],
)
def test_nonsense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BetaGate(**arguments)


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.33, 0.5, 0.75, 0.8, 0.9, 0.99])
@pytest.mark.parametrize("rule", [PosteriorMean(), CredibleBound(0.05), CredibleBound(0.5), CredibleBound(0.95)])
@pytest.mark.parametrize("prior", [(1.0, 1.0), (0.5, 2.0), (3.0, 0.1)])
def test_a_refusal_is_right_and_its_advice_works(threshold, rule, prior):
    """Refused exactly if trying every count shows it: then the advised threshold both opens and closes."""

    def opens(value):
        gate = BetaGate(value, rule, prior_alpha=prior[0], prior_beta=prior[1])
        return {bool(after(gate, successes, 4).open) for successes in range(5)}

    gate = BetaGate(threshold, rule, prior_alpha=prior[0], prior_beta=prior[1])
    if len(opens(threshold)) == 2:
        gate.check(4)
    else:
        with pytest.raises(ValueError, match=r"gate\.threshold=") as refusal:
            gate.check(4)
        assert opens(float(re.search(r"Set gate.threshold=([\d.]+),", str(refusal.value))[1])) == {True, False}


def test_metrics_say_what_the_gate_believes_and_predict_nothing_from_the_groups_it_has_seen():
    """Posterior means 1/6 and 4/6: the law there would say 25 % where half of the groups are open."""
    for gate in (BetaGate(0.2), BetaGate(0.2, memory=Memory(0.5))):
        assert set(gate.metrics()) == {"prompts", "threshold"}  # nothing was observed yet
        gate.observe(ids(7, 9), ids(0, 3), ids(4, 4))
        metrics = gate.metrics()
        assert set(metrics) == {"prompts", "threshold", "posterior_mean", "posterior_spread"}
        assert metrics["posterior_mean"] == pytest.approx(5 / 12)
        assert metrics["posterior_spread"] == pytest.approx(1 / 4)

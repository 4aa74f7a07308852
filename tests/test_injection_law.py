"""The closed forms against tables, identities, enumeration, and the gates themselves."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from hapo_lit import injection_law as law
from hapo_lit.gates import BetaGate

RATES = [0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1]


@pytest.mark.parametrize(
    ("rule", "table"),
    [  # n = 8, γ = 0.8, Beta(1, 1)
        (law.mean_rule, [1, 0.964844, 0.744702, 0.496684, 0.186895, 0.057245, 0.002690, 0]),
        (law.thompson_rule, [1 - 5.12e-7, 0.925571, 0.736462, 0.575204, 0.369701, 0.254193, 0.158370, 0.134218]),
        (lambda *a: law.bound_rule(*a, level=0.5), [1, 0.964844, 0.744702, 0.496684, 0.186895, 0.057245, 0.002690, 0]),
        (lambda *a: law.bound_rule(*a, level=0.05), [1] * 8),
        (lambda *a: law.bound_rule(*a, level=0.95), [1, 0.636719, 0.194104, 0.056282, 0.005024, 0.000372, 1e-6, 0]),
    ],
    ids=["mean", "thompson", "median", "lower", "upper"],
)
def test_the_table_to_six_digits(rule, table):
    assert [rule(rate, 0.8, 8) for rate in RATES] == pytest.approx(table, abs=6e-7)


def test_another_prior():
    assert law.thompson_rule(0.9, 0.8, 8, 2, 3) == pytest.approx(0.719820, abs=5e-7)


@pytest.mark.parametrize(
    ("threshold", "trials", "most"), [(0.8, 8, 6), (0.8, 2, 2), (0.1, 8, -1), (0.7, 8, 5), (0.2, 4, 0), (0.2, 8, 0)]
)
def test_the_edge_of_the_mean_rule(threshold, trials, most):
    assert law.most_successes(threshold, trials) == most
    extreme = {True: 1.0, False: 0.0}
    if not 0 <= most < trials:
        assert law.mean_rule(0.37, threshold, trials) == extreme[most >= trials]


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_thompson_is_a_race_and_a_mixture_of_bounds(rate):
    # for Beta(1,1): P[X > S] with X ~ Bin(n+1, γ) independent of S ~ Bin(n, p)
    race = sum(stats.binom.pmf(s, 8, rate) * stats.binom.sf(s, 9, 0.8) for s in range(9))
    assert law.thompson_rule(rate, 0.8, 8) == pytest.approx(race, abs=1e-12)
    edges = [float(law.mass_below(0.8, np.array(s), 8)) for s in range(9)]
    mixture, _ = integrate.quad(lambda level: law.bound_rule(rate, 0.8, 8, level), 0, 1, points=edges)
    assert law.thompson_rule(rate, 0.8, 8) == pytest.approx(mixture, abs=1e-9)


@pytest.mark.parametrize("rule", [law.mean_rule, law.thompson_rule, lambda *a: law.bound_rule(*a, level=0.3)])
def test_help_never_gets_likelier_with_skill(rule):
    for threshold, trials in product((0.2, 0.5, 0.8), (2, 4, 16)):
        probabilities = [rule(rate, threshold, trials) for rate in np.linspace(0, 1, 41)]
        assert (np.diff(probabilities) <= 1e-12).all()


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize(("threshold", "trials"), [(0.2, 4), (0.8, 8), (0.5, 4)])
def test_the_gate_obeys_its_law(rate, threshold, trials):
    """Twenty thousand groups through ``BetaGate``; five standard errors."""
    groups = 20_000
    wins = np.random.default_rng(1).binomial(trials, rate, groups)
    gate, prompts = BetaGate(threshold), torch.arange(groups)
    gate.observe(prompts, torch.from_numpy(wins), torch.full((groups,), trials))
    observed = float(gate(prompts, torch.zeros(groups, trials)).open.double().mean())
    expected = law.mean_rule(rate, threshold, trials)
    assert abs(observed - expected) <= 5 * np.sqrt(expected * (1 - expected) / groups) + 1e-12


def test_theorem_4_2_of_the_paper_fails_at_its_own_settings():
    """It claims that injection vanishes for any prompt whose success rate is above γ.  At p = 0.9 it does not."""
    assert law.mean_rule(0.9, 0.8, 8) == pytest.approx(0.186895, abs=5e-7)
    assert law.thompson_rule(1.0, 0.8, 8) == pytest.approx(0.8**9)


@pytest.mark.parametrize(("discount", "failed", "visit"), [(1.0, 5, 26), (0.9, 400, 16), (1.0, 1, 6)])
def test_memory_closes_when_the_law_says(discount, failed, visit):
    assert law.closing_visit(0.8, 8, discount, failed) == visit
    gate, prompt, trials = BetaGate(0.8, discount=discount), torch.tensor([3]), torch.tensor([8])
    for _ in range(failed):
        gate.observe(prompt, torch.tensor([0]), trials)
    visits = failed if discount == 1 else 0
    while True:
        gate.observe(prompt, trials, trials)
        visits += 1
        if not gate(prompt, torch.zeros(1, 8)).open:
            break
    assert visits == visit


def test_at_the_cut_off_the_mean_rule_is_exactly_off():
    assert law.cut_off(8) == 0.1
    assert law.mean_rule(0.0, 0.1, 8) == 0.0
    assert law.mean_rule(0.0, 0.1001, 8) == 1.0


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_bias_bound_holds_on_every_group_of_a_toy_policy(rate):
    """Two answers, right with probability ``rate``; the gradient of log π, centred rewards, groups of three, listed."""
    score = {1: 1 - rate, 0: -rate}  # d log π / d logit
    trials, threshold = 3, 0.5
    most = law.most_successes(threshold, trials)
    bias, norm, moved = 0.0, 0.0, 0.0
    for group in product((0, 1), repeat=trials):
        probability = np.prod([rate if answer else 1 - rate for answer in group])
        helped = list(group)
        if sum(group) <= most:
            helped[int(np.argmin(group))] = 1
        plain, hapo = (
            sum((answer - np.mean(answers)) * score[answer] for answer in answers) / trials
            for answers in (group, helped)
        )
        bias += probability * (hapo - plain)
        norm = max(norm, abs(plain), abs(hapo))
        moved += probability * (sum(group) <= most)
    chance = law.mean_rule(rate, threshold, trials)
    assert moved == pytest.approx(chance)
    assert 0 < abs(bias) <= law.bias_bound(norm, chance)

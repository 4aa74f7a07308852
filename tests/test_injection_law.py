"""The closed forms against tables, identities, enumeration, and the gates themselves."""

import doctest
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from hapo_lit import injection_law as law
from hapo_lit.gates import BetaGate, Memory

THEORY = Path(__file__).parent.parent / "docs" / "theory.md"
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
    assert law.max_successes_to_open(threshold, trials) == most
    assert law.max_successes_to_open(0.55, 98) == 53  # 0.55 · 100 is 55.00000000000001 in floats, and would give 54
    extreme = {True: 1.0, False: 0.0}
    if not 0 <= most < trials:
        assert law.mean_rule(0.37, threshold, trials) == extreme[most >= trials]


@pytest.mark.parametrize("threshold", [0.2, 0.2000001, 0.7, 1 / 3])
def test_gate_and_law_read_a_threshold_alike(threshold):
    most = law.max_successes_to_open(threshold, 8)
    for successes in range(9):
        gate = BetaGate(threshold)
        gate.observe(torch.tensor([1]), torch.tensor([successes]), torch.tensor([8]))
        assert bool(gate(torch.tensor([1]), torch.zeros(1, 8)).open) == (successes <= most)


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
    gate, prompt, trials = BetaGate(0.8, memory=Memory(discount)), torch.tensor([3]), torch.tensor([8])
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


def test_as_the_policy_becomes_perfect_the_mean_rule_vanishes_and_a_draw_does_not():
    # P ~ C(n, r)(1−p)^r with r = n − m failures needed: 28 (1−p)² for the paper's values
    for gap in (1e-3, 1e-4):
        assert law.mean_rule(1 - gap, 0.8, 8) == pytest.approx(28 * gap**2, rel=0.02)
    for trials, threshold, prior in ((8, 0.8, (1, 1)), (4, 0.5, (2, 3))):
        floor = law.thompson_floor(threshold, trials, 0.0, *prior)
        assert law.thompson_rule(1.0, threshold, trials, *prior) == pytest.approx(floor, abs=1e-14)
    assert law.thompson_floor(0.8, 8) == pytest.approx(0.8**9)
    # the lower bound falls silent at p = 1 only from n = 13 on: γ^{n+1} ≤ δ
    silent = [float(law.bound_rule(1.0, 0.8, trials, 0.05)) for trials in (12, 13)]
    assert silent == [1.0, 0.0]


@pytest.mark.parametrize("threshold", [0.3, 0.8])
@pytest.mark.parametrize("rate", [0.35, 0.5, 0.85, 0.9, 0.99])
def test_in_large_groups_injection_vanishes_at_the_rates_stated(threshold, rate):
    for trials in (2, 8, 32, 128, 512):
        assert law.mean_rule(rate, threshold, trials) <= law.mean_rule_bound(rate, threshold, trials) * (1 + 1e-9)
        assert law.thompson_rule(rate, threshold, trials) <= law.thompson_rule_bound(rate, threshold, trials) * (
            1 + 1e-9
        )
    if rate > threshold:
        share = law.max_successes_to_open(threshold, 100_000) / 100_000
        assert law.kl_bernoulli(share, rate) == pytest.approx(law.kl_bernoulli(threshold, rate), rel=1e-3)
        n = 400 if law.kl_bernoulli(threshold, rate) < 1 else 60  # the exponent itself, short of underflow
        slope = np.log(law.mean_rule(rate, threshold, n) / law.mean_rule(rate, threshold, 2 * n)) / n
        assert slope == pytest.approx(law.kl_bernoulli(threshold, rate), rel=0.1, abs=5e-3)
        affinity = np.sqrt(rate * threshold) + np.sqrt((1 - rate) * (1 - threshold))
        assert -2 * np.log(affinity) < law.kl_bernoulli(threshold, rate)  # a draw is the slower
    else:
        assert law.mean_rule(rate, threshold, 4096) > 1 - 1e-6


def test_at_the_threshold_itself_every_second_group_is_helped_in_the_limit():
    assert law.mean_rule(0.8, 0.8, 100_000) == pytest.approx(0.5, abs=0.01)
    assert law.thompson_rule(0.8, 0.8, 20_000) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("successes", range(9))
def test_a_draw_far_from_the_threshold_obeys_cantelli(successes):
    alpha, beta = 1 + successes, 9 - successes
    mean, variance = stats.beta.stats(alpha, beta)
    for threshold in (0.1, 0.3, 0.5):
        if mean > threshold:
            mass = float(law.mass_below(threshold, np.array(successes), 8))
            assert mass <= variance / (variance + (mean - threshold) ** 2)


def test_full_history_forgets_nothing_and_is_consistent_above_the_threshold():
    gate, groups = BetaGate(0.5, memory=Memory(1.0)), 20_000
    prompts, draw = torch.arange(groups), np.random.default_rng(3)
    for visit in range(1, 5):
        gate.observe(prompts, torch.from_numpy(draw.binomial(4, 0.6, groups)), torch.full((groups,), 4))
        expected = float(law.mean_rule(0.6, 0.5, 4 * visit))  # as without a memory, with the trials of all visits
        observed = float(gate(prompts, torch.zeros(groups, 4)).open.double().mean())
        assert abs(observed - expected) <= 5 * np.sqrt(expected * (1 - expected) / groups)
    assert law.mean_rule(0.9, 0.8, 8 * 100) < 1e-8
    assert law.mean_rule(0.7, 0.8, 8 * 100) > 1 - 1e-8


@pytest.mark.parametrize("discount", [0.5, 0.9])
@pytest.mark.parametrize(("rate", "threshold"), [(0.5, 0.3), (0.9, 0.8), (0.6, 0.2), (0.2, 0.3)])
def test_a_settled_memory_injects_no_more_than_its_bound(discount, rate, threshold):
    gate, groups = BetaGate(threshold, memory=Memory(discount)), 5000
    prompts, draw = torch.arange(groups), np.random.default_rng(4)
    for _ in range(80):
        gate.observe(prompts, torch.from_numpy(draw.binomial(4, rate, groups)), torch.full((groups,), 4))
    observed = float(gate(prompts, torch.zeros(groups, 4)).open.double().mean())
    bound = law.discounted_rule_bound(rate, threshold, 4, discount)
    assert observed <= bound + 5 * np.sqrt(bound * (1 - bound) / groups)
    assert (bound == 1.0) == (rate < threshold)


def test_an_annealed_draw_is_bounded_by_its_threshold():
    """With Beta(1, 1), P ≤ 1 − (1−γ)^{n+1} ≤ (n+1)γ whatever p: if thresholds sum to something finite, help ends."""
    for threshold, rate in product((0.001, 0.01, 0.1), (0.0, 0.3, 1.0)):
        chance = law.thompson_rule(rate, threshold, 8)
        assert chance <= 1 - (1 - threshold) ** 9 + 1e-15
        assert 1 - (1 - threshold) ** 9 <= 9 * threshold


TRIALS, RIGHT = 3, 1


def groups_of_a_toy_policy(probabilities, threshold):
    """Every group of three answers: its probability, and what HAPO makes of it (the teacher's answer is 1)."""
    most = law.max_successes_to_open(threshold, TRIALS)
    for group in product(range(len(probabilities)), repeat=TRIALS):
        helped, rewards = list(group), [answer == RIGHT for answer in group]
        if sum(rewards) <= most:
            helped[rewards.index(False)] = RIGHT
        yield np.prod([probabilities[answer] for answer in group]), group, tuple(helped), sum(rewards) <= most


@pytest.mark.parametrize("threshold", [0.3, 0.5])
@pytest.mark.parametrize("probabilities", [(0.7, 0.1, 0.2), (0.2, 0.5, 0.3), (0.05, 0.9, 0.05)])
def test_total_variation_is_the_injection_probability_up_to_the_teachers_own(probabilities, threshold):
    """q − N π(τ*) ≤ TV(HAPO groups, on-policy groups) ≤ q, listed group by group."""
    plain, hapo, chance = {}, {}, 0.0
    for probability, group, helped, injected in groups_of_a_toy_policy(probabilities, threshold):
        plain[group] = plain.get(group, 0.0) + probability
        hapo[helped] = hapo.get(helped, 0.0) + probability
        chance += probability * injected
    distance = 0.5 * sum(abs(plain.get(group, 0.0) - hapo.get(group, 0.0)) for group in {*plain, *hapo})
    assert chance == pytest.approx(float(law.mean_rule(probabilities[RIGHT], threshold, TRIALS)))
    assert chance - TRIALS * probabilities[RIGHT] - 1e-12 <= distance <= chance + 1e-12


@pytest.mark.parametrize("threshold", [0.3, 0.5])
@pytest.mark.parametrize("probabilities", [(0.7, 0.1, 0.2), (0.2, 0.5, 0.3), (0.05, 0.9, 0.05)])
def test_the_bias_of_the_gradient_is_at_most_2bq(probabilities, threshold):
    """A softmax over three answers, centred rewards, every group listed."""

    def gradient(answers):
        rewards = np.array([answer == RIGHT for answer in answers], dtype=float)
        scores = np.eye(3)[list(answers)] - np.array(probabilities)  # ∇ log π in the logits
        return (rewards - rewards.mean()) @ scores / TRIALS

    bias, norm, chance = np.zeros(3), 0.0, 0.0
    for probability, group, helped, injected in groups_of_a_toy_policy(probabilities, threshold):
        bias += probability * (gradient(helped) - gradient(group))
        norm = max(norm, *(float(np.linalg.norm(gradient(answers))) for answers in (group, helped)))
        chance += probability * injected
    assert 0 < np.linalg.norm(bias) <= 2 * norm * chance


def test_the_variance_of_a_mixture_has_a_term_the_paper_leaves_out():
    """v1's Eq. 10 says V ≤ max(V_T, V_RL).  Two constants, +1 and −1, mixed by a fair coin, have variance 1."""
    rate, means, variances = 0.5, (1.0, -1.0), (0.0, 0.0)
    between = rate * (1 - rate) * (means[0] - means[1]) ** 2
    total = rate * variances[0] + (1 - rate) * variances[1] + between
    listed = np.var([1.0, -1.0])
    assert total == listed == 1.0 > max(variances)


def test_the_examples_of_the_theory_page_run():
    result = doctest.testfile(str(THEORY), module_relative=False)
    assert result.attempted > 10
    assert result.failed == 0

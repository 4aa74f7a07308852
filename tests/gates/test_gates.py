import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from hapo_lit import injection_law as law
from hapo_lit.errors import ResumeError
from hapo_lit.gates import (
    AlwaysGate,
    BetaGate,
    CredibleBound,
    FailureGate,
    Memory,
    NeverGate,
    PosteriorMean,
    ScheduledGate,
    ThompsonSample,
)
from hapo_lit.protocols import Gate, HasOpenProbability
from hapo_lit.schedules import Linear, Step

GATES = {
    "beta": lambda: BetaGate(0.8),
    "beta_memory": lambda: BetaGate(0.3, prior_alpha=2.0, prior_beta=3.0, memory=Memory(0.9)),
    "beta_annealed": lambda: BetaGate(Linear(0.8, 0.0), horizon=4),
    "credible": lambda: BetaGate(0.8, CredibleBound(0.95)),
    "thompson": lambda: BetaGate(0.8, ThompsonSample(), memory=Memory(0.5)),
    "failure": lambda: FailureGate(1),
    "always": AlwaysGate,
    "never": NeverGate,
    "scheduled": lambda: ScheduledGate(Linear(1.0, 0.0), horizon=4, seed=1),
}
every_gate = pytest.mark.parametrize("make", GATES.values(), ids=GATES.keys())


def ids(*values):
    return torch.tensor(values, dtype=torch.int64)


def after(gate, successes, trials):
    """The decision on one prompt after one group."""
    gate.observe(ids(7), ids(successes), ids(trials))
    return gate(ids(7), (torch.arange(trials) < successes).float()[None])


# -- contracts: every gate


@every_gate
def test_a_gate_fits_its_seam_and_is_pure(make):
    gate = make()
    assert isinstance(gate, Gate)
    gate.observe(ids(1, 2), ids(0, 3), ids(4, 4))
    rewards = torch.tensor([[0.0, 0, 0, 0], [1, 1, 1, 0]])
    before = rewards.clone(), str(gate.state_dict())
    first, second = gate(ids(1, 2), rewards), gate(ids(1, 2), rewards)
    assert torch.equal(first.open, second.open)
    assert ((first.confidence >= 0) & (first.confidence <= 1)).all()
    assert torch.equal(rewards, before[0])
    assert str(gate.state_dict()) == before[1]
    assert all(isinstance(value, float) for value in gate.metrics().values())


@every_gate
def test_opening_never_gets_likelier_with_success(make):
    opens = [bool(after(make(), successes, 8).open) for successes in range(9)]
    assert opens == sorted(opens, reverse=True)


@every_gate
def test_state_round_trip_decides_alike(make):
    gate, copy = make(), make()
    gate.observe(ids(1, 2, 3), ids(0, 4, 2), ids(4, 4, 4))
    copy.load_state_dict(gate.state_dict())
    rewards = torch.zeros(3, 4)
    assert torch.equal(gate(ids(1, 2, 3), rewards).open, copy(ids(1, 2, 3), rewards).open)
    assert torch.equal(gate(ids(1, 2, 3), rewards).confidence, copy(ids(1, 2, 3), rewards).confidence)
    gate.observe(ids(2), ids(0), ids(4))
    copy.observe(ids(2), ids(0), ids(4))
    assert str(gate.state_dict()) == str(copy.state_dict())


@every_gate
def test_the_order_of_ranks_does_not_matter(make):
    one, other = make(), make()
    one.observe(ids(1, 2, 1), ids(0, 4, 2), ids(4, 4, 4))
    other.observe(ids(1, 1, 2), ids(2, 0, 4), ids(4, 4, 4))
    rewards = torch.zeros(2, 4)
    assert torch.equal(one(ids(1, 2), rewards).confidence, other(ids(1, 2), rewards).confidence)


# -- the paper's gate in closed form


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
    for hundredths in range(1, 101):
        threshold = hundredths / 100
        for alpha, beta in ((1.0, 1.0), (0.5, 0.5), (0.1, 2.7)):
            for successes in range(9):
                exact = (Fraction(str(alpha)) + successes) / (Fraction(str(alpha)) + Fraction(str(beta)) + 8)
                gate = BetaGate(threshold, prior_alpha=alpha, prior_beta=beta)
                assert bool(after(gate, successes, 8).open) == (exact < Fraction(hundredths, 100))


def test_group_local_gate_forgets_everything_between_visits():
    gate = BetaGate(0.8)
    for _ in range(5):
        after(gate, 0, 8)
    assert float(after(gate, 8, 8).confidence) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("discount", "failures_first", "closes_after"),
    [
        (0.9, 400, 16),  # method.md 3.6: ln(1-γ+…)/ln λ from a settled memory of failures
        (1.0, 5, 26),  # ⌈(N t0 + γ(a0+b0) − a0) / (N (1−γ))⌉ for t0 = 5
    ],
)
def test_memory_lags_as_predicted(discount, failures_first, closes_after):
    gate = BetaGate(0.8, memory=Memory(discount))
    for _ in range(failures_first):
        after(gate, 0, 8)
    visits = 0 if discount < 1 else failures_first
    while bool(after(gate, 8, 8).open):
        visits += 1
    assert visits + 1 == closes_after


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
def test_every_rule_obeys_its_law(name, rate):
    """Twenty thousand groups of eight through the gate; five standard errors."""
    rule, predicted = RULES[name]
    groups, gate = 20_000, BetaGate(0.8, rule)
    wins = torch.from_numpy(np.random.default_rng(2).binomial(8, rate, groups))
    gate.observe(torch.arange(groups), wins, torch.full((groups,), 8))
    observed = float(gate(torch.arange(groups), torch.zeros(groups, 8)).open.double().mean())
    expected = predicted(rate, 0.8, 8)
    assert abs(observed - expected) <= 5 * (expected * (1 - expected) / groups) ** 0.5 + 1e-9


def test_thompson_draws_anew_at_each_visit_and_not_at_each_question():
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


def test_failure_gate_counts_successes():
    rewards = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0]])
    assert FailureGate(1)(ids(1, 2, 3), rewards).open.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("gate", "trials", "message"),
    [
        (BetaGate(0.2), 3, r"never open: γ ≤ a0/\(a0\+b0\+n\) = 0.2; .*Set gate.threshold=0.2001,"),
        (BetaGate(0.8), 2, r"never close: γ > \(a0\+n\)/\(a0\+b0\+n\) = 0.75; .*Set gate.threshold=0.75,"),
        (BetaGate(0.9), 8, None),
        (BetaGate(0.91), 8, "never close"),
        (BetaGate(0.1), 8, "never open"),
        (BetaGate(0.1, memory=Memory(0.5)), 8, None),  # sixteen in the long run
        (BetaGate(0.1, allow_degenerate=True), 8, None),
        (BetaGate(0.01, memory=Memory(1.0)), 8, None),
        (BetaGate(1.0, memory=Memory(1.0)), 8, "never close"),
        (BetaGate(0.2, ThompsonSample()), 3, None),  # a draw may always fall below
        (BetaGate(0.8, CredibleBound(0.05)), 8, r"never close: γ > 0.05 quantile of Beta\(a0\+n, b0\) = 0.716871"),
        (BetaGate(0.01, CredibleBound(0.95)), 8, r"never open: γ ≤ 0.95 quantile of Beta\(a0, b0\+n\) = 0.283129"),
        (BetaGate(1.0, ThompsonSample()), 8, r"never close: γ ≥ 1 = 1; .*Set gate.threshold=0.9999,"),
        (BetaGate(0.9, prior_alpha=0.1, prior_beta=2.7), 8, "never close"),
        (BetaGate(0.8, CredibleBound(0.95)), 8, None),
        (BetaGate(Linear(0.8, 0.0), horizon=10), 2, None),  # cannot close at first, but will
        (BetaGate(Linear(0.1, 0.0), horizon=10), 8, "never open"),
        (BetaGate(Step(0.8, 0.0, at=1.0), horizon=10), 2, "never close"),  # progress 1 is never reached
        (BetaGate(0.5, prior_beta=1e5), 8, "Set gate.threshold=8.999e-05,"),
        (FailureGate(3), 4, None),
        (FailureGate(4), 4, "never close; set it between 0 and 3"),
        (FailureGate(-1), 4, "never open"),
        (AlwaysGate(), 4, None),
        (NeverGate(), 4, None),
    ],
)
def test_gates_that_could_never_open_or_never_close_are_refused(gate, trials, message):
    if message is None:
        gate.check(trials)
    else:
        with pytest.raises(ValueError, match=message):
            gate.check(trials)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.5}, r"gate.threshold must stay in \[0, 1\], and is 1.5"),
        ({"threshold": Linear(1.5, 0), "horizon": 9}, r"must stay in \[0, 1\], and is 0.16\d* to 1.5"),
        ({"threshold": "high"}, "gate.threshold must be a number or a schedule, got 'high'"),
        ({"threshold": None}, "gate.threshold must be a number or a schedule, got None"),
        ({"threshold": Linear(0.5, 0), "horizon": -5}, "needs a horizon of at least 1 step"),
        ({"threshold": 0.5, "prior_alpha": 0}, "prior must be positive"),
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


def test_a_scheduled_gate_opens_as_often_as_it_says_and_never_after_its_end():
    gate, prompts, rewards = ScheduledGate(Linear(1.0, 0.0), horizon=4), torch.arange(4000), torch.ones(4000, 4)
    for share in (1.0, 0.75, 0.5, 0.25, 0.0, 0.0):
        gate.observe(prompts, prompts * 0, prompts * 0 + 4)
        assert gate.metrics() == {"probability": share}
        open = gate(prompts, rewards).open
        assert float(open.float().mean()) == pytest.approx(share, abs=5 * (share * (1 - share) / 4000) ** 0.5 + 1e-12)
        assert torch.equal(gate(prompts.flip(0), rewards).open.flip(0), open)
    with pytest.raises(ValueError, match=r"must stay in \[0, 1\], and is 0.3 to 1.2"):
        ScheduledGate(Linear(1.2, 0.0), horizon=4)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.8, 1.0])
@every_gate
def test_every_gate_without_a_memory_keeps_to_the_law_it_states(make, rate):
    """Twenty thousand groups of eight at the gate's second visit; five standard errors."""
    gate, groups = make(), 20_000
    opened = gate.open_probability(rate, 8, visit=1)
    if opened is None:
        assert gate.memory.discount > 0
        return
    assert isinstance(gate, HasOpenProbability)
    wins = torch.from_numpy(np.random.default_rng(2).binomial(8, rate, groups))
    for _ in range(2):
        gate.observe(torch.arange(groups), wins, torch.full((groups,), 8))
    observed = float(gate(torch.arange(groups), (torch.arange(8) < wins[:, None]).float()).open.double().mean())
    assert abs(observed - float(opened)) <= 5 * (float(opened) * (1 - float(opened)) / groups) ** 0.5 + 1e-9
    assert gate.open_probability(np.array([rate, rate]), 8, visit=1).tolist() == [float(opened)] * 2


# -- memory


def test_memory_is_a_dictionary_of_counts():
    """A thousand visits with repeats, against the plainest implementation."""
    draw = np.random.default_rng(0)
    for discount in (0.5, 1.0):
        memory, plain = Memory(discount), {}
        pool = draw.integers(-(2**62), 2**62, 700)
        for _ in range(1000):
            ids, won, lost = draw.choice(pool, 7), draw.integers(0, 5, 7), draw.integers(0, 5, 7)
            memory.add(ids, won, lost)
            for prompt in set(ids.tolist()):
                old = plain.get(prompt, (0.0, 0.0))
                new = won[ids == prompt].sum(), lost[ids == prompt].sum()
                plain[prompt] = tuple(discount * before + now for before, now in zip(old, new, strict=True))
        assert len(memory) == len(plain)
        assert memory.counts_of(np.array(list(plain))).tolist() == [list(counts) for counts in plain.values()]
        assert memory.counts_of(np.array([1, 2])).tolist() == [[0, 0], [0, 0]]
        copy = Memory(discount)
        copy.load_state_dict(memory.state_dict())
        assert copy.counts_of(np.array(list(plain))).tolist() == memory.counts_of(np.array(list(plain))).tolist()


def test_memory_survives_ids_that_all_want_one_place():
    ids = np.arange(500) * 2**40  # equal low bits, and few distinct high ones
    memory = Memory(1.0)
    for part in np.split(ids, 5):
        memory.add(part, part % 7, part % 3)
    assert memory.counts_of(ids)[:, 0].tolist() == (ids % 7).tolist()


def test_memory_takes_the_bytes_it_says():
    memory = Memory(1.0)
    for part in np.split(np.random.default_rng(1).integers(0, 2**63 - 1, 200_000), 100):
        memory.add(part, part % 2, part % 3)
    assert memory.nbytes <= 52 * len(memory)
    state = memory.state_dict()
    assert sum(value.nbytes for value in (state["prompt_ids"], state["counts"])) == 24 * len(memory)


def test_the_order_of_visits_leaves_no_trace_in_the_state():
    one, other, ids = Memory(1.0), Memory(1.0), np.arange(1000) * 7919
    one.add(ids, ids % 5, ids % 3)
    for part in np.split(ids[::-1], 10):
        other.add(part, part % 5, part % 3)
    assert str(one.state_dict()) == str(other.state_dict())
    assert torch.equal(one.state_dict()["counts"], other.state_dict()["counts"])


def test_a_memory_longer_than_eternity_is_refused():
    with pytest.raises(ValueError, match="discount must be in"):
        Memory(1.5)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("count", [63, 64, 65, 128, 256, 512])
def test_memory_always_has_a_free_place_where_a_search_can_end(count):
    memory = Memory(1.0)
    memory.add(np.arange(count), np.ones(count), np.ones(count))
    assert memory.counts_of(np.arange(count, 2 * count)).sum() == 0


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (BetaGate(0.5, prior_alpha=2.0), r"another prior of BetaGate \(\(2.0, 1.0\) then, \(1.0, 1.0\) now\)"),
        (BetaGate(0.5, memory=Memory(0.5)), r"another discount of BetaGate \(0.5 then, 0.0 now\)"),
        (BetaGate(0.5, CredibleBound(0.9)), "another rule of BetaGate .*level.*0.9"),
        (BetaGate(0.4), r"another threshold of BetaGate \(\(0.4,\) then, \(0.5,\) now\)"),
        (BetaGate(Linear(0.5, 0.0), horizon=50), "another threshold of BetaGate"),
        (BetaGate(0.5, seed=3), "another seed of BetaGate"),
        (NeverGate(), "holds no BetaGate state .*it had another gate"),
        (ScheduledGate(0.5), "holds no BetaGate state"),
    ],
)
def test_a_checkpoint_of_another_gate_is_refused(other, message):
    with pytest.raises(ResumeError, match=message):
        BetaGate(0.5).load_state_dict(other.state_dict())


def test_gates_without_a_prior_refuse_others_too():
    with pytest.raises(ResumeError, match="NeverGate keeps no state"):
        NeverGate().load_state_dict(BetaGate(0.5).state_dict())
    with pytest.raises(ResumeError, match="another probability of ScheduledGate"):
        ScheduledGate(0.5).load_state_dict(ScheduledGate(0.4).state_dict())
    bound = BetaGate(0.5, CredibleBound(0.5))
    with pytest.raises(ResumeError, match="another rule"):
        bound.load_state_dict(BetaGate(0.5, CredibleBound(0.9)).state_dict())


def test_the_predicted_rate_is_the_law_at_the_posterior_means():
    """γ = 0.2 opens on no success of 4.  Posterior means 1/6 and 4/6: (5/6)^4 and (2/6)^4."""
    gate = BetaGate(0.2)
    assert "predicted" not in gate.metrics()  # nothing was observed yet
    gate.observe(ids(7, 9), ids(0, 3), ids(4, 4))
    assert gate.metrics()["predicted"] == pytest.approx(((5 / 6) ** 4 + (2 / 6) ** 4) / 2)


def test_the_predicted_rate_follows_a_threshold_and_is_missing_where_no_law_is_known():
    falling = BetaGate(Linear(0.3, 0.0), horizon=10)
    for visit in range(10):
        falling.observe(ids(7), ids(0), ids(4))
        assert falling.metrics()["predicted"] == pytest.approx((5 / 6) ** 4 if 0.3 - 0.03 * visit > 1 / 6 else 0.0)
    remembers = BetaGate(0.2, memory=Memory(0.5))
    remembers.observe(ids(7), ids(0), ids(4))
    assert "predicted" not in remembers.metrics()

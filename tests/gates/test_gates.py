"""What holds for every gate; and gates without a posterior."""

import numpy as np
import pytest
import torch
from support.gates import after, ids

from hapo_lit.errors import ResumeError
from hapo_lit.gates import (
    AlwaysGate,
    BetaGate,
    CredibleBound,
    FailureGate,
    Memory,
    NeverGate,
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


@every_gate
def test_a_gate_fits_its_protocol_and_its_decision_is_pure(make):
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
def test_more_successes_never_open_a_closed_gate(make):
    opens = [bool(after(make(), successes, 8).open) for successes in range(9)]
    assert opens == sorted(opens, reverse=True)


@every_gate
def test_a_gate_restored_from_its_state_decides_alike(make):
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
def test_every_gate_without_a_memory_opens_as_often_as_it_states(make, rate):
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

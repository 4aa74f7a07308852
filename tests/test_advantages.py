from math import sqrt

import pytest
import torch

from hapo_lit.advantages import GroupCentred, GroupNormalised, LeaveOneOut, SpareFailures
from hapo_lit.protocols import AdvantageEstimator

ESTIMATORS = {
    "sample": lambda: GroupNormalised(ddof=1, eps=0.0),
    "population": lambda: GroupNormalised(ddof=0, eps=1e-6),
    "centred": GroupCentred,
    "leave_one_out": LeaveOneOut,
    "spare": lambda: SpareFailures(GroupNormalised()),
}
every_estimator = pytest.mark.parametrize("make", ESTIMATORS.values(), ids=ESTIMATORS.keys())


def credit(estimator, rewards, teacher=None, present=None):
    reward = torch.tensor(rewards, dtype=torch.float64)
    return estimator(
        reward,
        torch.tensor(teacher).bool() if teacher else torch.zeros_like(reward, dtype=torch.bool),
        torch.tensor(present).bool() if present else torch.ones_like(reward, dtype=torch.bool),
    )


@every_estimator
def test_contract(make):
    estimator = make()
    assert isinstance(estimator, AdvantageEstimator)
    rewards, present = [[1.0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0.1, 0.1, 0.1, 0.1]], [[1, 1, 0, 1]] * 4
    advantages = credit(estimator, rewards, present=present)
    assert advantages.isfinite().all()
    assert (advantages[:, 2] == 0).all()  # absent
    assert (advantages[1:] == 0).all()  # no signal: exact zeros, also where the mean of 0.1s is not 0.1
    assert advantages[0, 0] > 0
    assert advantages[0].sum() == pytest.approx(0)


@every_estimator
def test_order_within_a_group_does_not_matter(make):
    there = credit(make(), [[1.0, 0, 0, 1, 0]])
    back = credit(make(), [[0.0, 1, 0, 0, 1]])
    assert torch.equal(there.flip(1), back)


@every_estimator
def test_absent_rows_change_nothing(make):
    alone = credit(make(), [[1.0, 0, 0]])
    beside = credit(make(), [[1.0, 0, 0, 1]], present=[[1, 1, 1, 0]])
    assert torch.equal(alone, beside[:, :3])


@pytest.mark.parametrize("size", [2, 4, 8])
def test_one_success_among_n(size):
    # sample std of one 1 among N: sqrt(1/N), so (1 − 1/N)/sqrt(1/N) = (N−1)/√N and −1/√N
    advantages = credit(GroupNormalised(ddof=1, eps=0.0), [[1.0] + [0.0] * (size - 1)])[0]
    assert advantages[0] == pytest.approx((size - 1) / sqrt(size))
    assert advantages[1] == pytest.approx(-1 / sqrt(size))
    # population std: sqrt((N−1)/N²), so √(N−1)
    assert credit(GroupNormalised(ddof=0, eps=0.0), [[1.0] + [0.0] * (size - 1)])[0, 0] == pytest.approx(sqrt(size - 1))


def test_paper_group_of_eight():
    advantages = credit(GroupNormalised(eps=0.0), [[1.0] * 7 + [0.0]])[0]  # S = 6, then the teacher
    assert advantages[0] == pytest.approx(0.354, abs=5e-4)
    assert advantages[7] == pytest.approx(-2.475, abs=5e-4)


def test_group_of_four_by_hand():
    # [1, 1, 0, 0]: mean 1/2, sample variance 1/3, population variance 1/4
    assert credit(GroupNormalised(ddof=1, eps=0.0), [[1.0, 1, 0, 0]])[0].tolist() == pytest.approx(
        [sqrt(3) / 2] * 2 + [-sqrt(3) / 2] * 2
    )
    assert credit(GroupNormalised(ddof=0, eps=0.5), [[1.0, 1, 0, 0]])[0].tolist() == pytest.approx(
        [0.5] * 2 + [-0.5] * 2
    )
    assert credit(GroupCentred(), [[1.0, 1, 0, 0]])[0].tolist() == [0.5, 0.5, -0.5, -0.5]
    assert credit(LeaveOneOut(), [[1.0, 1, 0, 0]])[0].tolist() == pytest.approx([2 / 3] * 2 + [-2 / 3] * 2)


def test_leave_one_out_is_reward_minus_the_mean_of_the_others():
    rewards = [0.3, 1.0, 0.0, 0.7, 0.2]
    expected = [r - (sum(rewards) - r) / 4 for r in rewards]
    assert credit(LeaveOneOut(), [rewards])[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rewards", "teacher", "spared"),
    [
        ([1.0, 0, 0, 0], [1, 0, 0, 0], True),  # the teacher is the only success
        ([1.0, 1, 0, 0], [1, 0, 0, 0], False),  # the policy succeeded too
        ([1.0, 0, 0, 0], [0, 0, 0, 0], False),  # no teacher
    ],
)
def test_failures_are_spared_only_beside_a_lonely_teacher(rewards, teacher, spared):
    plain = credit(GroupNormalised(), [rewards], [teacher])[0]
    kind = credit(SpareFailures(GroupNormalised()), [rewards], [teacher])[0]
    success = torch.tensor(rewards) > 0
    assert torch.equal(kind[success], plain[success])
    assert (kind[~success] == 0).all() if spared else torch.equal(kind, plain)

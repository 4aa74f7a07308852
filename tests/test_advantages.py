from dataclasses import fields, replace
from math import sqrt

import pytest
import torch
from support.builders import make_group

from hapo_lit.advantages import (
    BatchWhitened,
    GroupCentred,
    GroupNormalised,
    LeaveOneOut,
    SoftOverlong,
    SpareFailures,
    centred,
    on_policy,
    whole_group,
)
from hapo_lit.protocols import AdvantageEstimator

ESTIMATORS = {
    "sample": lambda over: GroupNormalised(ddof=1, eps=0.0, over=over),
    "population": lambda over: GroupNormalised(ddof=0, eps=1e-6, over=over),
    "centred": GroupCentred,
    "leave_one_out": LeaveOneOut,
    "whitened": lambda over: BatchWhitened(over=over),
    "spare": lambda over: SpareFailures(GroupNormalised(over=over)),
    "soft_overlong": lambda over: SoftOverlong(GroupNormalised(over=over), max_length=100),
}
every_estimator = pytest.mark.parametrize("make", ESTIMATORS.values(), ids=ESTIMATORS.keys())
either = pytest.mark.parametrize("over", [whole_group, on_policy])


def group_of(rewards, teacher=None, present=None, lengths=None):
    group = make_group(rewards, teacher, present, lengths or [[2] * len(rewards[0])] * len(rewards))
    return replace(group, rewards=group.rewards.double())


def credit(estimator, rewards, teacher=None, present=None, lengths=None):
    return estimator(group_of(rewards, teacher, present, lengths), lambda value: value)


@either
@every_estimator
def test_contract(make, over):
    estimator = make(over)
    assert isinstance(estimator, AdvantageEstimator)
    rewards, present = [[1.0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0.1, 0.1, 0.1, 0.1]], [[1, 1, 0, 1]] * 4
    group = group_of(rewards, present=present)
    held = {field.name: getattr(group, field.name).clone() for field in fields(group)}
    advantages = estimator(group, lambda value: value)
    assert all(torch.equal(getattr(group, name), value) for name, value in held.items())
    assert advantages.isfinite().all()
    assert (advantages[:, 2] == 0).all()  # absent
    assert advantages[0, 0] > 0
    if not isinstance(estimator, BatchWhitened):  # which moves by the mean of the batch
        assert (advantages[1:] == 0).all()  # no signal: exact zeros, also where the mean of 0.1s is not 0.1
        assert advantages[0].sum() == pytest.approx(0)


@either
@every_estimator
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_constant_rewards_give_exact_zeros(make, over, value):
    advantages = credit(make(over), [[value] * 4] * 3, teacher=[[0, 0, 0, 1], [0] * 4, [0, 1, 0, 0]])
    assert (advantages == 0).all()


@either
@every_estimator
def test_a_teacher_beside_failures_is_credited_and_finite(make, over):
    advantages = credit(make(over), [[0.0, 0, 0, 1]], teacher=[[0, 0, 0, 1]])
    assert advantages.isfinite().all()
    assert 0 < advantages[0, 3] < 3
    assert (advantages[0, :3] <= 0).all()


@either
@every_estimator
def test_a_batch_of_failures_with_teachers_beside_them_stays_small(make, over):
    """Advantage collapse, the project's own case: no spread among the policy's rows anywhere."""
    advantages = credit(make(over), [[0.0, 0, 0, 1]] * 3, teacher=[[0, 0, 0, 1]] * 3)
    assert (advantages[:, 3] > 0).all()
    assert advantages.abs().max() < 3


@pytest.mark.parametrize("name", ["sample", "population", "centred", "leave_one_out", "soft_overlong"])
def test_statistics_over_on_policy_rows_do_not_know_the_teacher(name):
    rewards, teacher = [[1.0, 0, 0, 1], [0, 0, 0, 1], [1, 1, 0, 1]], [[0, 0, 0, 1]] * 3
    apart = credit(ESTIMATORS[name](on_policy), rewards, teacher)
    alone = credit(ESTIMATORS[name](whole_group), [row[:3] for row in rewards])
    assert torch.equal(apart[:, :3], alone)
    together = credit(ESTIMATORS[name](whole_group), rewards, teacher)
    assert not torch.equal(apart, together)


def test_a_teacher_outside_the_statistics_by_hand():
    # μ = 1/3 over [1, 0, 0], sample σ = √(1/3); the teacher is not one of the others, so LeaveOneOut gives it r − μ
    group = ([[1.0, 0, 0, 1]], [[0, 0, 0, 1]])
    assert credit(GroupCentred(on_policy), *group)[0, 3] == pytest.approx(2 / 3)
    assert credit(GroupNormalised(eps=0.0, over=on_policy), *group)[0, 3] == pytest.approx(2 / 3 * sqrt(3))
    assert credit(LeaveOneOut(on_policy), *group)[0].tolist() == pytest.approx([1, -1 / 2, -1 / 2, 2 / 3])
    # no spread among the failures: no scale, and the teacher keeps r − μ = 1
    assert credit(GroupNormalised(over=on_policy), [[0.0, 0, 0, 1]], [[0, 0, 0, 1]])[0].tolist() == [0, 0, 0, 1]


@every_estimator
def test_order_within_a_group_does_not_matter(make):
    there = credit(make(whole_group), [[1.0, 0, 0, 1, 0]])
    back = credit(make(whole_group), [[0.0, 1, 0, 0, 1]])
    assert torch.equal(there.flip(1), back)


@every_estimator
def test_absent_rows_change_nothing(make):
    alone = credit(make(whole_group), [[1.0, 0, 0]])
    beside = credit(make(whole_group), [[1.0, 0, 0, 1]], present=[[1, 1, 1, 0]])
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


def test_whitening_by_hand():
    # r − μ = [½, −½], [½, −½]; lengths 3, 1, 1, 1 give a token mean of (1.5 − .5 + .5 − .5)/6 = 1/6
    rewards, lengths = [[1.0, 0], [1, 0]], [[3, 1], [1, 1]]
    mean = 1 / 6
    variance = (3 * (0.5 - mean) ** 2 + (0.5 - mean) ** 2 + 2 * (0.5 + mean) ** 2) / 6
    expected = [[(0.5 - mean) / sqrt(variance), (-0.5 - mean) / sqrt(variance)]] * 2
    found = credit(BatchWhitened(eps=0.0), rewards, lengths=lengths)
    assert found.tolist() == [pytest.approx(row) for row in expected]
    tokens = torch.tensor(lengths).double()
    assert float((found * tokens).sum()) == pytest.approx(0)
    assert float((found.square() * tokens).sum() / tokens.sum()) == pytest.approx(1)


def test_whitening_is_that_of_the_whole_batch_on_every_rank():
    rewards, lengths = [[1.0, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]], [[3, 1, 2], [1, 1, 4], [2, 2, 2], [5, 1, 1]]
    group = group_of(rewards, lengths=lengths)
    whole = BatchWhitened()(group, lambda value: value)
    halves = [
        replace(group, **{field.name: getattr(group, field.name)[cut] for field in fields(group)})
        for cut in (slice(0, 2), slice(2, 4))
    ]
    # each rank asks for means in the same order: play the questions of both until all answers are known
    answers: list[float] = []
    for question in range(4):
        asked: list[list[float]] = []
        for half in halves:
            questions: list[float] = []

            def mean(value, questions=questions):
                questions.append(value)
                return answers[len(questions) - 1] if len(questions) <= len(answers) else value

            BatchWhitened()(half, mean)
            asked.append(questions)
        if question >= len(asked[0]):
            break
        answers.append((asked[0][question] + asked[1][question]) / 2)
    parts = []
    for half in halves:
        given = iter(answers)
        parts.append(BatchWhitened()(half, lambda value, given=given: next(given)))
    assert torch.allclose(torch.cat(parts), whole, rtol=1e-12, atol=0)


def test_soft_overlong_penalty_by_hand():
    # L_max = 10, the last 4 of them: nothing up to 6 tokens, then a quarter of ½ a token; never for the teacher
    group = group_of([[1.0, 1, 1, 1, 1]], teacher=[[0, 0, 0, 0, 1]], lengths=[[6, 7, 9, 10, 10]])
    seen = []

    class Witness(GroupCentred):
        def __call__(self, group, mean):
            seen.append(group.rewards[0].tolist())
            return super().__call__(group, mean)

    SoftOverlong(Witness(), 10, buffer_share=0.4)(group, lambda value: value)
    assert seen == [pytest.approx([1.0, 0.875, 0.625, 0.5, 1.0])]
    assert group.rewards.tolist() == [[1.0] * 5]
    for arguments, message in (
        ({"buffer_share": 0}, r"buffer_share must be in \(0, 1\]"),
        ({"penalty": -1}, "penalty"),
    ):
        with pytest.raises(ValueError, match=message):
            SoftOverlong(GroupCentred(), 10, **arguments)


def test_half_the_penalty_on_rewards_of_0_and_1_is_the_papers_on_rewards_of_plus_and_minus_one():
    lengths = [[9, 3, 3, 9]]
    ours = credit(SoftOverlong(GroupNormalised(eps=0.0), 10, 0.4), [[1.0, 0, 0, 0]], lengths=lengths)
    theirs = credit(SoftOverlong(GroupNormalised(eps=0.0), 10, 0.4, 1.0), [[1.0, -1, -1, -1]], lengths=lengths)
    assert ours.tolist() == [pytest.approx(row) for row in theirs.tolist()]


def test_statistics_are_named_by_functions_of_a_group():
    with pytest.raises(ValueError, match=r"advantage\.over must be a function of 1 tensors, and 'centred' is not"):
        GroupCentred(over=centred)

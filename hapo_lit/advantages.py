"""Advantage estimators: rewards of a group -> credit of each row.

``r`` rewards; ``μ`` their mean and ``σ`` their standard deviation over the rows that ``over`` counts: all that are
present, teacher included (:func:`whole_group`), or only what the policy sampled (:func:`on_policy`).  Rows whose
rewards are all equal carry no signal and get exact zeros, decided by equality; a teacher beside them, if it is not
counted itself, gets ``r − μ``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from hapo_lit.contracts import check_part
from hapo_lit.numerics.masked import all_equal, divisor, masked_mean, masked_std
from hapo_lit.numerics.ranges import SettingError, check_count, check_not_negative, check_share
from hapo_lit.protocols import AdvantageEstimator, Mean, check_function
from hapo_lit.types import RolloutGroup

RowMask = Callable[[RolloutGroup], Tensor]
"""Group -> ``[P, G] bool``: the rows whose rewards make the statistics."""


def whole_group(group: RolloutGroup) -> Tensor:
    """Statistics over the whole group, teacher included: HAPO's augmented group."""
    return group.present


def on_policy(group: RolloutGroup) -> Tensor:
    """Statistics over the policy's own rows: a teacher row does not change the advantage of any other row."""
    return group.on_policy


class GroupNormalised:
    """``(r − μ) / (σ + eps)``: GRPO (arXiv 2402.03300), and Eq. 2 of HAPO on the augmented group.

    Args:
        ddof: 1 = sample standard deviation (divisor n − 1, as in verl and torch's default), 0 = population.
        eps: added to σ; 1e-6 as in verl's GRPO.
        over: whose rewards make μ and σ, :func:`whole_group` or :func:`on_policy`.

    With one success among N rows and ``eps=0`` the success gets (N−1)/√N and each failure −1/√N.  Where the counted
    rows are all equal there is no scale, and what differs from them keeps ``r − μ``.
    """

    def __init__(self, ddof: int = 1, eps: float = 1e-6, over: RowMask = whole_group) -> None:
        self.ddof, self.eps = check_count("ddof", ddof, least=0, most=1), check_not_negative("eps", eps)
        self.over = _checked(over)

    def __call__(self, group: RolloutGroup, mean: Mean) -> Tensor:
        counted = self.over(group)
        spread = masked_std(group.rewards, counted, 1, self.ddof) + self.eps
        return centred(group, counted) / torch.where(all_equal(group.rewards, counted, 1), 1.0, spread)


class GroupCentred:
    """``r − μ``: Dr. GRPO (arXiv 2503.20783), and LUFFY's setting.

    Args:
        over: whose rewards make μ, :func:`whole_group` or :func:`on_policy`.
    """

    def __init__(self, over: RowMask = whole_group) -> None:
        self.over = _checked(over)

    def __call__(self, group: RolloutGroup, mean: Mean) -> Tensor:
        return centred(group, self.over(group))


class LeaveOneOut:
    """``r −`` mean of the other counted rows: ``n/(n−1) · (r − μ)`` for a row that counts, RLOO (arXiv 2402.14740).

    Args:
        over: whose rewards make the baseline, :func:`whole_group` or :func:`on_policy`.
    """

    def __init__(self, over: RowMask = whole_group) -> None:
        self.over = _checked(over)

    def __call__(self, group: RolloutGroup, mean: Mean) -> Tensor:
        counted = self.over(group)
        count = counted.sum(1, keepdim=True)
        return centred(group, counted) * torch.where(counted, count / (count - 1).clamp(min=1), 1.0)


class BatchWhitened:
    """``r − μ`` of the group, then whitened over all tokens of the batch: REINFORCE++-baseline (arXiv 2501.03262).

    Mean and variance weigh each row by its length, as every token carries its row's advantage, over the counted rows
    of all ranks.  The mean of the batch is subtracted, so that the rows of a group without signal get the same small
    credit and not exactly zero, as in the paper.  A batch without any signal gets exact zeros: it has no scale, and a
    teacher that is not counted keeps ``r − μ``.

    Args:
        eps: added to the variance (population, as in OpenRLHF; verl's divides by one token less); 1e-8 as in verl.
        over: whose rewards and tokens make the statistics, :func:`whole_group` or :func:`on_policy`.
    """

    def __init__(self, eps: float = 1e-8, over: RowMask = whole_group) -> None:
        self.eps, self.over = check_not_negative("eps", eps), _checked(over)

    def __call__(self, group: RolloutGroup, mean: Mean) -> Tensor:
        counted = self.over(group)
        credit = centred(group, counted)
        tokens = torch.where(counted, group.mask.sum(2).to(credit), 0.0)
        total = divisor(mean(tokens.sum()))
        centre = mean((credit * tokens).sum()) / total
        variance = mean(((credit - centre).square() * tokens).sum()) / total
        scale = torch.where(variance == 0, 1.0, (variance + self.eps).sqrt())
        return torch.where(group.present, (credit - centre) / scale, 0.0)


class SpareFailures:
    """Wraps an estimator: where the teacher is the group's only success, failures get advantage 0, not a negative one.

    Such a group does not say which of the policy's answers was worse, and negative advantages for all of them push the
    policy away from whatever it samples.  It also halves the work, as rows with advantage 0 are not run through the
    policy.
    """

    def __init__(self, estimator: AdvantageEstimator) -> None:
        check_part("advantage.estimator", estimator, AdvantageEstimator)
        self.estimator = estimator

    def __call__(self, group: RolloutGroup, mean: Mean) -> Tensor:
        advantages = self.estimator(group, mean)
        success = group.successes & group.present
        by_teacher, by_policy = success & group.is_teacher, success & group.on_policy
        teacher_only = by_teacher.any(1, keepdim=True) & ~by_policy.any(1, keepdim=True)
        return torch.where(teacher_only & ~success, 0.0, advantages)


class SoftOverlong:
    """Wraps an estimator: sampled answers that come near the length limit lose reward (DAPO, arXiv 2503.14476, Eq. 13).

    ``r + penalty · min(0, (L_max − L_buffer − length) / L_buffer)``: nothing up to ``L_max − L_buffer`` tokens,
    ``−penalty`` at ``L_max``.  What the gate counts as a success is not changed.

    Args:
        estimator: credits the reduced rewards.
        max_length: L_max, the length limit in tokens.
        buffer_share: ``L_buffer / L_max``; DAPO has 4096 of 20480.
        penalty: the largest loss; DAPO's is 1 with rewards of ±1, hence half of that with rewards of 0 and 1.
    """

    def __init__(
        self, estimator: AdvantageEstimator, max_length: int, buffer_share: float = 0.2, penalty: float = 0.5
    ) -> None:
        check_part("advantage.estimator", estimator, AdvantageEstimator)
        if not check_share("buffer_share", buffer_share) > 0:
            raise SettingError("buffer_share", f"must be in (0, 1], got {buffer_share}")
        self.estimator, self.max_length = estimator, check_count("max_length", max_length)
        self.buffer, self.penalty = buffer_share * max_length, check_not_negative("penalty", penalty)

    def __call__(self, group: RolloutGroup, mean: Mean) -> Tensor:
        excess_PG = (group.mask.sum(2).to(group.rewards) - (self.max_length - self.buffer)) / self.buffer
        penalty_PG = torch.where(group.on_policy, self.penalty * excess_PG.clamp(min=0, max=1), 0.0)
        return self.estimator(replace(group, rewards=group.rewards - penalty_PG), mean)


def _checked(over: RowMask) -> RowMask:
    check_function(over, 1, "advantage.over")
    return over


def centred(group: RolloutGroup, counted: Tensor) -> Tensor:
    """``r − μ``, exactly 0 wherever counted rows are all equal and this one is too, and on absent rows."""
    flat = all_equal(group.rewards, counted, 1) & counted.any(1, keepdim=True)
    level = torch.where(counted, group.rewards, -torch.inf).amax(1, keepdim=True)  # of flat groups, the reward of each
    baseline = torch.where(flat, level, masked_mean(group.rewards, counted, 1))
    return torch.where(group.present, group.rewards - baseline, 0.0)

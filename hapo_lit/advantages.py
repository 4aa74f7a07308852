"""Advantage estimators: rewards of a group -> credit of each row.

``r`` rewards, ``μ`` their mean and ``σ`` their standard deviation over the rows that are present, teacher included.
A group whose rewards are all equal carries no signal and gets exact zeros, decided by equality.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hapo_lit.masked import all_equal, masked_mean, masked_std
from hapo_lit.protocols import AdvantageEstimator


class GroupNormalised:
    """``(r − μ) / (σ + eps)``: GRPO (arXiv 2402.03300), and Eq. 2 of HAPO on the augmented group.

    Args:
        ddof: 1 = sample standard deviation (divisor n − 1, as in verl and torch's default), 0 = population.
        eps: added to σ; 1e-6 as in verl's GRPO.

    With one success among N rows and ``eps=0`` the success gets (N−1)/√N and each failure −1/√N.
    """

    def __init__(self, ddof: int = 1, eps: float = 1e-6) -> None:
        self.ddof, self.eps = ddof, eps

    def __call__(self, rewards: Tensor, is_teacher: Tensor, present: Tensor) -> Tensor:
        centred = _centred(rewards, present)
        spread = masked_std(rewards, present, 1, self.ddof) + self.eps
        return torch.where(centred == 0, centred, centred / spread)


class GroupCentred:
    """``r − μ``: Dr. GRPO (arXiv 2503.20783), and LUFFY's setting."""

    def __call__(self, rewards: Tensor, is_teacher: Tensor, present: Tensor) -> Tensor:
        return _centred(rewards, present)


class LeaveOneOut:
    """``r −`` mean of the others ``= n/(n−1) · (r − μ)``: RLOO (arXiv 2402.14740)."""

    def __call__(self, rewards: Tensor, is_teacher: Tensor, present: Tensor) -> Tensor:
        count = present.sum(1, keepdim=True)
        return _centred(rewards, present) * count / (count - 1).clamp(min=1)


class SpareFailures:
    """Wraps an estimator: where the teacher is the group's only success, the failures get 0 instead of blame.

    Such a group says nothing about which of the policy's answers was worse; blaming them all pushes the policy away
    from what it samples.  It also halves the work, as rows without credit are not run through the policy.
    """

    def __init__(self, estimator: AdvantageEstimator) -> None:
        self.estimator = estimator

    def __call__(self, rewards: Tensor, is_teacher: Tensor, present: Tensor) -> Tensor:
        advantages = self.estimator(rewards, is_teacher, present)
        success = (rewards > 0) & present
        alone = (success & is_teacher).any(1, keepdim=True) & ~(success & ~is_teacher).any(1, keepdim=True)
        return torch.where(alone & ~success, 0.0, advantages)


def _centred(rewards: Tensor, present: Tensor) -> Tensor:
    """``r − μ``, exactly 0 in groups without signal and on absent rows."""
    silent = all_equal(rewards, present, 1) | ~present
    return torch.where(silent, 0.0, rewards - masked_mean(rewards, present, 1))

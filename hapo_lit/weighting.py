"""Token weighting: how much each token counts in the loss ``Σ w · ℓ``.

The weights are normalised once, over the whole batch and all ranks, so that the loss does not depend on how the batch
is split into micro-batches.  ``mean`` averages over ranks; gradients are averaged over ranks too, so dividing by the
rank-mean of the denominator gives the loss of the global batch.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from hapo_lit.numerics.masked import all_equal
from hapo_lit.protocols import Mean, TokenWeighting
from hapo_lit.schedules import Schedule, StepSchedule
from hapo_lit.types import RolloutGroup


class TokenMean:
    """``1 / Σ len``: every token has the same weight (DAPO, arXiv 2503.14476; Eqs. 3 and 8 of HAPO)."""

    def __call__(self, group: RolloutGroup, mean: Mean, step: int) -> Tensor:
        counted = _counted(group)
        return counted / mean(counted.sum()).clamp(min=1)


class SequenceMean:
    """``1 / (N · lenᵢ)``: every response has the same weight, which its tokens share (GRPO, arXiv 2402.03300)."""

    def __call__(self, group: RolloutGroup, mean: Mean, step: int) -> Tensor:
        counted = _counted(group)
        rows = group.present.sum().to(counted)
        return counted / counted.sum(2, keepdim=True).clamp(min=1) / mean(rows).clamp(min=1)


class ConstantLength:
    """``1 / (N · max_length)``: a divisor that does not depend on sampled lengths (Dr. GRPO, arXiv 2503.20783)."""

    def __init__(self, max_length: int) -> None:
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}")
        self.max_length = max_length

    def __call__(self, group: RolloutGroup, mean: Mean, step: int) -> Tensor:
        counted = _counted(group)
        rows = group.present.sum().to(counted)
        return counted / (mean(rows).clamp(min=1) * self.max_length)


class DropTruncated:
    """Wraps a weighting: responses that ran into the length limit do not count (DAPO's overlong filtering, §3.4).

    Their tokens leave the loss and a token mean's denominator; a sequence mean still divides by all rows.
    """

    def __init__(self, weighting: TokenWeighting) -> None:
        self.weighting = weighting

    def __call__(self, group: RolloutGroup, mean: Mean, step: int) -> Tensor:
        return self.weighting(replace(group, mask=group.mask & group.finished[..., None]), mean, step)


class DropFlat:
    """Wraps a weighting: groups without signal (two rows or more, all rewards equal) do not count at all.

    The half of DAPO's dynamic sampling that needs no second rollout (arXiv 2503.14476, §3.2): tokens of groups without
    signal leave the denominator of the others.  The groups are not sampled again.
    """

    def __init__(self, weighting: TokenWeighting) -> None:
        self.weighting = weighting

    def __call__(self, group: RolloutGroup, mean: Mean, step: int) -> Tensor:
        flat = all_equal(group.rewards, group.present, 1) & (group.present.sum(1, keepdim=True) > 1)
        return self.weighting(replace(group, present=group.present & ~flat), mean, step)


class SeparateMeans:
    """The policy's rows and the teacher's rows are averaged separately, then added.

    ``policy_share · w(rollouts) + teacher_share · w'(teacher rows)``, each with a denominator of its own: the sum of an
    RL loss and an SFT loss, as in CHORD (arXiv 2508.11408: 1 − μ and μ), HPT and ReLIFT (1 and 1).

    Args:
        policy: weighting of the policy's rows, computed without the teacher's.
        teacher: weighting of the teacher's rows, computed without the policy's.
        policy_share: factor of the policy's part, a number or a schedule over ``horizon`` steps.
        teacher_share: factor of the teacher's part, likewise.
        horizon: steps the schedules run over.
    """

    def __init__(
        self,
        policy: TokenWeighting,
        teacher: TokenWeighting,
        policy_share: float | Schedule = 1.0,
        teacher_share: float | Schedule = 1.0,
        horizon: int | None = None,
    ) -> None:
        self.policy, self.teacher = policy, teacher
        self.policy_share = StepSchedule(policy_share, horizon, "weighting.policy_share")
        self.teacher_share = StepSchedule(teacher_share, horizon, "weighting.teacher_share")

    def __call__(self, group: RolloutGroup, mean: Mean, step: int) -> Tensor:
        sampled = self.policy(replace(group, present=group.on_policy), mean, step)
        taught = self.teacher(replace(group, present=group.present & group.is_teacher), mean, step)
        return self.policy_share(step) * sampled + self.teacher_share(step) * taught


def _counted(group: RolloutGroup) -> Tensor:
    """``[P, G, T]``, 1 on the tokens of rows that are present."""
    return (group.mask & group.present[..., None]).to(group.rewards.dtype)

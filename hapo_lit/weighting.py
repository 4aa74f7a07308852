"""Token weighting: how much each token counts in the loss ``Σ w · ℓ``.

The weights are normalised once, over the whole batch and all ranks, so that the loss does not depend on how the batch
is split into micro-batches.  ``mean`` averages over ranks; gradients are averaged over ranks too, so dividing by the
rank-mean of the denominator gives the loss of the global batch.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hapo_lit.contracts import check_part, weighed
from hapo_lit.numerics.masked import all_equal, divisor
from hapo_lit.numerics.ranges import SettingError, check_count, check_positive
from hapo_lit.protocols import HasEntropyWeights, Mean, TokenWeighting
from hapo_lit.schedules import Schedule, StepSchedule
from hapo_lit.types import RolloutGroup


class TokenMean:
    """``1 / Σ len``: every token has the same weight (DAPO, arXiv 2503.14476; Eqs. 3 and 8 of HAPO)."""

    def __call__(self, group: RolloutGroup, mean: Mean, step: int) -> Tensor:
        counted = _counted(group)
        return counted / divisor(mean(counted.sum()))


class SequenceMean:
    """``1 / (N · lenᵢ)``: every response has the same weight, which its tokens share (GRPO, arXiv 2402.03300)."""

    def __call__(self, group: RolloutGroup, mean: Mean, step: int) -> Tensor:
        counted = _counted(group)
        rows = group.present.sum().to(counted)
        return counted / counted.sum(2, keepdim=True).clamp(min=1) / divisor(mean(rows))


class ConstantLength:
    """``1 / (N · max_length)``: a divisor that does not depend on sampled lengths (Dr. GRPO, arXiv 2503.20783)."""

    def __init__(self, max_length: int) -> None:
        self.max_length = check_count("max_length", max_length)

    def __call__(self, group: RolloutGroup, mean: Mean, step: int) -> Tensor:
        counted = _counted(group)
        rows = group.present.sum().to(counted)
        return counted / (divisor(mean(rows)) * self.max_length)


class DropTruncated:
    """Wraps a weighting: responses that ran into the length limit do not count (DAPO's overlong filtering, §3.4).

    Their tokens leave the loss and a token mean's denominator; a sequence mean still divides by all rows.
    """

    def __init__(self, weighting: TokenWeighting) -> None:
        check_part("weighting.weighting", weighting, TokenWeighting)
        self.weighting = weighting

    def __call__(self, group: RolloutGroup, mean: Mean, step: int) -> Tensor:
        return self.weighting(self._kept(group), mean, step)

    def entropy_weights(self, group: RolloutGroup, mean: Mean, step: int) -> Tensor:
        """``[P, G, T]``: those of the weighting inside, without truncated responses."""
        return _entropy_weights(self.weighting, self._kept(group), mean, step)

    def _kept(self, group: RolloutGroup) -> RolloutGroup:
        return replace(group, mask=group.mask & group.finished[..., None])


class DropFlat:
    """Wraps a weighting: groups without signal (two rows or more, all rewards equal) do not count at all.

    The half of DAPO's dynamic sampling that needs no second rollout (arXiv 2503.14476, §3.2): tokens of groups without
    signal leave the denominator of the others.  The groups are not sampled again.
    """

    def __init__(self, weighting: TokenWeighting) -> None:
        check_part("weighting.weighting", weighting, TokenWeighting)
        self.weighting = weighting

    def __call__(self, group: RolloutGroup, mean: Mean, step: int) -> Tensor:
        return self.weighting(self._kept(group), mean, step)

    def entropy_weights(self, group: RolloutGroup, mean: Mean, step: int) -> Tensor:
        """``[P, G, T]``: those of the weighting inside, without flat groups."""
        return _entropy_weights(self.weighting, self._kept(group), mean, step)

    def _kept(self, group: RolloutGroup) -> RolloutGroup:
        flat = all_equal(group.rewards, group.present, 1) & (group.present.sum(1, keepdim=True) > 1)
        return replace(group, present=group.present & ~flat)


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
        check_part("weighting.policy", policy, TokenWeighting)
        check_part("weighting.teacher", teacher, TokenWeighting)
        self.policy, self.teacher = policy, teacher
        self.policy_share = StepSchedule(policy_share, horizon, "weighting.policy_share")
        self.teacher_share = StepSchedule(teacher_share, horizon, "weighting.teacher_share")
        for share in (self.policy_share, self.teacher_share):
            share.check_within(0, math.inf, share.name)
        if not any((*self.policy_share.values(), *self.teacher_share.values())):
            raise ValueError("weighting.policy_share and weighting.teacher_share are both 0, so that nothing is learnt")

    def __call__(self, group: RolloutGroup, mean: Mean, step: int) -> Tensor:
        sampled = self.policy(replace(group, present=group.on_policy), mean, step)
        taught = self.teacher(replace(group, present=group.present & group.is_teacher), mean, step)
        return self.policy_share(step) * sampled + self.teacher_share(step) * taught


class DeviceSums:
    """``1 / (devices · max_length)``, where a device has ``rows`` rows: the sums of LUFFY's and RL-PLUS's scripts.

    There a device divides the sum over the rows of its mini-batch by the length limit alone, and the entropy bonus is a
    token mean of each micro-batch, added over micro-batches.  A device has ``K`` of them, as many as hold its tokens,
    prompts included, so that the entropy at a token weighs ``K / Σ len`` of a device (:meth:`entropy_weights`).  A
    batch of any size is weighed as if it filled devices with rows such as its own.

    Args:
        max_length: the length limit in tokens.
        rows: of a device in one update: 64 prompts of 8 rows on 8 devices in these scripts.
        micro_batch_lengths: tokens of a micro-batch over ``max_length``; 32768 / 8192 in these scripts.
    """

    def __init__(self, max_length: int, rows: int = 64, micro_batch_lengths: float = 4.0) -> None:
        self.max_length, self.rows = check_count("max_length", max_length), check_count("rows", rows)
        if check_positive("micro_batch_lengths", micro_batch_lengths) < 1:
            raise SettingError("micro_batch_lengths", f"must be at least 1, got {micro_batch_lengths}")
        self.micro_batch_lengths = micro_batch_lengths

    def __call__(self, group: RolloutGroup, mean: Mean, step: int) -> Tensor:
        counted = _counted(group)
        return counted * self.rows / (_row_count(group, mean) * self.max_length)

    def entropy_weights(self, group: RolloutGroup, mean: Mean, step: int) -> Tensor:
        """``[P, G, T]``: the token means of a device's micro-batches, added."""
        counted = _counted(group)
        return counted * self.micro_batches(group, mean) / divisor(mean(counted.sum()))

    def micro_batches(self, group: RolloutGroup, mean: Mean) -> Tensor:
        """K, the micro-batches that hold the tokens of a device."""
        prompt_tokens = group.prompt_mask.sum(1) * group.present.sum(1)
        tokens = mean(_counted(group).sum() + prompt_tokens.sum())
        of_device = self.rows * tokens / _row_count(group, mean)
        return torch.ceil(of_device / (self.micro_batch_lengths * self.max_length)).clamp(min=1)


class DeviceSumsAndMeans(DeviceSums):
    """Rollouts as in :class:`DeviceSums`; teacher rows by the token mean of each micro-batch, added: HPT's script.

    Which rows share a micro-batch is chance there.  As many means are added as micro-batches hold a teacher row on
    average: ``K (1 − C(R − m, s) / C(R, s))`` if ``m`` of a device's ``R`` rows are the teacher's and a micro-batch has
    ``s = R/K``.
    """

    def __call__(self, group: RolloutGroup, mean: Mean, step: int) -> Tensor:
        taught = _counted(group) * group.is_teacher[..., None]
        count = self.micro_batches(group, mean)
        teachers = mean((group.present & group.is_teacher).sum().to(taught)) * self.rows / _row_count(group, mean)
        means = taught * self._holding(count, teachers) / divisor(mean(taught.sum()))
        return torch.where(group.is_teacher[..., None], means, super().__call__(group, mean, step))

    def _holding(self, count: Tensor, teachers: Tensor) -> Tensor:
        """Of a device's ``count`` micro-batches those with one or more of its ``teachers``, on average."""
        size, others = self.rows / count, self.rows - teachers
        without = torch.lgamma(others + 1) - torch.lgamma((others - size + 1).clamp(min=1e-6))
        any_rows = math.lgamma(self.rows + 1) - torch.lgamma(self.rows - size + 1)
        none = torch.where(others - size + 1 > 0, (without - any_rows).exp(), 0.0)
        return torch.minimum(count * (1 - none), teachers)


def weights_of(weighting: TokenWeighting, group: RolloutGroup, mean: Mean, step: int) -> dict[str, Any]:
    """The weights of a group's tokens as fields of ``Experience``: in the loss, and in the entropy bonus."""
    return {
        "token_weights": weighed(weighting, weighting(group, mean, step), group),
        "entropy_weights": weighed(weighting, weighting.entropy_weights(group, mean, step), group)
        if isinstance(weighting, HasEntropyWeights)
        else None,
    }


def _entropy_weights(weighting: TokenWeighting, group: RolloutGroup, mean: Mean, step: int) -> Tensor:
    """A weighting's weights of entropies; those of the loss if it has no others."""
    weigh = weighting.entropy_weights if isinstance(weighting, HasEntropyWeights) else weighting
    return weigh(group, mean, step)


def _row_count(group: RolloutGroup, mean: Mean) -> Tensor:
    """Rows that are present, of a rank on average."""
    return divisor(mean(group.present.sum().to(group.rewards.dtype)))


def _counted(group: RolloutGroup) -> Tensor:
    """``[P, G, T]``, 1 on the tokens of rows that are present."""
    return (group.mask & group.present[..., None]).to(group.rewards.dtype)

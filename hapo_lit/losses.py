"""The policy loss: a clipped surrogate on what the policy wrote, a teacher term on what the teacher wrote.

With ``ρ = π_θ/π_old`` per token, advantages ``Â`` and token weights ``w`` (HAPO Eqs. 3, 8, 9; PPO, arXiv 1707.06347)::

    loss = − Σ w · { min(ρ Â, clip(ρ, 1−ε_low, 1+ε_high) Â)    on-policy token
                   { teacher(log π_θ, Â, c)                     teacher token
           + β Σ w · KL(π_θ ‖ π_ref)                            on-policy tokens
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hapo_lit.protocols import TeacherTerm
from hapo_lit.types import LossOutput, Rows

KL = Callable[[Tensor, Tensor], Tensor]
"""``(log π_θ, log π_ref)`` at sampled tokens -> per-token estimate of KL(π_θ ‖ π_ref)."""


def k1(logprobs: Tensor, reference: Tensor) -> Tensor:
    """``log π_θ − log π_ref``: unbiased, high variance, can be negative (Schulman, "Approximating KL divergence")."""
    return logprobs - reference


def k2(logprobs: Tensor, reference: Tensor) -> Tensor:
    """``½ (log π_θ − log π_ref)²``: biased, low variance; its gradient is that of KL when on-policy."""
    return 0.5 * (logprobs - reference).square()


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """``π_ref/π_θ − 1 − log(π_ref/π_θ)``: unbiased, never negative; GRPO's choice (arXiv 2402.03300, Eq. 4)."""
    gap = reference - logprobs
    return gap.exp() - 1 - gap


class ClippedSurrogate:
    """See the module's formula.

    Args:
        teacher: what a teacher token adds.
        clip_low: ε_low; the ratio is clipped at ``1 − clip_low`` from below.
        clip_high: ε_high; DAPO (arXiv 2503.14476) sets it above ``clip_low``.
        kl_coefficient: β; 0 = no KL term, and no reference pass either.
        kl: the estimator, one of :func:`k1`, :func:`k2`, :func:`k3`.
    """

    def __init__(
        self,
        teacher: TeacherTerm,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        kl_coefficient: float = 0.0,
        kl: KL = k3,
    ) -> None:
        self.teacher, self.kl, self.kl_coefficient = teacher, kl, kl_coefficient
        self.clip_low, self.clip_high = clip_low, clip_high

    @property
    def needs_reference(self) -> bool:
        return self.kl_coefficient != 0

    def contributes(self, rows: Rows) -> Tensor:
        counts = (rows.token_weights != 0).any(1)
        if self.needs_reference:
            return counts
        credited = rows.advantages != 0
        return counts & (credited if self.teacher.needs_advantage else credited | rows.is_teacher)

    def __call__(self, logprobs: Tensor, rows: Rows) -> LossOutput:
        old = logprobs.detach() if rows.old_logprobs is None else rows.old_logprobs
        advantages = rows.advantages[:, None]
        is_teacher = rows.is_teacher[:, None]

        ratio = torch.where(is_teacher, 0.0, logprobs - old).exp()
        clipped = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        surrogate = torch.minimum(ratio * advantages, clipped * advantages)
        helped = self.teacher(logprobs, advantages, rows.confidence[:, None])
        loss = -(torch.where(is_teacher, helped, surrogate) * rows.token_weights).sum()

        on_policy = rows.text.mask & ~is_teacher
        metrics = {
            "loss/clipped_share": _tally(clipped * advantages < ratio * advantages, on_policy),
            "loss/ratio_mean": _tally(ratio, on_policy),
        }
        if rows.reference_logprobs is not None:
            kl = self.kl(torch.where(is_teacher, rows.reference_logprobs, logprobs), rows.reference_logprobs)
            loss = loss + self.kl_coefficient * (kl * rows.token_weights).sum()
            metrics["loss/kl"] = _tally(kl, on_policy)
        return LossOutput(loss, metrics)


def _tally(values: Tensor, mask: Tensor) -> Tensor:
    """``[sum, count]`` of the masked values, detached."""
    values = values.detach().to(torch.float64)
    return torch.stack([torch.where(mask, values, 0.0).sum(), mask.sum().to(values)])

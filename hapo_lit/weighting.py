"""Token weighting: how much each token counts in the loss ``Σ w · ℓ``.

Normalising here, once, over the whole batch and all ranks, is what makes the loss independent of how the batch is
split into micro-batches.  ``mean`` averages over ranks; gradients are averaged over ranks too, so dividing by the
rank-mean of the denominator gives the loss of the global batch.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hapo_lit.types import RolloutGroup


class TokenMean:
    """``1 / Σ len``: every token counts alike (DAPO, arXiv 2503.14476; Eqs. 3 and 8 of HAPO)."""

    def __call__(self, group: RolloutGroup, mean: Callable[[Tensor], Tensor]) -> Tensor:
        counted = _counted(group)
        return counted / mean(counted.sum()).clamp(min=1)


class SequenceMean:
    """``1 / (N · lenᵢ)``: every response counts alike, long answers' tokens count less (GRPO, arXiv 2402.03300)."""

    def __call__(self, group: RolloutGroup, mean: Callable[[Tensor], Tensor]) -> Tensor:
        counted = _counted(group)
        rows = group.present.sum().to(counted)
        return counted / counted.sum(2, keepdim=True).clamp(min=1) / mean(rows).clamp(min=1)


class ConstantLength:
    """``1 / (N · max_length)``: the divisor does not depend on what was sampled (Dr. GRPO, arXiv 2503.20783)."""

    def __init__(self, max_length: int) -> None:
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}")
        self.max_length = max_length

    def __call__(self, group: RolloutGroup, mean: Callable[[Tensor], Tensor]) -> Tensor:
        counted = _counted(group)
        rows = group.present.sum().to(counted)
        return counted / (mean(rows).clamp(min=1) * self.max_length)


def _counted(group: RolloutGroup) -> Tensor:
    """``[P, G, T]``, 1 on the tokens of rows that are present."""
    return (group.mask & group.present[..., None]).to(group.rewards.dtype)

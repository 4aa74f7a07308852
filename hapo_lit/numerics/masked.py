"""Masked reductions and a bounded exponential."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_sum(values: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Sum of ``values`` along ``dim``, kept as a dimension of size one, where ``mask`` is True."""
    return torch.where(mask, values, 0.0).sum(dim, keepdim=True)


def masked_mean(values: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Mean of ``values`` along ``dim``, kept, where ``mask`` is True; 0 where nothing is."""
    return masked_sum(values, mask, dim) / mask.sum(dim, keepdim=True).clamp(min=1)


def divisor(count: Tensor) -> Tensor:
    """A count to divide by, or a mean of one over ranks, which is below 1 where few ranks have any; 1 in place of 0."""
    return torch.where(count > 0, count, 1.0)


def masked_std(values: Tensor, mask: Tensor, dim: int, ddof: int) -> Tensor:
    """Standard deviation along ``dim``, kept, with divisor ``count - ddof``; 0 where that is not positive."""
    deviations = torch.where(mask, values - masked_mean(values, mask, dim), 0.0)
    degrees = (mask.sum(dim, keepdim=True) - ddof).clamp(min=1)
    return (deviations.square().sum(dim, keepdim=True) / degrees).sqrt()


def all_equal(values: Tensor, mask: Tensor, dim: int) -> Tensor:
    """True where the masked values along ``dim`` (kept) are one and the same number, or there are none.

    Decided by equality and not by a small spread: float noise in a mean must never look like a signal.
    """
    high = torch.where(mask, values, -torch.inf).amax(dim, keepdim=True)
    low = torch.where(mask, values, torch.inf).amin(dim, keepdim=True)
    return (high == low) | ~mask.any(dim, keepdim=True)


LOG_RATIO_BOUND = 20.0
"""Where log-ratios are cut before ``exp``: a ratio means nothing any more, and its square still fits a float32."""


def bounded_exp(log_ratio: Tensor) -> Tensor:
    """``exp`` of what is cut at ±:data:`LOG_RATIO_BOUND`."""
    return log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()

"""Tallies: a sum and a count side by side, which add up over micro-batches and ranks and become a mean at the end.

Where the count is 0 the tally becomes the sum itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def tally(total: Tensor, count: Tensor) -> Tensor:
    """``[sum, count]`` in float64."""
    return torch.stack([total.detach().to(torch.float64), count.to(torch.float64)])


def tally_of(values: Tensor) -> Tensor:
    """The tally of all ``values``."""
    return tally(values.sum(dtype=torch.float64), values.new_tensor(values.numel(), dtype=torch.float64))


def masked_tally(values: Tensor, mask: Tensor) -> Tensor:
    """The tally of the ``values`` where ``mask`` is True."""
    return tally(torch.where(mask, values.detach().to(torch.float64), 0.0).sum(), mask.sum())


def count_tally(flags: Tensor) -> Tensor:
    """A tally without a count: how many ``flags`` are True, added up and never divided."""
    return tally(flags.sum(), torch.zeros((), device=flags.device))


def plain_tally(total: float, count: float) -> Tensor:
    """The tally of two plain numbers."""
    return torch.tensor([total, count], dtype=torch.float64)


def accumulate(tallies: dict[str, Tensor], more: Mapping[str, Tensor]) -> None:
    """Add tallies to those of the same names; a new name begins at zero."""
    for name, added in more.items():
        tallies[name] = tallies.get(name, 0) + added


def number(total: float, count: float) -> float:
    """What a tally amounts to: the mean, or the sum if there is no count."""
    return total / count if count else total

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


def tallies(named: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """:func:`tally` of several sums and counts, stacked at once."""
    numbers = [value.detach().to(torch.float64) for pair in named.values() for value in pair]
    return dict(zip(named, torch.stack(numbers).view(-1, 2).unbind(), strict=True))


def share_tallies(named: Mapping[str, Tensor], mask: Tensor | None = None) -> dict[str, Tensor]:
    """The tallies of several flags of one shape, where ``mask`` is True or everywhere, in a few operations for all."""
    flags = torch.stack(list(named.values()))
    if mask is not None:
        flags &= mask
    sums = flags.flatten(1).sum(1, dtype=torch.float64)
    count = sums.new_tensor(flags[0].numel()) if mask is None else mask.sum().to(sums)
    return dict(zip(named, torch.stack([sums, count.expand_as(sums)], 1).unbind(), strict=True))


def plain_tallies(named: Mapping[str, tuple[float, float]]) -> dict[str, Tensor]:
    """The tallies of plain numbers."""
    pairs = torch.tensor(list(named.values()), dtype=torch.float64).view(-1, 2)
    return dict(zip(named, pairs.unbind(), strict=True))


def accumulate(tallies: dict[str, Tensor], more: Mapping[str, Tensor]) -> None:
    """Add tallies to those of the same names; a new name begins at zero."""
    for name, added in more.items():
        tallies[name] = tallies[name] + added if name in tallies else added


def number(total: float, count: float) -> float:
    """What a tally amounts to: the mean, or the sum if there is no count."""
    return total / count if count else total

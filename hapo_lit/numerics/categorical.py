"""Draws from categorical distributions, one uniform number each."""

from __future__ import annotations

import torch
from torch import Tensor

ONE_BLOCK = 2048
"""So many classes or fewer are accumulated at once: there are fewer operations then."""
BELOW_ONE = 1 - 2**-52
"""What is below a total in float64, times it, is below it too."""


def draw(logits: Tensor, uniforms: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """One class for each row, by the inverse of the cumulative distribution.

    Masses are exponentials in the dtype of the logits.  Of many classes they are added up over blocks of about √V; sums
    of blocks, and of the classes in the block that a draw falls into, are accumulated in float64.  So most classes are
    read once and never converted.  In float32 a probability is right to 1e-6 of itself, and below 1e-38 of the largest
    it is 0.

    Args:
        logits: ``[N, V]``.
        uniforms: ``[N] float64`` in [0, 1).
        temperature: above 0; logits are divided by it.

    Returns:
        ``[N] int64`` classes, never one without mass (but any, if there are NaNs), and the ``[N]`` logarithms of their
        probabilities, in float64.
    """
    count, classes = logits.shape
    most = logits.amax(-1, keepdim=True)
    size = 1 << (classes.bit_length() + 1) // 2 if classes > ONE_BLOCK else classes
    room = logits.new_empty(count, -(-classes // size), size)
    masses = room.view(count, -1)
    mass = torch.sub(logits, most, out=masses[:, :classes])
    if temperature != 1:
        mass /= temperature
    mass.exp_()

    wanted = uniforms[:, None].clamp(max=BELOW_ONE)
    if size == classes:
        ends = mass.cumsum(-1, dtype=torch.float64)
        total = ends[:, -1:]
        drawn = torch.searchsorted(ends, wanted * total, right=True)
    else:
        masses[:, classes:] = 0
        ends = room.sum(-1).cumsum(-1, dtype=torch.float64)
        total = ends[:, -1:]
        wanted *= total
        block = torch.searchsorted(ends, wanted, right=True).clamp_(max=room.shape[1] - 1)
        inside = room.gather(1, block[:, :, None].expand(-1, -1, size))[:, 0].cumsum(-1, dtype=torch.float64)
        all_inside = inside[:, -1:]
        # the block's sum in float32 is not quite what is inside: no further than its first and last class with mass
        left = torch.minimum((wanted - ends.gather(1, block) + all_inside).clamp(min=0), all_inside * BELOW_ONE)
        drawn = block * size + torch.searchsorted(inside, left, right=True)
    drawn.clamp_(max=classes - 1)  # where there are NaNs
    shifted = (logits.gather(1, drawn) - most).double() / temperature
    return drawn[:, 0], (shifted - total.log())[:, 0]

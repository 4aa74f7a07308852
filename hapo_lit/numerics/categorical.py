"""Draws from categorical distributions, one uniform number each."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 256
"""Classes whose masses are added up first."""
ONE_BLOCK = 1024
"""With so many classes or fewer there is a single block."""


def draw(logits: Tensor, uniforms: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """One class for each row, by the inverse of the cumulative distribution.

    Masses are exponentials in the dtype of the logits.  Their sums are in float64, first over blocks, then inside the
    block that a draw falls into, so that most classes are read once and never converted.  In float32 a probability is
    right to 1e-6 of itself, and below 1e-38 of the largest it is 0.

    Args:
        logits: ``[N, V]``.
        uniforms: ``[N] float64`` in [0, 1).
        temperature: above 0; logits are divided by it.

    Returns:
        ``[N] int64`` classes, never one without mass, and the ``[N]`` logarithms of their probabilities, in float64.
    """
    uniforms = uniforms.clamp(max=1 - 2**-52)  # so that a product with a total stays below it
    most = logits.amax(-1, keepdim=True)
    count, classes = logits.shape
    room = logits.new_empty(count, classes if classes <= ONE_BLOCK else -(-classes // BLOCK) * BLOCK)
    room[:, classes:] = 0
    mass = torch.sub(logits, most, out=room[:, :classes])
    if temperature != 1:
        mass /= temperature
    mass.exp_()
    if classes <= ONE_BLOCK:
        cumulative = mass.cumsum(-1, dtype=torch.float64)
        total = cumulative[:, -1]
        drawn = torch.searchsorted(cumulative, (uniforms * total)[:, None], right=True)[:, 0]
        drawn = drawn.clamp(max=classes - 1)  # only NaN is beyond
    else:
        blocks = room.unflatten(1, (-1, BLOCK))
        cumulative = blocks.sum(-1).cumsum(-1, dtype=torch.float64)
        total = cumulative[:, -1]
        wanted = uniforms * total
        block = torch.searchsorted(cumulative, wanted[:, None], right=True)[:, 0].clamp(max=blocks.shape[1] - 1)
        before = cumulative.gather(1, (block - 1).clamp(min=0)[:, None])[:, 0].where(block > 0, 0.0)
        inside = blocks[torch.arange(count, device=block.device), block].cumsum(-1, dtype=torch.float64)
        found = torch.searchsorted(inside, (wanted - before)[:, None], right=True)
        # a block's sum in float32 may be above what is inside: its last class with mass, then
        drawn = block * BLOCK + found.minimum((inside < inside[:, -1:]).sum(-1, keepdim=True))[:, 0]
    shifted = (logits.gather(1, drawn[:, None]) - most)[:, 0].double() / temperature
    return drawn, shifted - total.log()

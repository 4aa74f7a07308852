"""What an update is made of: the same number of micro-batches on every rank, and a limit on skipped updates."""

from __future__ import annotations

import torch

from hapo_lit.errors import NotFiniteError
from hapo_lit.protocols import PolicyLoss, Ranks
from hapo_lit.rows import Rows
from hapo_lit.types import Experience


def micro_batches(experience: Experience, loss: PolicyLoss, size: int, ranks: Ranks) -> tuple[list[Rows], float]:
    """The rows that contribute to the loss, in micro-batches, and their share of all rows.

    Every rank gets the same number of micro-batches: one that has fewer than others pads with rows of weight zero.

    Args:
        experience: credited, of this rank.
        loss: says which rows contribute.
        size: rows in a micro-batch, at most.
        ranks: the other processes.
    """
    rows = experience.rows()
    contributing = rows.select(loss.contributes(rows))
    idle = rows.select(torch.zeros(1, dtype=torch.int64, device=rows.advantages.device)).with_zero_weight()
    own = list(contributing.split(size))
    return own + [idle] * (ranks.max(len(own)) - len(own)), contributing.size / rows.size


class SkipLimit:
    """Counts updates in a row that were skipped since loss or gradient was not finite; too many end the run.

    Args:
        limit: how many in a row may be skipped.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_a_row = 0
        """Consecutive skipped updates; 0 = the last update was made."""

    def update_made(self) -> None:
        """Begin to count anew."""
        self.in_a_row = 0

    def update_skipped(self, experience: Experience, step: int) -> None:
        """Count one more, at training step ``step``; raises ``NotFiniteError`` if that is one too many."""
        self.in_a_row += 1
        if self.in_a_row > self.limit:
            raise NotFiniteError(
                f"in {self.in_a_row} updates in a row, up to step {step + 1}, loss or gradient was not "
                f"finite, and none was made: lower learning_rate, bound the ratios (loss=dual_clip), or use a wider "
                f"precision",
                experience,
            )

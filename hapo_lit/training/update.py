"""What an update is made of: mini-batches of prompts, an optimiser step each; the same number of micro-batches on every
rank; and a limit on skipped updates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from hapo_lit.errors import NotFiniteError
from hapo_lit.numerics.ranges import MOST, check_count, check_optional_count
from hapo_lit.protocols import PolicyLoss, Ranks, TokenWeighting
from hapo_lit.rows import MicroBatchLimit, Rows
from hapo_lit.training.dealing import dealt
from hapo_lit.types import Experience
from hapo_lit.weighting import weights_of

NO_STEP = 1e-12
"""A gradient of this norm moves no weight: Adam's epsilon is 1e-8."""


def check_settings(
    temperature: float, max_grad_norm: float, max_skipped: int, counts: Mapping[str, int | None]
) -> None:
    """Raise ``ValueError`` at settings of updates that make no sense; each of ``counts`` is null or at least 1."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"rollout.temperature={temperature}: training needs samples; set it above 0 (1 is usual)")
    if not max_grad_norm > NO_STEP:
        raise ValueError(f"module.max_grad_norm={max_grad_norm} would stop all learning; inf means no clipping")
    for name, value in counts.items():
        check_optional_count(name, value, most=MOST if name in ("updates_per_batch", "minibatches") else None)
    check_count("max_skipped", max_skipped, least=0)


def split_by_prompts(experience: Experience, count: int, weighting: TokenWeighting, ranks: Ranks) -> list[Experience]:
    """A batch split by prompts: the batch once for each part, in which tokens of other parts have no weight.

    A mini-batch is weighted as if it were the batch, as in verl: its denominators are its own.  Advantages stay those
    of the whole batch.  The parts are those of the batch of all ranks, in its order, so that they do not depend on the
    number of ranks; their sizes differ by one prompt at most.

    Args:
        experience: credited, of this rank.
        count: how many parts; at most the prompts of all ranks.  1 = the batch as it is.
        weighting: what its token weights came from.
        ranks: the other processes; rank r has prompts r, r + world, ... of the batch.
    """
    if count == 1:
        return [experience]
    group = experience.group
    own = torch.arange(len(group.prompt_ids), device=group.prompt_ids.device)
    part_P = (own * ranks.world + ranks.rank) * count // (len(own) * ranks.world)
    groups = [replace(group, present=group.present & (part_P == part)[:, None]) for part in range(count)]
    return [replace(experience, **weights_of(weighting, part, ranks.mean, experience.step)) for part in groups]


def micro_batches(
    experience: Experience, loss: PolicyLoss, limit: MicroBatchLimit, ranks: Ranks, balance: bool = False
) -> tuple[list[Rows], float]:
    """The rows that contribute to the loss, in micro-batches, and their share of all rows.

    Every rank gets the same number of micro-batches: one that has fewer than others pads with rows of weight zero.

    Args:
        experience: credited, of this rank.
        loss: says which rows contribute.
        limit: of a micro-batch.
        ranks: the other processes.
        balance: True = rows are dealt to ranks by their tokens; False = each keeps those of its own prompts.
    """
    rows = experience.rows()
    contributing = rows.select(loss.contributes(rows).nonzero().squeeze(1))  # found once, and not for each tensor
    own = dealt(contributing, limit, ranks) if balance and ranks.world > 1 else list(contributing.split(limit))
    if missing := ranks.max(len(own)) - len(own):
        shortest = rows.text.mask.sum(1).argmin()[None]
        own += [rows.select(shortest).trimmed().with_zero_weight()] * missing
    return own, contributing.size / rows.size


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
                f"finite, and none was made: lower learning_rate, bound the ratios (loss=dual_clip), use a wider "
                f"precision, or look at terms of your own",
                experience,
            )

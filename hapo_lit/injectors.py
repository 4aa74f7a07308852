"""Injectors: how the teacher's solution enters a group whose gate is open.

All of them touch only groups that are open *and* whose teacher the verifier accepted; every other group comes back
as it was.  An injected row carries the teacher's verified reward and is marked ``is_teacher``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from hapo_lit.numerics.draws import uniform
from hapo_lit.numerics.ranges import check_seed
from hapo_lit.types import PromptBatch, RolloutGroup


class NoInjection:
    """Returns every group as it was."""

    teacher_stands_alone = False

    def rollouts(self, group_size: int) -> int:
        return group_size

    def __call__(self, group: RolloutGroup, prompts: PromptBatch, open: Tensor, step: int) -> RolloutGroup:
        return group


class ReplaceWorst:
    """Success-substitution injection: the teacher replaces the rollout with the least reward (arXiv 2603.11321, Eq. 7).

    A success is replaced only where there is no failure, whatever the rewards are.

    Args:
        ties: which of several equally bad rollouts is replaced, which the paper does not say: :class:`FirstTied`,
            :class:`LeastLikely` or :class:`DrawnTied`.
    """

    teacher_stands_alone = False

    def __init__(self, ties: TieBreak | None = None) -> None:
        if ties is not None and not callable(ties):
            raise ValueError(
                f"injector.ties must be an object such as DrawnTied, got {ties!r}: choose another injector"
            )
        self.ties: TieBreak = FirstTied() if ties is None else ties

    def rollouts(self, group_size: int) -> int:
        return group_size

    def __call__(self, group: RolloutGroup, prompts: PromptBatch, open: Tensor, step: int) -> RolloutGroup:
        failed_PG = group.on_policy & ~group.successes
        candidates_PG = torch.where(failed_PG.any(1, keepdim=True), failed_PG, group.on_policy)
        rewards_PG = torch.where(candidates_PG, group.rewards, torch.inf)
        tied_PG = candidates_PG & (rewards_PG == rewards_PG.amin(1, keepdim=True))
        worst_PG = one_hot(self.ties(group, tied_PG, step), group.rewards.shape[1])
        return place_teacher(group, prompts, worst_PG & (open & prompts.teacher_usable)[:, None])


class TieBreak(Protocol):
    """Chooses one of the marked rows."""

    def __call__(self, group: RolloutGroup, tied: Tensor, step: int) -> Tensor:
        """``[P]`` positions within ``tied [P, G] bool``; 0 where nothing is marked."""


class FirstTied:
    """The first of the marked rows.

    Samples of one prompt are exchangeable if the engine returns them in the order in which it drew them; this is then a
    uniform choice that needs neither a random number nor a log-probability.
    """

    def __call__(self, group: RolloutGroup, tied: Tensor, step: int) -> Tensor:
        return tied.int().argmax(1)


class LeastLikely:
    """The row with the lowest log-probability of the whole response, as the engine reported it.

    Raises:
        ValueError: the engine reports none.
    """

    def __call__(self, group: RolloutGroup, tied: Tensor, step: int) -> Tensor:
        if group.behaviour_logprobs is None:
            raise ValueError("injector.ties=LeastLikely needs an engine that reports log-probabilities; use DrawnTied")
        return torch.where(tied, group.behaviour_logprobs.sum(2), torch.inf).argmin(1)


class DrawnTied:
    """A uniform draw, fixed by (seed, prompt, step).

    For engines that return samples in another order than that of sampling, such as the shortest first.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = check_seed(seed)

    def __call__(self, group: RolloutGroup, tied: Tensor, step: int) -> Tensor:
        drawn = torch.from_numpy(uniform("injector", self.seed, group.prompt_ids.cpu().numpy(), step)).to(tied.device)
        count = tied.sum(1)
        chosen = (drawn * count).long().clamp(max=(count - 1).clamp(min=0))
        return (tied & (tied.cumsum(1) == chosen[:, None] + 1)).int().argmax(1)


class ReplaceRandom:
    """The teacher replaces a rollout drawn uniformly, right or wrong: the control experiment for :class:`ReplaceWorst`.

    It replaces a success with probability S/N, so that the successes of the group rise with probability (N − S)/N only.

    Args:
        seed: of the draws, each fixed by (seed, prompt, step).
    """

    teacher_stands_alone = False

    def __init__(self, seed: int = 0) -> None:
        self.choice = DrawnTied(seed)

    def rollouts(self, group_size: int) -> int:
        return group_size

    def __call__(self, group: RolloutGroup, prompts: PromptBatch, open: Tensor, step: int) -> RolloutGroup:
        drawn_PG = one_hot(self.choice(group, group.on_policy, step), group.rewards.shape[1])
        return place_teacher(group, prompts, drawn_PG & (open & prompts.teacher_usable)[:, None])


class Append:
    """The teacher is added to ``G`` rollouts as row ``G + 1``; every rollout stays.

    Where the gate is closed or there is no usable teacher that row is absent.
    """

    teacher_stands_alone = False

    def rollouts(self, group_size: int) -> int:
        return group_size

    def __call__(self, group: RolloutGroup, prompts: PromptBatch, open: Tensor, step: int) -> RolloutGroup:
        return _with_teacher_row(group, prompts, open)


class ReplaceSlot:
    """A fixed place for the teacher: ``G − 1`` rollouts and one teacher row (LUFFY, arXiv 2504.14945).

    No rollout is sampled and then replaced.  Where the gate is closed or there is no usable teacher, the row of the
    teacher is absent.
    """

    teacher_stands_alone = False

    def rollouts(self, group_size: int) -> int:
        return group_size - 1

    def __call__(self, group: RolloutGroup, prompts: PromptBatch, open: Tensor, step: int) -> RolloutGroup:
        return _with_teacher_row(group, prompts, open)


class ReplaceGroup:
    """The teacher's row takes the place of the whole group: the rollouts leave the loss (HPT, arXiv 2509.04419).

    A row without a group has no advantage, so this needs a teacher term without one, such as
    ``NegativeLogLikelihood``.
    """

    teacher_stands_alone = True

    def rollouts(self, group_size: int) -> int:
        return group_size

    def __call__(self, group: RolloutGroup, prompts: PromptBatch, open: Tensor, step: int) -> RolloutGroup:
        replaced_P = open & prompts.teacher_usable
        first_PG = one_hot(torch.zeros_like(prompts.prompt_ids), group.rewards.shape[1])
        placed = place_teacher(group, prompts, first_PG & replaced_P[:, None])
        gone_PG = replaced_P[:, None] & ~first_PG
        return replace(
            placed,
            present=placed.present & ~gone_PG,
            mask=placed.mask & ~gone_PG[..., None],
        )


def one_hot(index_P: Tensor, size: int) -> Tensor:
    """``[P]`` positions -> ``[P, size] bool``, True at each position."""
    return torch.arange(size, device=index_P.device) == index_P[:, None]


def place_teacher(group: RolloutGroup, prompts: PromptBatch, at: Tensor) -> RolloutGroup:
    """Write each prompt's teacher over the rows that ``at [P, G] bool`` marks; ``T`` grows if a teacher is longer."""
    if not at.any():
        return group
    longest = int(prompts.teacher_mask[at.any(1)].sum(1).max())
    width = max(group.tokens.shape[2], longest)

    def wide(value: Tensor) -> Tensor:
        return pad(value[..., :width], (0, max(0, width - value.shape[-1])))

    def teacher(value: Tensor) -> Tensor:
        return wide(value)[:, None, :]

    at_token = at[..., None]
    behaviour = group.behaviour_logprobs
    return replace(
        group,
        tokens=torch.where(at_token, teacher(prompts.teacher_tokens), wide(group.tokens)),
        mask=torch.where(at_token, teacher(prompts.teacher_mask), wide(group.mask)),
        rewards=torch.where(at, prompts.teacher_rewards[:, None].to(group.rewards), group.rewards),
        successes=group.successes | at,
        finished=group.finished | at,
        is_teacher=group.is_teacher | at,
        present=group.present | at,
        behaviour_logprobs=None if behaviour is None else wide(behaviour).masked_fill(at_token, 0.0),
    )


def _with_teacher_row(group: RolloutGroup, prompts: PromptBatch, open: Tensor) -> RolloutGroup:
    """The group with one more row at its end: the teacher where it may come in, absent elsewhere."""
    grown = _with_empty_row(group)
    last_PG = torch.zeros_like(grown.present)
    last_PG[:, -1] = open & prompts.teacher_usable
    return place_teacher(grown, prompts, last_PG)


def _with_empty_row(group: RolloutGroup) -> RolloutGroup:
    """The group with one more row at its end that does not exist."""

    def row(value: Tensor) -> Tensor:
        return pad(value, (0, 1))

    def token_row(value: Tensor) -> Tensor:
        return pad(value, (0, 0, 0, 1))

    return replace(
        group,
        tokens=token_row(group.tokens),
        mask=token_row(group.mask),
        rewards=row(group.rewards),
        successes=row(group.successes),
        finished=row(group.finished),
        is_teacher=row(group.is_teacher),
        present=row(group.present),
        behaviour_logprobs=None if group.behaviour_logprobs is None else token_row(group.behaviour_logprobs),
    )

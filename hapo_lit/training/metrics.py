"""The numbers of one step, from its experience.  No I/O: parts return metrics, doors log them.

A tally is ``[sum, count]`` in float64.  Tallies add up over micro-batches and ranks and become numbers at the end: the
mean, or, where the count is 0, the sum itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hapo_lit.numerics.masked import all_equal
from hapo_lit.protocols import Ranks
from hapo_lit.types import Experience, RolloutGroup

TOTALS = frozenset(["rollout/tokens", "rollout/tokens_per_second", "verify/kills"])
"""What parts report of this rank and adds up over ranks; everything else they report is averaged."""
MISSING = ("reward/", "loss/teacher_")
"""How names begin that are missing in a step that has nothing to measure them on, where 0 would be a lie."""


def anneal_tallies(experience: Experience) -> dict[str, Tensor]:
    """What the gate, the injector and the rollouts of this rank did in this step.

    ``reward/mean``             success rate of the sampled responses
    ``gate/open_rate``          share of groups whose gate was open
    ``teacher/use``             share of groups that hold a teacher row
    ``teacher/rows``            teacher rows consumed in this step
    ``teacher/refused``         groups whose gate was open and that have no teacher the verifier accepted and that fits
    ``teacher/beside_success``  share of groups with a teacher row *and* a success of the policy's own
    ``teacher/row_share``       share of the rows that enter the loss's groups that are the teacher's
    ``teacher/token_share``     share of the batch loss's token weight that lies on teacher tokens
    ``signal/all_wrong``, ``signal/all_right``      share of groups before injection
    ``signal/flat_before``, ``signal/flat``         share of groups with equal rewards, before and after injection
    ``response/length``, ``response/truncated``     mean tokens; share that met the length limit
    """
    group = experience.group
    has_teacher_P = (group.is_teacher & group.present).any(1)
    weight_PG = experience.token_weights.sum(2)
    tallies = {
        "teacher/use": _mean(has_teacher_P),
        "teacher/rows": _total(group.is_teacher & group.present),
        "teacher/row_share": _mean(group.is_teacher[group.present]),
        "teacher/token_share": _tally(weight_PG[group.is_teacher].sum(), weight_PG.sum().clamp(min=1e-12)),
    }
    rollouts = experience.rollouts
    if rollouts is None or experience.teacher_usable is None:
        return tallies
    successes_P, trials_P = rollouts.success_counts()
    lengths_PG = rollouts.mask.sum(2)
    return tallies | {
        "reward/mean": _tally(successes_P.sum(), trials_P.sum().clamp(min=1)),
        "gate/open_rate": _mean(experience.decision.open),
        "teacher/refused": _total(experience.decision.open & ~experience.teacher_usable),
        "teacher/beside_success": _mean(has_teacher_P & (successes_P > 0)),
        "signal/all_wrong": _mean(successes_P == 0),
        "signal/all_right": _mean(successes_P == trials_P),
        "signal/flat_before": _flat_share(rollouts),
        "signal/flat": _flat_share(group),
        "response/length": _mean(lengths_PG[rollouts.on_policy]),
        "response/truncated": _mean(~rollouts.finished[rollouts.on_policy]),
    }


def reward_tallies(experience: Experience, difficulties: Sequence[str], labels: Sequence[str]) -> dict[str, Tensor]:
    """``reward/<label>``: the success rate of the sampled responses to problems of each difficulty.

    Args:
        experience: of this rank.
        difficulties: of its ``P`` prompts.
        labels: those to tell apart, the same on all ranks.
    """
    if experience.rollouts is None or not difficulties:
        return {}
    counts = torch.stack(experience.rollouts.success_counts(), 1)
    return {
        f"reward/{'_'.join(label.split())}": counts[
            torch.tensor([each == label for each in difficulties], device=counts.device)
        ].sum(0, dtype=torch.float64)
        for label in labels
    }


def tallied(metrics: Mapping[str, float]) -> dict[str, Tensor]:
    """Plain numbers of this rank as tallies: :data:`TOTALS` add up, the others are averaged over ranks."""
    return {
        name: torch.tensor([value, 0.0 if name in TOTALS else 1.0], dtype=torch.float64)
        for name, value in metrics.items()
    }


def over_ranks(tallies: Mapping[str, Tensor], ranks: Ranks, device: torch.device) -> dict[str, float]:
    """Tallies of every rank, which all have the same names, as the numbers of the step: one exchange for all.

    What is :data:`MISSING` on every rank is left out.
    """
    if not tallies:
        return {}
    own = torch.stack([tally.to(device, torch.float64) for tally in tallies.values()])
    every = ranks.gather(own).unflatten(0, (-1, len(own))).sum(0)
    return {
        name: total / count if count else total
        for name, (total, count) in zip(tallies, every.tolist(), strict=True)
        if count or not name.startswith(MISSING)
    }


def _flat_share(group: RolloutGroup) -> Tensor:
    return _mean(all_equal(group.rewards, group.present, 1))


def _mean(values: Tensor) -> Tensor:
    return torch.stack([values.sum(dtype=torch.float64), values.new_tensor(values.numel(), dtype=torch.float64)])


def _total(flags: Tensor) -> Tensor:
    return _tally(flags.sum(), torch.zeros((), device=flags.device))


def _tally(total: Tensor, count: Tensor) -> Tensor:
    return torch.stack([total.to(torch.float64), count.to(torch.float64)])

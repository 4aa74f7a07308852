"""The numbers of one step, from its experience, as tallies (:mod:`hapo_lit.numerics.tallies`) that add up over ranks.

Nothing here is written anywhere: parts return metrics, and the entry points log them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hapo_lit.errors import PartError
from hapo_lit.numerics.hashing import stable_int
from hapo_lit.numerics.masked import all_equal
from hapo_lit.numerics.tallies import count_tally, number, plain_tally, tally, tally_of
from hapo_lit.protocols import Ranks
from hapo_lit.types import Experience, RolloutGroup

TOTALS = frozenset(["rollout/tokens", "rollout/tokens_per_second", "verify/kills"])
"""What parts report of this rank and adds up over ranks; everything else they report is averaged."""
MISSING = ("reward/", "loss/teacher_")
"""How names begin that are missing in a step that has nothing to measure them on, where 0 would be wrong."""


def anneal_tallies(experience: Experience) -> dict[str, Tensor]:
    """What the gate, the injector and the rollouts of this rank did in this step.

    ``reward/mean``             mean reward of the sampled responses
    ``success/rate``            share of the sampled responses that are right
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
        "teacher/use": tally_of(has_teacher_P),
        "teacher/rows": count_tally(group.is_teacher & group.present),
        "teacher/row_share": tally_of(group.is_teacher[group.present]),
        "teacher/token_share": tally(weight_PG[group.is_teacher].sum(), weight_PG.sum().clamp(min=1e-12)),
    }
    rollouts = experience.rollouts
    if rollouts is None or experience.teacher_usable is None:
        return tallies
    successes_P, trials_P = rollouts.success_counts()
    lengths_PG = rollouts.mask.sum(2)
    return tallies | {
        "reward/mean": tally(rollouts.rewards[rollouts.on_policy].sum(), trials_P.sum().clamp(min=1)),
        "success/rate": tally(successes_P.sum(), trials_P.sum().clamp(min=1)),
        "gate/open_rate": tally_of(experience.decision.open),
        "teacher/refused": count_tally(experience.decision.open & ~experience.teacher_usable),
        "teacher/beside_success": tally_of(has_teacher_P & (successes_P > 0)),
        "signal/all_wrong": tally_of(successes_P == 0),
        "signal/all_right": tally_of(successes_P == trials_P),
        "signal/flat_before": _flat_share(rollouts),
        "signal/flat": _flat_share(group),
        "response/length": tally_of(lengths_PG[rollouts.on_policy]),
        "response/truncated": tally_of(~rollouts.finished[rollouts.on_policy]),
    }


def reward_tallies(experience: Experience, difficulties: Sequence[str], labels: Sequence[str]) -> dict[str, Tensor]:
    """``reward/<label>``: the mean reward of the sampled responses to problems of each difficulty.

    Args:
        experience: of this rank.
        difficulties: of its ``P`` prompts.
        labels: those to tell apart, the same on all ranks.
    """
    if experience.rollouts is None or not difficulties:
        return {}
    on_policy_PG = experience.rollouts.on_policy
    earned_P = torch.where(on_policy_PG, experience.rollouts.rewards, 0.0).sum(1)
    sums = torch.stack([earned_P, on_policy_PG.sum(1).to(earned_P)], 1)
    return {
        f"reward/{'_'.join(label.split())}": sums[
            torch.tensor([difficulty == label for difficulty in difficulties], device=sums.device)
        ].sum(0, dtype=torch.float64)
        for label in labels
    }


def tallied(metrics: Mapping[str, float]) -> dict[str, Tensor]:
    """Plain numbers of this rank as tallies: :data:`TOTALS` add up, the others are averaged over ranks."""
    return {name: plain_tally(value, 0.0 if name in TOTALS else 1.0) for name, value in metrics.items()}


def gradient_share(loss: Tensor, logprobs: Tensor, is_teacher: Tensor) -> Tensor:
    """The tally of Σ |∂loss/∂log π| over the tokens of teacher rows, out of that over all; the model is not run.

    Args:
        loss: scalar.
        logprobs: ``[N, T]``, which it was made from.
        is_teacher: ``[N]``.
    """
    if not loss.requires_grad:
        return torch.zeros(2, dtype=torch.float64, device=loss.device)
    (slope_NT,) = torch.autograd.grad(loss, logprobs, retain_graph=True)
    size_N = slope_NT.abs().sum(1, dtype=torch.float64)
    return tally(size_N[is_teacher].sum(), size_N.sum())


def over_ranks(tallies: Mapping[str, Tensor], ranks: Ranks, device: torch.device) -> dict[str, float]:
    """Tallies of every rank as the numbers of the step: one exchange for all, and one of their names.

    What is :data:`MISSING` on every rank is left out.

    Raises:
        PartError: ranks have other names, as a verifier or gate of one's own may give them.
    """
    if not tallies:
        return {}
    names = sorted(tallies)
    if ranks.world > 1:
        here = torch.tensor([stable_int("\0".join(names)) >> 1], device=device)
        if len(set(ranks.gather(here).tolist())) > 1:
            raise PartError(
                f"processes have metrics of other names, which cannot be added up: a part's metrics() must give the "
                f"same names on all of them; those of process {ranks.rank} are {', '.join(names)}"
            )
    own = torch.stack([tallies[name].to(device, torch.float64) for name in names])
    of_all = ranks.gather(own).unflatten(0, (-1, len(own))).sum(0)
    added = dict(zip(names, of_all.tolist(), strict=True))
    return {name: number(*added[name]) for name in tallies if added[name][1] or not name.startswith(MISSING)}


def for_progress_bar(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a step that a progress bar shows, under short names."""
    shown = {"reward": "reward/mean", "gate": "gate/open_rate"}
    return {name: metrics[key] for name, key in shown.items() if key in metrics}


def _flat_share(group: RolloutGroup) -> Tensor:
    return tally_of(all_equal(group.rewards, group.present, 1))

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
from hapo_lit.numerics.tallies import accumulate, number, plain_tallies, share_tallies, tallies, tally
from hapo_lit.protocols import Ranks
from hapo_lit.types import Experience

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
    taught_PG = group.is_teacher & group.present
    has_teacher_P, teachers = taught_PG.any(1), taught_PG.sum()
    weight_PG = experience.token_weights.sum(2)
    sums = {
        "teacher/rows": (teachers, torch.zeros_like(teachers)),  # no mean: rows of micro-batches and ranks add up
        "teacher/row_share": (teachers, group.present.sum()),
        "teacher/token_share": (weight_PG[group.is_teacher].sum(), weight_PG.sum().clamp(min=1e-12)),
    }
    shares = {"teacher/use": has_teacher_P}
    rollouts = experience.rollouts
    if rollouts is not None and experience.teacher_usable is not None:
        (successes_P, trials_P), on_policy_PG = rollouts.success_counts(), rollouts.on_policy
        opened_P, trials = experience.decision.open, trials_P.sum()
        sums |= {
            "reward/mean": (rollouts.rewards[on_policy_PG].sum(), trials.clamp(min=1)),
            "success/rate": (successes_P.sum(), trials.clamp(min=1)),
            "teacher/refused": ((opened_P & ~experience.teacher_usable).sum(), torch.zeros_like(trials)),
            "response/length": ((rollouts.mask & on_policy_PG[..., None]).sum(), trials),
            "response/truncated": ((on_policy_PG & ~rollouts.finished).sum(), trials),
        }
        shares |= {
            "gate/open_rate": opened_P,
            "teacher/beside_success": has_teacher_P & (successes_P > 0),
            "signal/all_wrong": successes_P == 0,
            "signal/all_right": successes_P == trials_P,
            "signal/flat_before": all_equal(rollouts.rewards, rollouts.present, 1)[:, 0],
            "signal/flat": all_equal(group.rewards, group.present, 1)[:, 0],
        }
    return tallies(sums) | share_tallies(shares)


def reward_tallies(experience: Experience, difficulties: Sequence[str], labels: Sequence[str]) -> dict[str, Tensor]:
    """``reward/<label>``: the mean reward of the sampled responses to problems of each difficulty.

    Args:
        experience: of this rank.
        difficulties: of its ``P`` prompts.
        labels: those to tell apart, the same on all ranks.
    """
    if experience.rollouts is None or not difficulties or not labels:
        return {}
    on_policy_PG = experience.rollouts.on_policy
    earned_P = torch.where(on_policy_PG, experience.rollouts.rewards, 0.0).sum(1)
    sums = torch.stack([earned_P, on_policy_PG.sum(1).to(earned_P)], 1).to(torch.float64)
    has_label = torch.tensor([[difficulty == label for difficulty in difficulties] for label in labels]).to(sums)
    return {f"reward/{'_'.join(label.split())}": pair for label, pair in zip(labels, has_label @ sums, strict=True)}


def tallied(metrics: Mapping[str, float]) -> dict[str, Tensor]:
    """Plain numbers of this rank as tallies: :data:`TOTALS` add up, the others are averaged over ranks."""
    return plain_tallies({name: (value, 0.0 if name in TOTALS else 1.0) for name, value in metrics.items()})


class GradientShare:
    """Σ |∂loss/∂log π| over the tokens of teacher rows, out of that over all: what a backward pass finds on its way."""

    def __init__(self) -> None:
        self._seen: dict[str, Tensor] = {}

    def watch(self, logprobs: Tensor, is_teacher: Tensor) -> None:
        """Look at the slope on ``logprobs [N, T]`` when a backward pass comes by; ``is_teacher [N]``."""

        def see(slope_NT: Tensor) -> None:
            size_N = slope_NT.abs().sum(1, dtype=torch.float64)
            accumulate(self._seen, {"teacher/gradient_share": tally(size_N[is_teacher].sum(), size_N.sum())})

        if logprobs.requires_grad:
            logprobs.register_hook(see)

    def seen(self) -> dict[str, Tensor]:
        """The tally of the backward passes since it was last asked; empty if there was none."""
        seen, self._seen = self._seen, {}
        return seen


def over_ranks(measured: Mapping[str, Tensor], ranks: Ranks, device: torch.device) -> dict[str, float]:
    """Tallies of every rank as the numbers of the step: one exchange for all, and one of their names.

    What is :data:`MISSING` on every rank is left out.

    Raises:
        PartError: ranks have other names, as a verifier or gate of one's own may give them.
    """
    if not measured:
        return {}
    names = sorted(measured)
    if ranks.world > 1:
        here = torch.tensor([stable_int("\0".join(names)) >> 1], device=device)
        if len(set(ranks.gather(here).tolist())) > 1:
            raise PartError(
                f"processes have metrics of other names, which cannot be added up: a part's metrics() must give the "
                f"same names on all of them; those of process {ranks.rank} are {', '.join(names)}"
            )
    own = _stacked([measured[name] for name in names], device)
    of_all = ranks.gather(own).unflatten(0, (-1, len(own))).sum(0)
    added = dict(zip(names, of_all.tolist(), strict=True))
    return {name: number(*added[name]) for name in measured if added[name][1] or not name.startswith(MISSING)}


def for_progress_bar(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a step that a progress bar shows, under short names."""
    shown = {"reward": "reward/mean", "gate": "gate/open_rate"}
    return {name: metrics[key] for name, key in shown.items() if key in metrics}


def _stacked(pairs: Sequence[Tensor], device: torch.device) -> Tensor:
    """``[K, 2] float64`` on a device: what is on another one is brought there at once."""
    there = [index for index, pair in enumerate(pairs) if pair.device != device]
    if there and len(there) < len(pairs):
        brought = torch.stack([pairs[index].to(torch.float64) for index in there]).to(device)
        pairs = [*pairs]
        for index, pair in zip(there, brought.unbind(), strict=True):
            pairs[index] = pair
    return torch.stack([pair.to(torch.float64) for pair in pairs]).to(device)

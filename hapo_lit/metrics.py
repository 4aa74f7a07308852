"""The numbers of one step, from its experience.  No I/O: parts return metrics, doors log them."""

from __future__ import annotations

import torch
from torch import Tensor

from hapo_lit.masked import all_equal
from hapo_lit.types import Experience, RolloutGroup


def anneal_metrics(experience: Experience) -> dict[str, float]:
    """What the gate, the injector and the rollouts did in this step.

    ``reward/mean``             success rate of the sampled responses
    ``gate/open_rate``          share of groups whose gate was open
    ``teacher/use``             share of groups that hold a teacher row
    ``teacher/rows``            teacher rows consumed in this step
    ``teacher/refused``         groups whose gate was open and that have no teacher the verifier accepted and that fits
    ``teacher/beside_success``  share of groups with a teacher row *and* a success of the policy's own
    ``teacher/token_share``     share of the batch loss's token weight that lies on teacher tokens
    ``signal/all_wrong``, ``signal/all_right``      share of groups before injection
    ``signal/flat_before``, ``signal/flat``         share of groups with equal rewards, before and after injection
    ``response/length``, ``response/truncated``     mean tokens; share that met the length limit
    """
    group = experience.group
    has_teacher_P = (group.is_teacher & group.present).any(1)
    weight_PG = experience.token_weights.sum(2)
    metrics = {
        "teacher/use": _mean(has_teacher_P),
        "teacher/rows": float((group.is_teacher & group.present).sum()),
        "teacher/token_share": float(weight_PG[group.is_teacher].sum() / weight_PG.sum().clamp(min=1e-12)),
    }
    rollouts = experience.rollouts
    if rollouts is None or experience.teacher_usable is None:
        return metrics
    successes_P, trials_P = rollouts.success_counts()
    lengths_PG = rollouts.mask.sum(2).float()
    return metrics | {
        "reward/mean": float(successes_P.sum() / trials_P.sum().clamp(min=1)),
        "gate/open_rate": _mean(experience.decision.open),
        "teacher/refused": float((experience.decision.open & ~experience.teacher_usable).sum()),
        "teacher/beside_success": _mean(has_teacher_P & (successes_P > 0)),
        "signal/all_wrong": _mean(successes_P == 0),
        "signal/all_right": _mean(successes_P == trials_P),
        "signal/flat_before": _flat_share(rollouts),
        "signal/flat": _flat_share(group),
        "response/length": float(lengths_PG[rollouts.on_policy].mean()),
        "response/truncated": _mean(~rollouts.finished[rollouts.on_policy]),
    }


def ratios(tallies: dict[str, Tensor]) -> dict[str, float]:
    """``[sum, count]`` tallies, added up over micro-batches, as means."""
    return {name: float(total / count) if count else 0.0 for name, (total, count) in tallies.items()}


def _flat_share(group: RolloutGroup) -> float:
    return _mean(all_equal(group.rewards, group.present, 1))


def _mean(flags: Tensor) -> float:
    return float(flags.to(torch.float32).mean())

"""Teacher terms: what a token the teacher wrote adds to the objective.

The policy did not sample these tokens, so that their importance ratio is not known; each class is one way to weigh
them.  ``π`` is the current policy's probability of the token, ``π_old`` that of the policy that sampled the batch,
``Â`` the row's advantage in its group, ``c`` the gate's confidence, ``sg`` stops the gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hapo_lit.contracts import check_part
from hapo_lit.numerics.masked import bounded_exp
from hapo_lit.numerics.ranges import check_not_negative, check_positive
from hapo_lit.protocols import TeacherTerm
from hapo_lit.rows import Rows
from hapo_lit.schedules import Schedule, StepSchedule


class UnitRatio:
    """``Â · π/sg(π)``: the teacher's row is treated as if the policy had sampled it.  Gradient ``Â ∇log π``."""

    needs_advantage, needs_confidence = True, False

    def __call__(self, logprobs: Tensor, rows: Rows) -> Tensor:
        return rows.advantages[:, None] * (logprobs - logprobs.detach()).exp()


class ShapedRatio:
    """``Â · π/(π + s)``: LUFFY's policy shaping (arXiv 2504.14945), which HAPO's experiments use in its Eq. 9.

    The weight on ``Â ∇log π`` is ``s·π/(π+s)²``: 1/4 at its peak ``π = s``, about ``π/s`` for tokens the policy finds
    unlikely.  A policy that gives the teacher's tokens tiny probabilities therefore starts slowly.  With ``s → ∞``,
    ``s`` times this is plain importance weighting of a teacher whose probability was one.

    Args:
        shape: s > 0; 0.1 in LUFFY and HAPO.
    """

    needs_advantage, needs_confidence = True, False

    def __init__(self, shape: float = 0.1) -> None:
        self.shape = check_positive("shape", shape)

    def __call__(self, logprobs: Tensor, rows: Rows) -> Tensor:
        probability = logprobs.exp()
        return rows.advantages[:, None] * probability / (probability + self.shape)


class Literal:
    """``π/(π + s)``: HAPO's Eq. 9 as it is written, in which the teacher's term has no advantage (arXiv 2603.11321).

    Args:
        shape: s > 0.
    """

    needs_advantage, needs_confidence = False, False

    def __init__(self, shape: float = 0.1) -> None:
        self.shape = check_positive("shape", shape)

    def __call__(self, logprobs: Tensor, rows: Rows) -> Tensor:
        probability = logprobs.exp()
        return probability / (probability + self.shape)


class ConfidenceWeighted:
    """``(1 − c) ·`` another term: the lower the estimated success rate, the larger the weight of the teacher.

    HAPO's Eq. 9 says that its operator F depends on c, and not how.  This is the simplest way; the paper's experiments
    do not use it.  Needs a gate that keeps an estimate of the success rate, such as ``BetaGate``.
    """

    def __init__(self, term: TeacherTerm) -> None:
        check_part("teacher.term", term, TeacherTerm)
        self.term = term
        self.needs_advantage, self.needs_confidence = term.needs_advantage, True

    def __call__(self, logprobs: Tensor, rows: Rows) -> Tensor:
        return (1 - rows.confidence[:, None]) * self.term(logprobs, rows)


class ClippedRatio:
    """``min(ρ Â, clip(ρ, 1−ε_low, 1+ε_high) Â)`` with ``ρ = π/π_old``: PPO's objective on the teacher's token.

    Prefix-RFT treats its prefixes so (arXiv 2507.01679).  At the first update on a batch it is :class:`UnitRatio`.
    """

    needs_advantage, needs_confidence = True, False

    def __init__(self, clip_low: float = 0.2, clip_high: float = 0.2) -> None:
        self.clip_low = check_not_negative("clip_low", clip_low, finite=False)
        self.clip_high = check_not_negative("clip_high", clip_high, finite=False)

    def __call__(self, logprobs: Tensor, rows: Rows) -> Tensor:
        ratio = bounded_exp(logprobs - rows.old(logprobs))
        clipped = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        return torch.minimum(ratio * rows.advantages[:, None], clipped * rows.advantages[:, None])


class NegativeLogLikelihood:
    """``coefficient · log π``: supervised learning on the teacher's tokens, whatever their advantage.

    Args:
        coefficient: a number, or a schedule over ``horizon`` steps.
        horizon: steps a schedule runs over.
    """

    needs_advantage, needs_confidence = False, False

    def __init__(self, coefficient: float | Schedule = 1.0, horizon: int | None = None) -> None:
        self.coefficient = StepSchedule(coefficient, horizon, "teacher.coefficient")
        self.coefficient.check_within(0, math.inf, "teacher.coefficient")

    def __call__(self, logprobs: Tensor, rows: Rows) -> Tensor:
        return self.coefficient(rows.step) * logprobs


class Phi:
    """``coefficient · sg(π(1 − π)) · log π``: CHORD-φ (arXiv 2508.11408, §3.3).

    Supervised learning, mostly on tokens whose probability is near one half.

    Args:
        coefficient: a number, or a schedule over ``horizon`` steps.
        horizon: steps a schedule runs over.
    """

    needs_advantage, needs_confidence = False, False

    def __init__(self, coefficient: float | Schedule = 1.0, horizon: int | None = None) -> None:
        self.likelihood = NegativeLogLikelihood(coefficient, horizon)

    def __call__(self, logprobs: Tensor, rows: Rows) -> Tensor:
        probability = logprobs.detach().exp()
        return probability * (1 - probability) * self.likelihood(logprobs, rows)


class MixedPolicyRatio:
    """``Â · sg((1 − π)^γ) · 2π/(π_old + ω)``, ``ω = (π_old + 1)/2``: RL-PLUS (arXiv 2508.00222, as its code has it).

    The importance ratio against a balanced mixture of the old policy and an unknown teacher, times an advantage that is
    larger for unlikely tokens.

    Args:
        exploration: γ ≥ 0, the power; 0.5 in its code.

    π_old is the policy's own probability of the teacher's token before the update, without a gradient.
    """

    needs_advantage, needs_confidence = True, False

    def __init__(self, exploration: float = 0.5) -> None:
        self.exploration = check_not_negative("exploration", exploration)

    def __call__(self, logprobs: Tensor, rows: Rows) -> Tensor:
        probability, old = logprobs.exp(), rows.old(logprobs).exp()
        ratio = 2 * probability / (old + (old + 1) / 2)
        unlikely = (1 - probability.detach()).clamp(min=0) ** self.exploration
        return rows.advantages[:, None] * unlikely * ratio

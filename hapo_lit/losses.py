"""The policy loss: a surrogate on what the policy wrote, a teacher term on what the teacher wrote.

With ``ρ = π_θ/π_old``, advantages ``Â``, token weights ``w`` (HAPO Eqs. 3, 8, 9; PPO, arXiv 1707.06347)::

    loss = − Σ w · { κ · min(ρ Â, clip(ρ, 1−ε_low, 1+ε_high) Â)    on-policy token; κ corrects for the engine
                   { teacher(log π_θ, Â, c)                         teacher token
           + β Σ w · KL(π_θ ‖ π_ref)                                on-policy tokens
           − η Σ w' · H(π_θ)                  all tokens; w' = w unless the weighting has weights for entropies

Three small families fill the braces: what ρ is (``ratio``), how it is bounded (``clip``) and what the difference
between the engine's probabilities and the trainer's is worth (``correction``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from hapo_lit.contracts import check_part, clipped, per_token
from hapo_lit.numerics.masked import LOG_RATIO_BOUND, bounded_exp, masked_mean, masked_sum
from hapo_lit.numerics.ranges import SettingError, check_not_negative, check_positive
from hapo_lit.numerics.tallies import masked_tally, share_tallies
from hapo_lit.protocols import TeacherTerm, check_function
from hapo_lit.rows import LossOutput, Rows

# -- ratio: from log-ratios to a ratio for each token -------------------------------------------------------

Ratio = Callable[[Tensor, Tensor], Tensor]
"""``(log π − log π' [N, T], mask [N, T])`` -> log of the ratio at each token, ``[N, T]``."""


def token_ratio(log_ratio: Tensor, mask: Tensor) -> Tensor:  # noqa: ARG001
    """Each token's own ratio (PPO, GRPO)."""
    return log_ratio


def sequence_ratio(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """The geometric mean over the response, at all its tokens: GSPO (arXiv 2507.18071, Eq. 7)."""
    return masked_mean(log_ratio, mask, 1).expand_as(log_ratio)


def sequence_product(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """The product over the response, at all its tokens: the importance ratio of the sequence (RLOO in TRL)."""
    return masked_sum(log_ratio, mask, 1).expand_as(log_ratio)


# -- clip: how the ratio is bounded -------------------------------------------------------------------------------


class Clip(Protocol):
    def __call__(self, ratio: Tensor, advantages: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor]:
        """``[N, T]`` objective from ρ ``[N, T]``, Â ``[N, 1]`` and log π_θ ``[N, T]``; and where the clip acted."""


class Clipped:
    """``min(ρ Â, clip(ρ, 1−low, 1+high) Â)``: PPO; DAPO (arXiv 2503.14476) sets ``high`` above ``low``."""

    def __init__(self, low: float = 0.2, high: float = 0.2) -> None:
        self.low, self.high = _bound("low", low), _bound("high", high)

    def __call__(self, ratio: Tensor, advantages: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor]:
        plain, clipped = ratio * advantages, ratio.clamp(1 - self.low, 1 + self.high) * advantages
        return torch.minimum(plain, clipped), clipped < plain


class DualClipped(Clipped):
    """As :class:`Clipped`, and at least ``floor · Â`` where ``Â < 0`` (arXiv 1912.09729).

    PPO's clip does not bound ρ from above where the advantage is negative, so that one token could dominate a batch.

    Args:
        floor: the largest ratio that has an effect where ``Â < 0``, above 1; 3 as in verl.
    """

    def __init__(self, low: float = 0.2, high: float = 0.2, floor: float = 3.0) -> None:
        super().__init__(low, high)
        if check_positive("floor", floor, finite=False) <= 1:
            raise SettingError("floor", f"must be above 1, got {floor}")
        self.floor = floor

    def __call__(self, ratio: Tensor, advantages: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor]:
        value, acted = super().__call__(ratio, advantages, logprobs)
        bound = self.floor * advantages
        below = (advantages < 0) & (value < bound)
        return torch.where(below, bound, value), acted | below


class Unclipped:
    """``ρ Â``: plain importance sampling, as in LUFFY's script."""

    def __call__(self, ratio: Tensor, advantages: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor]:
        return ratio * advantages, torch.zeros_like(ratio, dtype=torch.bool)


class Cispo:
    """``sg(clip(ρ, 1−low, 1+high)) Â log π_θ``: the weight is clipped, and every token keeps its gradient.

    CISPO (MiniMax-M1, arXiv 2506.13585, Eqs. 4-5).  The paper does not state its ``high``.  TRL's ``epsilon_high`` is
    the absolute cap ``1 + high``.

    Args:
        low: 1 = no lower bound, as in the paper's experiments.
        high: 4 is a cap of 5, which TRL recommends.
    """

    def __init__(self, low: float = 1.0, high: float = 4.0) -> None:
        self.low, self.high = _bound("low", low), _bound("high", high)

    def __call__(self, ratio: Tensor, advantages: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor]:
        weight = ratio.detach().clamp(1 - self.low, 1 + self.high)
        return weight * advantages * logprobs, weight != ratio.detach()


# -- correction: for the difference between the engine's and the trainer's probabilities --------------------------


class Correction(Protocol):
    def __call__(self, log_ratio: Tensor, mask: Tensor) -> Tensor:
        """``[N, T]`` factors κ without a gradient from log π_old − log π_engine ``[N, T]``."""


class Truncated:
    """``min(π_old/π_engine, cap)``: truncated importance sampling.

    Args:
        cap: largest factor; 2 as in verl.
        ratio: :func:`token_ratio` or :func:`sequence_product`.
    """

    def __init__(self, cap: float = 2.0, ratio: Ratio = token_ratio) -> None:
        check_function(ratio, 2, "loss.correction.ratio")
        self.cap, self.ratio = check_positive("cap", cap, finite=False), ratio

    def __call__(self, log_ratio: Tensor, mask: Tensor) -> Tensor:
        return bounded_exp(self.ratio(log_ratio.detach(), mask)).clamp(max=self.cap)


class Masked:
    """``π_old/π_engine`` within ``[low, high]``, else 0: tokens on which the two differ by more are left out (IcePop).

    Args:
        low, high: 0.5 and 5, verl's IcePop setting.
        ratio: :func:`token_ratio` or :func:`sequence_product`.
    """

    def __init__(self, low: float = 0.5, high: float = 5.0, ratio: Ratio = token_ratio) -> None:
        check_function(ratio, 2, "loss.correction.ratio")
        if not check_not_negative("low", low) < check_positive("high", high, finite=False):
            raise SettingError("low", f"must be below high, got {low} and {high}")
        self.low, self.high, self.ratio = low, high, ratio

    def __call__(self, log_ratio: Tensor, mask: Tensor) -> Tensor:
        factor = bounded_exp(self.ratio(log_ratio.detach(), mask))
        return torch.where((factor >= self.low) & (factor <= self.high), factor, 0.0)


# -- KL to the reference policy -----------------------------------------------------------------------------------

KL_GAP_BOUND = 10.0
"""Nats by which log π_ref may exceed log π_θ before it is cut.  At β = .001 one such token of a thousand weighs
about as much as all others together; at 40 nats it would be the whole direction of the gradient, at 89 infinite."""
KL = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(log π_θ, log π_ref, ρ)`` at sampled tokens -> per-token estimate of KL(π_θ ‖ π_ref)."""


def k1(logprobs: Tensor, reference: Tensor, ratio: Tensor) -> Tensor:  # noqa: ARG001
    """``log π_θ − log π_ref``: unbiased, high variance, can be negative (Schulman, "Approximating KL divergence")."""
    return logprobs - reference


def k2(logprobs: Tensor, reference: Tensor, ratio: Tensor) -> Tensor:  # noqa: ARG001
    """``½ (log π_θ − log π_ref)²``: biased, low variance; its gradient is that of KL when on-policy."""
    return 0.5 * (logprobs - reference).square()


def k3(logprobs: Tensor, reference: Tensor, ratio: Tensor) -> Tensor:  # noqa: ARG001
    """``π_ref/π_θ − 1 − log(π_ref/π_θ)``: unbiased, never negative; GRPO's choice (arXiv 2402.03300, Eq. 4).

    Its value is unbiased, but its gradient is not that of KL.  Beyond :data:`KL_GAP_BOUND` it is held and has no
    gradient.
    """
    log_ratio = (reference - logprobs).clamp(max=KL_GAP_BOUND)
    return log_ratio.exp() - 1 - log_ratio


def k3_reweighted(logprobs: Tensor, reference: Tensor, ratio: Tensor) -> Tensor:
    """``ρ · k3``, with a gradient through ρ too: an unbiased gradient of KL (DeepSeek-V3.2, arXiv 2512.02556; TRL
    1.16's default)."""
    return ratio * k3(logprobs, reference, ratio)


# -- the loss -----------------------------------------------------------------------------------------------------


class Surrogate:
    """The loss of the formula at the top of ``losses.py``.

    Args:
        teacher: what a teacher token adds.
        ratio: :func:`token_ratio`, :func:`sequence_ratio` or :func:`sequence_product`.
        clip: :class:`Clipped`, :class:`DualClipped`, :class:`Unclipped` or :class:`Cispo`.
        correction: :class:`Truncated` or :class:`Masked`; acts whenever the engine reports log-probabilities and is not
            the trainer itself.  None = no correction.
        kl_coefficient: β; 0 = no KL term, and no reference pass either.
        kl: the estimator, one of :func:`k1`, :func:`k2`, :func:`k3`, :func:`k3_reweighted`.
        entropy_coefficient: η; 0 = no bonus.
    """

    def __init__(
        self,
        teacher: TeacherTerm,
        ratio: Ratio = token_ratio,
        clip: Clip | None = None,
        correction: Correction | None = None,
        kl_coefficient: float = 0.0,
        kl: KL = k3,
        entropy_coefficient: float = 0.0,
    ) -> None:
        check_part("teacher", teacher, TeacherTerm)
        check_function(ratio, 2, "loss.ratio")
        check_function(kl, 3, "loss.kl")
        self.teacher, self.ratio, self.correction = teacher, ratio, correction
        self.clip: Clip = Clipped() if clip is None else clip
        check_part("loss.clip", self.clip, Clip)
        if correction is not None:
            check_part("loss.correction", correction, Correction)
        self.kl_coefficient, self.kl = check_not_negative("kl_coefficient", kl_coefficient), kl
        self.entropy_coefficient = check_not_negative("entropy_coefficient", entropy_coefficient)

    @property
    def needs_reference(self) -> bool:
        return self.kl_coefficient != 0

    @property
    def needs_entropy(self) -> bool:
        return self.entropy_coefficient != 0

    @property
    def clips(self) -> bool:
        """True = the clip acts at some ratio; at a ratio of 1 none does."""
        ratio = torch.tensor([1e-4, 1e-4, 1e4, 1e4])[:, None]
        advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None]
        return bool(clipped(self.clip, self.clip(ratio, advantages, -torch.ones_like(ratio)), ratio)[1].any())

    def contributes(self, rows: Rows) -> Tensor:
        counts = (rows.token_weights != 0).any(1)
        if self.needs_reference or self.needs_entropy:
            return counts
        credited = rows.advantages != 0
        return counts & (credited if self.teacher.needs_advantage else credited | rows.is_teacher)

    def __call__(self, logprobs: Tensor, entropy: Tensor, rows: Rows) -> LossOutput:
        is_teacher = rows.is_teacher[:, None]
        on_policy = rows.text.mask & ~is_teacher
        old, weights = rows.old(logprobs), rows.token_weights

        log_ratio = per_token(self.ratio, self.ratio(logprobs - old, rows.text.mask), logprobs)
        ratio = bounded_exp(log_ratio)
        surrogate, acted = clipped(self.clip, self.clip(ratio, rows.advantages[:, None], logprobs), logprobs)
        counted = on_policy & (weights != 0)  # a row that is only there to keep ranks in step has no weight
        taught = rows.text.mask & is_teacher & (weights != 0)
        flags = {
            "loss/clipped_share": acted,
            "loss/clipped_low": acted & (ratio < 1),
            "loss/clipped_high": acted & (ratio > 1),
            "loss/ratio_above_2": ratio > 2,
            "loss/ratio_bounded": log_ratio.abs() > LOG_RATIO_BOUND,
        }
        metrics = share_tallies(flags, counted) | {
            "loss/ratio_mean": masked_tally(ratio, counted),
            "loss/teacher_probability": masked_tally(logprobs.detach().exp(), taught),
            "loss/teacher_ratio_mean": masked_tally(ratio, taught),
        }
        if self.correction is not None and rows.behaviour_logprobs is not None:
            gap = torch.where(on_policy, old - rows.behaviour_logprobs, 0.0)
            factor = per_token(self.correction, self.correction(gap, rows.text.mask), logprobs)
            surrogate = factor * surrogate
            metrics |= {
                "loss/correction": masked_tally(factor, counted),
                "loss/engine_gap": masked_tally(gap.abs(), counted),
            }
        taught_NT = per_token(self.teacher, self.teacher(logprobs, rows), logprobs)
        loss = -(torch.where(is_teacher, taught_NT, surrogate) * weights).sum()
        if rows.reference_logprobs is not None:
            compared = torch.where(is_teacher, rows.reference_logprobs, logprobs)
            kl = per_token(self.kl, self.kl(compared, rows.reference_logprobs, ratio), logprobs)
            loss = loss + self.kl_coefficient * (kl * weights).sum()
            metrics["loss/kl"] = masked_tally(kl, counted)
            metrics["loss/kl_bounded"] = masked_tally(rows.reference_logprobs - logprobs > KL_GAP_BOUND, counted)
        if self.needs_entropy:
            shares = weights if rows.entropy_weights is None else rows.entropy_weights
            loss = loss - self.entropy_coefficient * (entropy * shares).sum()
        return LossOutput(loss, metrics)


def _bound(name: str, value: float) -> float:
    """How far a ratio may go; infinity = any."""
    return check_not_negative(name, value, finite=False)

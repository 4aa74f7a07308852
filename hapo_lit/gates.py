"""Gates: is the policy failing on this prompt, so that a teacher may help?

The paper's gate keeps a Beta belief about the success rate p of the policy on a prompt, updates it with the group at
hand, and opens while the posterior mean is below a threshold (Wu et al., arXiv 2603.11321, Eqs. 5-6, Algorithm 1)::

    p ~ Beta(a0, b0)        S of n on-policy rollouts succeed
    c = (a0 + S) / (a0 + b0 + n)        open  <=>  c < γ

Gates are plain objects, neither modules (DDP would overwrite their counts with rank 0's) nor dataclasses (a
checkpoint would be restored into a copy).  They learn from on-policy counts only, gathered over ranks, so that every
rank remembers the same; injected teacher rows are never evidence of the policy's skill.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import lcm
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hapo_lit.types import GateDecision, ResumeError


class _Memoryless:
    """The empty memory of gates that look at nothing but the group in front of them."""

    def check(self, trials: int) -> None:
        """Always and never are what these gates are for."""

    def observe(self, prompt_ids: Tensor, successes: Tensor, trials: Tensor) -> None:
        """Nothing to remember."""

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state:
            raise ResumeError(
                f"{type(self).__name__} keeps no state, but the checkpoint holds {sorted(state)}: it was written by "
                f"another gate; resume with that gate"
            )


class NeverGate(_Memoryless):
    """Never opens: plain on-policy training."""

    def __call__(self, prompt_ids: Tensor, rewards: Tensor) -> GateDecision:
        return _decision(torch.zeros_like(prompt_ids, dtype=torch.bool))


class AlwaysGate(_Memoryless):
    """Always opens: the teacher sits in every group (LUFFY, arXiv 2504.14945)."""

    def __call__(self, prompt_ids: Tensor, rewards: Tensor) -> GateDecision:
        return _decision(torch.ones_like(prompt_ids, dtype=torch.bool))


class FailureGate(_Memoryless):
    """Opens when the group at hand has at most ``max_successes`` right answers.

    With 0 it opens on all-wrong groups only, where GRPO has no gradient: the baseline any posterior gate must beat.
    """

    def __init__(self, max_successes: int = 0) -> None:
        self.max_successes = max_successes

    def check(self, trials: int) -> None:
        if not 0 <= self.max_successes < trials:
            raise ValueError(
                f"gate.max_successes={self.max_successes} with {trials} rollouts per group: the gate could never "
                f"{'open' if self.max_successes < 0 else 'close'}; set it between 0 and {trials - 1}"
            )

    def __call__(self, prompt_ids: Tensor, rewards: Tensor) -> GateDecision:
        return _decision((rewards > 0).sum(1) <= self.max_successes)


class BetaGate:
    """Opens while the posterior mean of the success rate is below ``threshold``.

    Args:
        threshold: γ in (0, 1].  Compared exactly, as the decimal number it is written as (up to six digits): in
            floating point 0.7 <= 7/10 is a matter of luck.
        prior_alpha: a0 > 0, prior successes.
        prior_beta: b0 > 0, prior failures.
        discount: λ in [0, 1], what is left of a prompt's old counts when it is visited again.  0 = only the current
            group counts (the paper); 1 = the full history.
        allow_degenerate: True = accept a threshold at which the gate can never open or never close.

    The counts after ``observe`` are ``λ · old + (S, n − S)``; ``__call__`` decides from them, so the posterior always
    includes the current group.  A prompt that was never observed is judged by the prior.  One call of ``observe`` is
    one visit, whatever the number of ranks: a prompt that occurs twice in a batch is visited once, with both groups.
    """

    def __init__(
        self,
        threshold: float,
        prior_alpha: float = 1.0,
        prior_beta: float = 1.0,
        discount: float = 0.0,
        allow_degenerate: bool = False,
    ) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"gate threshold must be in (0, 1], got {threshold}")
        if prior_alpha <= 0 or prior_beta <= 0:
            raise ValueError(f"gate prior must be positive, got Beta({prior_alpha}, {prior_beta})")
        if not 0 <= discount <= 1:
            raise ValueError(f"gate discount must be in [0, 1], got {discount}")
        self.threshold, self.discount = threshold, discount
        self.prior_alpha, self.prior_beta = prior_alpha, prior_beta
        self.allow_degenerate = allow_degenerate
        self._counts: dict[int, tuple[float, float]] = {}
        """prompt id -> discounted (successes, failures)"""

    def check(self, trials: int) -> None:
        """The posterior mean lies between a0/(a0+b0+n) and (a0+n)/(a0+b0+n), with n = trials/(1−λ) in the long run."""
        if self.allow_degenerate or self.discount == 1:
            return
        mass = trials / (1 - self.discount)
        total = self.prior_alpha + self.prior_beta + mass
        low, high = self.prior_alpha / total, (self.prior_alpha + mass) / total
        never = {True: "open", False: "close"}
        extremes = np.array([0.0, mass]), np.array([mass, 0.0])
        worst, best = _mean_below(*extremes, self.prior_alpha, self.prior_beta, self.threshold)
        if not worst or best:
            raise ValueError(
                f"gate.threshold={self.threshold} with {trials} rollouts per group: the posterior mean lies between "
                f"{low:.4g} and {high:.4g}, so the gate could never {never[not worst]}; set the threshold above "
                f"{low:.4g} and at most {high:.4g}, change group_size or the prior, or set gate.allow_degenerate=true"
            )

    def observe(self, prompt_ids: Tensor, successes: Tensor, trials: Tensor) -> None:
        ids, visit = np.unique(prompt_ids.cpu().numpy(), return_inverse=True)
        wins = np.bincount(visit, successes.cpu().numpy(), len(ids))
        losses = np.bincount(visit, (trials - successes).cpu().numpy(), len(ids))
        if self.discount == 0:
            self._counts.clear()
        for prompt, won, lost in zip(ids.tolist(), wins.tolist(), losses.tolist(), strict=True):
            old_won, old_lost = self._counts.get(prompt, (0.0, 0.0))
            self._counts[prompt] = (self.discount * old_won + won, self.discount * old_lost + lost)

    def __call__(self, prompt_ids: Tensor, rewards: Tensor) -> GateDecision:
        counts = np.array([self._counts.get(prompt, (0.0, 0.0)) for prompt in prompt_ids.tolist()]).reshape(-1, 2)
        open_P = _mean_below(counts[:, 0], counts[:, 1], self.prior_alpha, self.prior_beta, self.threshold)
        confidence_P = (self.prior_alpha + counts[:, 0]) / (self.prior_alpha + self.prior_beta + counts.sum(1))
        return GateDecision(
            open=torch.from_numpy(open_P).to(prompt_ids.device),
            confidence=torch.from_numpy(confidence_P).float().to(prompt_ids.device),
        )

    def metrics(self) -> dict[str, float]:
        """Mean and spread over prompts of the posterior mean, and how many prompts are remembered."""
        if not self._counts:
            return {"prompts": 0.0}
        counts = np.array(list(self._counts.values()))
        means = (self.prior_alpha + counts[:, 0]) / (self.prior_alpha + self.prior_beta + counts.sum(1))
        return {
            "prompts": float(len(counts)),
            "posterior_mean": float(means.mean()),
            "posterior_spread": float(means.std()),
        }

    def state_dict(self) -> dict[str, Any]:
        counts = np.array(list(self._counts.values()), dtype=np.float64).reshape(-1, 2)
        return {
            "prompt_ids": torch.tensor(list(self._counts), dtype=torch.int64),
            "counts": torch.from_numpy(counts),
            "prior": (self.prior_alpha, self.prior_beta),
            "discount": self.discount,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, mine in (("prior", (self.prior_alpha, self.prior_beta)), ("discount", self.discount)):
            if name not in state:
                raise ResumeError(f"the checkpoint holds no BetaGate state ({name} is missing): it had another gate")
            theirs = state[name]
            if theirs != mine:
                raise ResumeError(f"BetaGate {name} is {mine}, but the checkpoint was written with {theirs}")
        rows = zip(state["prompt_ids"].tolist(), state["counts"].tolist(), strict=True)
        self._counts = {prompt: (won, lost) for prompt, (won, lost) in rows}


def _decision(open_P: Tensor) -> GateDecision:
    return GateDecision(open=open_P, confidence=torch.ones_like(open_P, dtype=torch.float32))


def _mean_below(successes: np.ndarray, failures: np.ndarray, alpha: float, beta: float, threshold: float) -> np.ndarray:
    """``(α + s) / (α + β + s + f) < γ`` elementwise, in integers scaled so that α, β and γ are whole."""
    a, b, gamma = (Fraction(str(value)).limit_denominator(10**6) for value in (alpha, beta, threshold))
    unit = lcm(a.denominator, b.denominator)
    won = unit * successes + int(a * unit)
    total = won + unit * failures + int(b * unit)
    below: np.ndarray = won * gamma.denominator < gamma.numerator * total
    return below

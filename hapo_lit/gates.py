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
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from scipy import special
from torch import Tensor

from hapo_lit.schedules import Constant, Schedule
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


class Belief(NamedTuple):
    """What is known of ``P`` prompts: counts, and the prior they are added to."""

    successes: np.ndarray
    failures: np.ndarray
    prior_alpha: float
    prior_beta: float

    @property
    def alpha(self) -> np.ndarray:
        """``a0 + S``."""
        return self.prior_alpha + self.successes

    @property
    def beta(self) -> np.ndarray:
        """``b0 + n − S``."""
        return self.prior_beta + self.failures

    @property
    def mean(self) -> np.ndarray:
        """The paper's confidence c (Eq. 6)."""
        mean: np.ndarray = self.alpha / (self.alpha + self.beta)
        return mean


class Rule(Protocol):
    """How a belief is compared with the threshold."""

    draws: bool
    """True = the gate opens at random, with this probability; False = the probability is 0 or 1."""

    def probability(self, belief: Belief, threshold: float) -> np.ndarray:
        """``[P]`` probability that the gate opens."""


class PosteriorMean:
    """Opens iff the posterior mean is below γ: the paper's rule (Algorithm 1).

    Compared exactly, as the decimal number γ is written as (up to six digits): in floating point 7/10 < 0.7 is a
    matter of luck.
    """

    draws = False

    def probability(self, belief: Belief, threshold: float) -> np.ndarray:
        a, b, gamma = (
            Fraction(str(value)).limit_denominator(10**6)
            for value in (belief.prior_alpha, belief.prior_beta, threshold)
        )
        unit = lcm(a.denominator, b.denominator)
        won = unit * belief.successes + int(a * unit)
        total = won + unit * belief.failures + int(b * unit)
        below: np.ndarray = won * gamma.denominator < gamma.numerator * total
        return below.astype(np.float64)


class CredibleBound:
    """Opens iff the posterior mass below γ exceeds ``level``.

    A small level helps unless the policy is surely above γ (lower bound), one near 1 helps only when it is surely below
    (upper bound), one half compares the median.
    """

    draws = False

    def __init__(self, level: float = 0.5) -> None:
        if not 0 < level < 1:
            raise ValueError(f"the level of a credible bound must be in (0, 1), got {level}")
        self.level = level

    def probability(self, belief: Belief, threshold: float) -> np.ndarray:
        above: np.ndarray = _mass_below(belief, threshold) > self.level
        return above.astype(np.float64)


class ThompsonSample:
    """Opens iff a draw from the posterior is below γ, hence with the posterior mass below γ.

    It never falls silent: even a policy that always succeeds is helped with probability ``I_γ(a0 + n, b0)``.
    """

    draws = True

    def probability(self, belief: Belief, threshold: float) -> np.ndarray:
        return _mass_below(belief, threshold)


class BetaGate:
    """Opens where the posterior over the success rate lies low, as judged by ``rule`` against ``threshold``.

    Args:
        threshold: γ in [0, 1], or a schedule of it over ``horizon`` calls of ``observe``.  Annealed to
            ``injection_law.cut_off`` or below, the mean rule ends injection for good.
        rule: :class:`PosteriorMean` (the paper), :class:`CredibleBound` or :class:`ThompsonSample`.
        prior_alpha: a0 > 0, prior successes.
        prior_beta: b0 > 0, prior failures.
        discount: λ in [0, 1], what is left of a prompt's old counts when it is visited again.  0 = only the current
            group counts (the paper); 1 = the full history.
        horizon: over how many steps a scheduled threshold runs.
        seed: of a rule that draws.
        allow_degenerate: True = accept a threshold at which the gate can never open or never close.

    The counts after ``observe`` are ``λ · old + (S, n − S)``; ``__call__`` decides from them, so the posterior always
    includes the current group.  A prompt that was never observed is judged by the prior.  One call of ``observe`` is
    one visit, whatever the number of ranks.  A draw is a function of (seed, prompt, number of ``observe`` calls), so a
    decision depends on neither rank nor batch order, and asking twice gives the same answer.
    """

    def __init__(
        self,
        threshold: float | Schedule,
        rule: Rule | None = None,
        prior_alpha: float = 1.0,
        prior_beta: float = 1.0,
        discount: float = 0.0,
        horizon: int | None = None,
        seed: int = 0,
        allow_degenerate: bool = False,
    ) -> None:
        if not callable(threshold) and not 0 < threshold <= 1:
            raise ValueError(f"gate threshold must be in (0, 1], got {threshold}")
        if callable(threshold) and not horizon:
            raise ValueError("a scheduled gate threshold needs gate.horizon, the steps it runs over")
        if prior_alpha <= 0 or prior_beta <= 0:
            raise ValueError(f"gate prior must be positive, got Beta({prior_alpha}, {prior_beta})")
        if not 0 <= discount <= 1:
            raise ValueError(f"gate discount must be in [0, 1], got {discount}")
        self.schedule: Schedule = threshold if callable(threshold) else Constant(threshold)
        self.rule: Rule = PosteriorMean() if rule is None else rule
        self.discount, self.horizon, self.seed = discount, horizon or 1, seed
        self.prior_alpha, self.prior_beta = prior_alpha, prior_beta
        self.allow_degenerate = allow_degenerate
        self._visits = 0
        self._counts: dict[int, tuple[float, float]] = {}
        """prompt id -> discounted (successes, failures)"""

    @property
    def threshold(self) -> float:
        """γ now."""
        return self.schedule(max(self._visits - 1, 0) / self.horizon)

    def check(self, trials: int) -> None:
        """See the seam.  Judged at the extremes of the counts, ``trials/(1−λ)`` all wrong and all right in the long
        run, over the whole course of the threshold."""
        if self.allow_degenerate:
            return
        mass = trials / max(1 - self.discount, 1e-6)
        extremes = self._belief(np.array([0.0, mass]), np.array([mass, 0.0]))
        course = sorted({self.schedule(step / 100) for step in range(101)})
        chances = np.array([self.rule.probability(extremes, threshold) for threshold in course])
        if chances[:, 0].max() > 0 and chances[:, 1].min() < 1:
            return
        low, high = extremes.mean
        verb = "close" if chances[:, 0].max() > 0 else "open"
        raise ValueError(
            f"gate.threshold={course[-1]:g} with {trials} rollouts per group: the posterior mean lies between "
            f"{low:.4g} and {high:.4g}, so the gate could never {verb}; set the threshold above {low:.4g} and at most "
            f"{high:.4g}, change group_size or the prior, or set gate.allow_degenerate=true"
        )

    def observe(self, prompt_ids: Tensor, successes: Tensor, trials: Tensor) -> None:
        ids, visit = np.unique(prompt_ids.cpu().numpy(), return_inverse=True)
        wins = np.bincount(visit, successes.cpu().numpy(), len(ids))
        losses = np.bincount(visit, (trials - successes).cpu().numpy(), len(ids))
        self._visits += 1
        if self.discount == 0:
            self._counts.clear()
        for prompt, won, lost in zip(ids.tolist(), wins.tolist(), losses.tolist(), strict=True):
            old_won, old_lost = self._counts.get(prompt, (0.0, 0.0))
            self._counts[prompt] = (self.discount * old_won + won, self.discount * old_lost + lost)

    def __call__(self, prompt_ids: Tensor, rewards: Tensor) -> GateDecision:
        prompts = prompt_ids.tolist()
        counts = np.array([self._counts.get(prompt, (0.0, 0.0)) for prompt in prompts]).reshape(-1, 2)
        belief = self._belief(counts[:, 0], counts[:, 1])
        chance = self.rule.probability(belief, self.threshold)
        if self.rule.draws:
            chance = chance > [np.random.default_rng((self.seed, prompt, self._visits)).random() for prompt in prompts]
        return GateDecision(
            open=torch.from_numpy(chance > 0).to(prompt_ids.device),
            confidence=torch.from_numpy(belief.mean).float().to(prompt_ids.device),
        )

    def _belief(self, successes: np.ndarray, failures: np.ndarray) -> Belief:
        return Belief(successes, failures, self.prior_alpha, self.prior_beta)

    def metrics(self) -> dict[str, float]:
        """The threshold, mean and spread over prompts of the posterior mean, and how many prompts are remembered."""
        now = {"prompts": float(len(self._counts)), "threshold": self.threshold}
        if not self._counts:
            return now
        counts = np.array(list(self._counts.values()))
        means = self._belief(counts[:, 0], counts[:, 1]).mean
        return {**now, "posterior_mean": float(means.mean()), "posterior_spread": float(means.std())}

    def state_dict(self) -> dict[str, Any]:
        counts = np.array(list(self._counts.values()), dtype=np.float64).reshape(-1, 2)
        return {
            "prompt_ids": torch.tensor(list(self._counts), dtype=torch.int64),
            "counts": torch.from_numpy(counts),
            "visits": self._visits,
            "prior": (self.prior_alpha, self.prior_beta),
            "discount": self.discount,
            "rule": type(self.rule).__name__,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        rule = type(self.rule).__name__
        mine = {"prior": (self.prior_alpha, self.prior_beta), "discount": self.discount, "rule": rule}
        for name, value in mine.items():
            if name not in state:
                raise ResumeError(f"the checkpoint holds no BetaGate state ({name} is missing): it had another gate")
            if state[name] != value:
                raise ResumeError(f"BetaGate {name} is {value}, but the checkpoint was written with {state[name]}")
        self._visits = state["visits"]
        rows = zip(state["prompt_ids"].tolist(), state["counts"].tolist(), strict=True)
        self._counts = {prompt: (won, lost) for prompt, (won, lost) in rows}


def _decision(open_P: Tensor) -> GateDecision:
    return GateDecision(open=open_P, confidence=torch.ones_like(open_P, dtype=torch.float32))


def _mass_below(belief: Belief, threshold: float) -> np.ndarray:
    """``Π = I_γ(a0 + S, b0 + n − S)``: posterior mass below γ."""
    mass: np.ndarray = special.betainc(belief.alpha, belief.beta, threshold)
    return mass

"""Rules: how the posterior over the success rate is compared with the threshold γ.

Each rule also states, in the closed form of :mod:`hapo_lit.injection_law`, how often it opens at a known success rate
(``open_probability``) and at which thresholds it can both open and close (``thresholds``).
"""

from __future__ import annotations

from math import lcm
from typing import NamedTuple, Protocol

import numpy as np
from scipy import special

from hapo_lit import injection_law as law
from hapo_lit.numerics.ranges import SettingError, check_share


class Posterior(NamedTuple):
    """``Beta(a0 + S, b0 + n − S)`` of ``P`` prompts: counts, and the prior they are added to."""

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

    def mass_below(self, threshold: float) -> np.ndarray:
        """``Π = I_γ(a0 + S, b0 + n − S)``: posterior mass below γ."""
        mass: np.ndarray = special.betainc(self.alpha, self.beta, threshold)
        return mass


class Rule(Protocol):
    """How the posterior is compared with the threshold."""

    draws: bool
    """True = the gate opens at random, with this probability; False = the probability is 0 or 1."""

    def probability(self, posterior: Posterior, threshold: float) -> np.ndarray:
        """``[P]`` probability that the gate opens, given the posterior of the current group."""

    def thresholds(self, trials: float, alpha: float, beta: float) -> law.Thresholds:
        """The thresholds at which the gate can both open and close after ``trials`` on a prompt."""

    def open_probability(self, rate: law.Rates, threshold: float, trials: int, alpha: float, beta: float) -> np.ndarray:
        """P(open) at success rate ``rate``, before the group is sampled, for a gate without a memory."""


class PosteriorMean:
    """Opens iff the posterior mean is below γ: the paper's rule (Algorithm 1).

    γ is taken as the decimal number it is written as (up to six digits) and compared in integers, because floating
    point may get 7/10 < 0.7 wrong.
    """

    draws = False

    def probability(self, posterior: Posterior, threshold: float) -> np.ndarray:
        a, b, gamma = map(law.as_fraction, (posterior.prior_alpha, posterior.prior_beta, threshold))
        unit = lcm(a.denominator, b.denominator)
        won = unit * posterior.successes + int(a * unit)
        total = won + unit * posterior.failures + int(b * unit)
        below: np.ndarray = won * gamma.denominator < gamma.numerator * total
        return below.astype(np.float64)

    def thresholds(self, trials: float, alpha: float, beta: float) -> law.Thresholds:
        return law.mean_rule_thresholds(trials, alpha, beta)

    def open_probability(self, rate: law.Rates, threshold: float, trials: int, alpha: float, beta: float) -> np.ndarray:
        return law.mean_rule(rate, threshold, trials, alpha, beta)


class CredibleBound:
    """Opens iff the posterior mass below γ exceeds ``level``.

    A level near 0 compares the lower credible bound with γ: help unless the policy is almost certainly above it.  A
    level near 1 compares the upper bound: help only if the policy is almost certainly below it.  One half compares the
    median.
    """

    draws = False

    def __init__(self, level: float = 0.5) -> None:
        if not 0 < check_share("level", level) < 1:
            raise SettingError("level", f"must be in (0, 1), got {level}")
        self.level = level

    def probability(self, posterior: Posterior, threshold: float) -> np.ndarray:
        opens: np.ndarray = posterior.mass_below(threshold) > self.level
        return opens.astype(np.float64)

    def thresholds(self, trials: float, alpha: float, beta: float) -> law.Thresholds:
        return law.bound_rule_thresholds(self.level, trials, alpha, beta)

    def open_probability(self, rate: law.Rates, threshold: float, trials: int, alpha: float, beta: float) -> np.ndarray:
        return law.bound_rule(rate, threshold, trials, self.level, alpha, beta)


class ThompsonSample:
    """Opens iff a draw from the posterior is below γ, hence with the posterior mass below γ.

    Injection never ends: even a policy that always succeeds is helped with probability ``I_γ(a0 + n, b0)``.
    """

    draws = True

    def probability(self, posterior: Posterior, threshold: float) -> np.ndarray:
        return posterior.mass_below(threshold)

    def thresholds(self, trials: float, alpha: float, beta: float) -> law.Thresholds:
        return law.thompson_rule_thresholds()

    def open_probability(self, rate: law.Rates, threshold: float, trials: int, alpha: float, beta: float) -> np.ndarray:
        return law.thompson_rule(rate, threshold, trials, alpha, beta)

"""Rules: how a belief about the success rate is compared with the threshold γ.

Each rule also knows the probability that it opens (``open_probability``) and the thresholds that make sense for it
(``window``), both in closed form from :mod:`hapo_lit.injection_law`.
"""

from __future__ import annotations

from math import lcm
from typing import NamedTuple, Protocol

import numpy as np
from scipy import special

from hapo_lit import injection_law as law


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

    def mass_below(self, threshold: float) -> np.ndarray:
        """``Π = I_γ(a0 + S, b0 + n − S)``: posterior mass below γ."""
        mass: np.ndarray = special.betainc(self.alpha, self.beta, threshold)
        return mass


class Rule(Protocol):
    """How a belief is compared with the threshold."""

    draws: bool
    """True = the gate opens at random, with this probability; False = the probability is 0 or 1."""

    def probability(self, belief: Belief, threshold: float) -> np.ndarray:
        """``[P]`` probability that the gate opens."""

    def window(self, trials: float, alpha: float, beta: float) -> law.Window:
        """The thresholds at which the gate can both open and close after ``trials`` on a prompt."""

    def open_probability(self, rate: law.Rates, threshold: float, trials: int, alpha: float, beta: float) -> np.ndarray:
        """P(open) at success rate ``rate``, for a group-local gate."""


class PosteriorMean:
    """Opens iff the posterior mean is below γ: the paper's rule (Algorithm 1).

    Compared exactly, as the decimal number γ is written as (up to six digits): in floating point 7/10 < 0.7 is a
    matter of luck.
    """

    draws = False

    def probability(self, belief: Belief, threshold: float) -> np.ndarray:
        a, b, gamma = map(law.exact, (belief.prior_alpha, belief.prior_beta, threshold))
        unit = lcm(a.denominator, b.denominator)
        won = unit * belief.successes + int(a * unit)
        total = won + unit * belief.failures + int(b * unit)
        below: np.ndarray = won * gamma.denominator < gamma.numerator * total
        return below.astype(np.float64)

    def window(self, trials: float, alpha: float, beta: float) -> law.Window:
        return law.mean_window(trials, alpha, beta)

    def open_probability(self, rate: law.Rates, threshold: float, trials: int, alpha: float, beta: float) -> np.ndarray:
        return law.mean_rule(rate, threshold, trials, alpha, beta)


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
        above: np.ndarray = belief.mass_below(threshold) > self.level
        return above.astype(np.float64)

    def window(self, trials: float, alpha: float, beta: float) -> law.Window:
        return law.bound_window(self.level, trials, alpha, beta)

    def open_probability(self, rate: law.Rates, threshold: float, trials: int, alpha: float, beta: float) -> np.ndarray:
        return law.bound_rule(rate, threshold, trials, self.level, alpha, beta)


class ThompsonSample:
    """Opens iff a draw from the posterior is below γ, hence with the posterior mass below γ.

    It never falls silent: even a policy that always succeeds is helped with probability ``I_γ(a0 + n, b0)``.
    """

    draws = True

    def probability(self, belief: Belief, threshold: float) -> np.ndarray:
        return belief.mass_below(threshold)

    def window(self, trials: float, alpha: float, beta: float) -> law.Window:
        return law.thompson_window()

    def open_probability(self, rate: law.Rates, threshold: float, trials: int, alpha: float, beta: float) -> np.ndarray:
        return law.thompson_rule(rate, threshold, trials, alpha, beta)

"""The law of the gate: how likely is an injection, given how well the policy does?

A prompt with success rate ``p`` gives ``S ~ Bin(n, p)`` successes in a group; the posterior is
``Beta(a0 + S, b0 + n − S)``.  Write ``Π(s)`` for the posterior mass below γ after ``s`` successes.  Everything here is
derived for a group-local gate, in float64; nothing is sampled.

What follows from it, and corrects the convergence theorems of arXiv 2603.11321 v1: at fixed γ and n the mean rule
injects with a probability that vanishes only as p → 1; a Thompson draw keeps a floor ``I_γ(a0 + n, b0)`` even there;
and a prompt whose p stays below γ is helped for ever.  Only a threshold that is annealed to ``cut_off`` ends injection
in finite time.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, log

import numpy as np
from scipy import special, stats


def mass_below(threshold: float, successes: np.ndarray, trials: int, alpha: float = 1, beta: float = 1) -> np.ndarray:
    """``Π(s) = I_γ(a0 + s, b0 + n − s)``, decreasing in ``s``."""
    s = np.asarray(successes)
    mass: np.ndarray = special.betainc(alpha + s, beta + trials - s, threshold)
    return mass


def most_successes(threshold: float, trials: int, alpha: float = 1, beta: float = 1) -> int:
    """The largest ``S`` at which the mean rule opens: ``⌈γ(a0+b0+n) − a0⌉ − 1``, in rationals.

    Negative = it never opens; ``trials`` or more = it never closes.
    """
    gamma, a, b = (Fraction(str(value)) for value in (threshold, alpha, beta))
    return ceil(gamma * (a + b + trials) - a) - 1


def mean_rule(rate: float, threshold: float, trials: int, alpha: float = 1, beta: float = 1) -> float:
    """P(inject) of the posterior-mean rule: ``P[S ≤ m] = I_{1−p}(n − m, m + 1)``."""
    return _at_most(most_successes(threshold, trials, alpha, beta), rate, trials)


def bound_rule(rate: float, threshold: float, trials: int, level: float, alpha: float = 1, beta: float = 1) -> float:
    """P(inject) of the credible-bound rule ``Π(S) > level``.

    A small level asks whether the *lower* credible bound is below γ (help unless sure), one near 1 whether the *upper*
    one is (help only when sure), one half whether the median is.
    """
    opens = mass_below(threshold, np.arange(trials + 1), trials, alpha, beta) > level
    return _at_most(int(opens.sum()) - 1, rate, trials)


def thompson_rule(rate: float, threshold: float, trials: int, alpha: float = 1, beta: float = 1) -> float:
    """P(inject) of a Thompson draw below γ: ``Σ_s P[S = s] Π(s)``, the uniform mixture of the bound rules."""
    s = np.arange(trials + 1)
    return float(stats.binom.pmf(s, trials, rate) @ mass_below(threshold, s, trials, alpha, beta))


def cut_off(trials: int, alpha: float = 1, beta: float = 1) -> float:
    """``a0 / (a0 + b0 + n)``: at this threshold and below, the mean rule is exactly off."""
    return alpha / (alpha + beta + trials)


def closing_visit(
    threshold: float, trials: int, discount: float, failed_visits: int, alpha: float = 1, beta: float = 1
) -> int:
    """At which visit the mean rule first closes for a policy that failed throughout and then always succeeds.

    Full history (λ = 1): counted from the first visit, ``failed_visits`` of which failed:
    ``⌈(N t0 + γ(a0+b0) − a0) / (N (1−γ))⌉``, about ``t0 / (1−γ)``.
    Discounted (0 < λ < 1): counted from the first success, after so many failures that the memory has settled:
    ``⌈ln(1 − γ + (a0 − γ(a0+b0)) / n_eff) / ln λ⌉`` with ``n_eff = N / (1−λ)``.
    """
    if discount == 1:
        lag = trials * failed_visits + threshold * (alpha + beta) - alpha
        return ceil(round(lag / (trials * (1 - threshold)), 9))
    settled = trials / (1 - discount)
    return ceil(round(log(1 - threshold + (alpha - threshold * (alpha + beta)) / settled) / log(discount), 9))


def bias_bound(gradient_norm: float, injection_probability: float) -> float:
    """``‖E ĝ_HAPO − E ĝ_on-policy‖ ≤ 2 B P(inject)`` for per-group gradients of norm at most ``B``.

    Couple both learners on the same group: they differ only when the gate is open.
    """
    return 2 * gradient_norm * injection_probability


def _at_most(count: int, rate: float, trials: int) -> float:
    return float(stats.binom.cdf(count, trials, rate)) if count < trials else 1.0

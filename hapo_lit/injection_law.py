"""The injection law: how likely is an injection, given the policy's success rate?

A prompt with success rate ``p`` gives ``S ~ Bin(n, p)`` successes in a group; the posterior is
``Beta(a0 + S, b0 + n − S)``.  Write ``Π(s)`` for the posterior mass below γ after ``s`` successes.  Everything here is
in closed form and float64; nothing is sampled.  ``docs/theory.md`` has the derivations, with examples.

What follows corrects the convergence theorems of arXiv 2603.11321 v1.  At fixed γ and n the mean rule injects with a
probability that vanishes only as p → 1.  A Thompson draw keeps a floor ``I_γ(a0 + n, b0)`` even there.  A prompt whose
p stays below γ is helped for ever.  Only a threshold that is annealed to ``cut_off`` ends injection in finite time.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, exp, floor, log, log10, sqrt
from typing import NamedTuple

import numpy as np
from scipy import special, stats

Rates = float | np.ndarray
"""Success rates of prompts, one or many; what is computed from them has the same shape."""

# -- P(inject | p): gates without a memory ------------------------------------------------------------------------


def mass_below(threshold: float, successes: np.ndarray, trials: int, alpha: float = 1, beta: float = 1) -> np.ndarray:
    """``Π(s) = I_γ(a0 + s, b0 + n − s)``, decreasing in ``s``."""
    s = np.asarray(successes)
    mass: np.ndarray = special.betainc(alpha + s, beta + trials - s, threshold)
    return mass


def as_fraction(value: float) -> Fraction:
    """A number as the decimal it is written as, up to six digits: 7/10 < 0.7 is false, which floats may get wrong."""
    return Fraction(str(value)).limit_denominator(10**6)


def max_successes_to_open(threshold: float, trials: int, alpha: float = 1, beta: float = 1) -> int:
    """The largest ``S`` at which the mean rule opens: ``⌈γ(a0+b0+n) − a0⌉ − 1``, in rationals.

    Negative = it never opens; ``trials`` or more = it never closes.
    """
    gamma, a, b = map(as_fraction, (threshold, alpha, beta))
    return ceil(gamma * (a + b + trials) - a) - 1


def mean_rule(rate: Rates, threshold: float, trials: int, alpha: float = 1, beta: float = 1) -> np.ndarray:
    """P(inject) of the posterior-mean rule: ``P[S ≤ m] = I_{1−p}(n − m, m + 1)``."""
    return probability_of_at_most(max_successes_to_open(threshold, trials, alpha, beta), rate, trials)


def max_successes_of_bound(threshold: float, trials: int, level: float, alpha: float = 1, beta: float = 1) -> int:
    """The largest ``S`` at which the credible-bound rule opens; negative = it never opens."""
    opens = mass_below(threshold, np.arange(trials + 1), trials, alpha, beta) > level
    return int(opens.sum()) - 1


def bound_rule(
    rate: Rates, threshold: float, trials: int, level: float, alpha: float = 1, beta: float = 1
) -> np.ndarray:
    """P(inject) of the credible-bound rule ``Π(S) > level``.

    A level near 0 asks whether the *lower* credible bound is below γ, one near 1 whether the *upper* bound is, one half
    whether the median is.
    """
    return probability_of_at_most(max_successes_of_bound(threshold, trials, level, alpha, beta), rate, trials)


def thompson_rule(rate: Rates, threshold: float, trials: int, alpha: float = 1, beta: float = 1) -> np.ndarray:
    """P(inject) of a Thompson draw below γ: ``Σ_s P[S = s] Π(s)``, the uniform mixture of the bound rules.

    With Beta(1, 1) it is a race: ``P[X > S]`` for ``X ~ Bin(n + 1, γ)`` independent of ``S``.
    """
    s = np.arange(trials + 1)
    probability: np.ndarray = stats.binom.pmf(s, trials, np.asarray(rate)[..., None]) @ mass_below(
        threshold, s, trials, alpha, beta
    )
    return probability


def probability_of_at_most(count: int, rate: Rates, trials: int) -> np.ndarray:
    """``P[S ≤ count]`` for ``S ~ Bin(trials, rate)``: P(inject) of a gate that opens on at most so many successes."""
    below: np.ndarray = stats.binom.cdf(count, trials, rate)
    return below


# -- thresholds at which a gate can both open and close -----------------------------------------------------------


class Thresholds(NamedTuple):
    """The thresholds at which a gate can open (``low < γ``) and can close (``γ ≤ high``)."""

    low: float
    high: float
    never_opens: tuple[str, float]
    """The inequality under which it never opens, and its right-hand side."""
    never_closes: tuple[str, float]
    """The inequality under which it never closes, and its right-hand side."""

    @property
    def lowest(self) -> float:
        """The lowest threshold of four digits that can open."""
        return _four_digits(self.low, up=True)

    @property
    def highest(self) -> float:
        """The highest threshold of four digits that can close."""
        return _four_digits(self.high, up=False)


def _four_digits(edge: float, up: bool) -> float:
    """The nearest number of four digits above ``edge``, or at or below it."""
    unit = 10.0 ** (floor(log10(edge)) - 3) if edge > 0 else 1e-4
    whole = floor(edge / unit + 1e-9)
    return float(f"{(whole + up) * unit:.10g}")


def mean_rule_thresholds(trials: float, alpha: float = 1, beta: float = 1) -> Thresholds:
    """Thresholds of the mean rule: ``a0/(a0+b0+n) < γ ≤ (a0+n)/(a0+b0+n)``, in rationals."""
    a, b, n = map(as_fraction, (alpha, beta, trials))
    low, high = float(a / (a + b + n)), float((a + n) / (a + b + n))
    return Thresholds(low, high, ("γ ≤ a0/(a0+b0+n)", low), ("γ > (a0+n)/(a0+b0+n)", high))


def bound_rule_thresholds(level: float, trials: float, alpha: float = 1, beta: float = 1) -> Thresholds:
    """Thresholds of the credible-bound rule: between the quantiles at ``level`` after n failures and n successes."""
    low = float(special.betaincinv(alpha, beta + trials, level))
    high = float(special.betaincinv(alpha + trials, beta, level))
    quantile = f"{level:g} quantile of Beta"
    return Thresholds(low, high, (f"γ ≤ {quantile}(a0, b0+n)", low), (f"γ > {quantile}(a0+n, b0)", high))


def thompson_rule_thresholds() -> Thresholds:
    """Thresholds of a Thompson draw: ``0 < γ < 1``, as a draw may then fall on either side."""
    return Thresholds(0.0, 1 - 1e-7, ("γ ≤ 0", 0.0), ("γ ≥ 1", 1.0))


def cut_off(trials: int, alpha: float = 1, beta: float = 1) -> float:
    """``a0 / (a0 + b0 + n)``: at this threshold and below, the mean rule is exactly off."""
    return mean_rule_thresholds(trials, alpha, beta).low


# -- large groups and memory --------------------------------------------------------------------------------------


def kl_bernoulli(first: float, second: float) -> float:
    """``kl(a‖b)`` of two Bernoulli distributions, in nats."""
    return float(special.rel_entr(first, second) + special.rel_entr(1 - first, 1 - second))


def mean_rule_bound(rate: float, threshold: float, trials: int, alpha: float = 1, beta: float = 1) -> float:
    """``P(inject) ≤ exp(−n · kl(m/n ‖ p))`` of the mean rule, if ``m/n < p`` (Chernoff); 1 otherwise.

    Its rate tends to ``kl(γ‖p)`` as n grows.
    """
    share = max_successes_to_open(threshold, trials, alpha, beta) / trials
    if share < 0:
        return 0.0
    return exp(-trials * kl_bernoulli(share, rate)) if share < rate else 1.0


def thompson_rule_bound(rate: float, threshold: float, trials: int) -> float:
    """``P(inject) ≤ ((1−γ)/u + γ) · (√(pγ) + √((1−p)(1−γ)))^{2n}`` of a Thompson draw with Beta(1, 1), ``γ < p < 1``.

    ``u = √((1−γ)p / (γ(1−p)))``.  The rate ``−2 log(√(pγ) + √((1−p)(1−γ)))`` is slower than the mean rule's.
    """
    if not threshold < rate < 1:
        return 1.0
    u = sqrt((1 - threshold) * rate / (threshold * (1 - rate)))
    affinity = sqrt(rate * threshold) + sqrt((1 - rate) * (1 - threshold))
    return ((1 - threshold) / u + threshold) * affinity ** (2 * trials)


def discounted_rule_bound(
    rate: float, threshold: float, trials: int, discount: float, alpha: float = 1, beta: float = 1
) -> float:
    """``P(inject) ≤ exp(−2N (1+λ)/(1−λ) · (p − γ')²)`` of the mean rule with settled memory λ < 1 (Hoeffding).

    ``γ' = γ + (γ(a0+b0) − a0)/n_eff``, ``n_eff = N/(1−λ)``; 1 where ``p ≤ γ'``.
    """
    shifted = threshold + (threshold * (alpha + beta) - alpha) * (1 - discount) / trials
    if rate <= shifted:
        return 1.0
    return exp(-2 * trials * (1 + discount) / (1 - discount) * (rate - shifted) ** 2)


def thompson_floor(threshold: float, trials: int, discount: float = 0.0, alpha: float = 1, beta: float = 1) -> float:
    """``I_γ(a0 + n_eff, b0)``: how often a Thompson draw still helps a policy that always succeeds."""
    return float(special.betainc(alpha + trials / (1 - discount), beta, threshold))


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

"""Beta-posterior gate (the paper's), with other rules and memory.

It keeps a Beta posterior over the success rate p of the policy on a prompt, updates it with the current group, and
opens while the posterior mean is below a threshold (Wu et al., arXiv 2603.11321, Eqs. 5-6, Algorithm 1)::

    p ~ Beta(a0, b0)        S of n on-policy rollouts succeed
    c = (a0 + S) / (a0 + b0 + n)        open  <=>  c < γ
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hapo_lit.contracts import check_part
from hapo_lit.gates.memory import Memory
from hapo_lit.gates.rules import Posterior, PosteriorMean, Rule
from hapo_lit.gates.simple import check_same_settings
from hapo_lit.injection_law import Rates
from hapo_lit.numerics.draws import uniform
from hapo_lit.numerics.ranges import SettingError, check_positive, check_seed
from hapo_lit.schedules import Schedule, StepSchedule
from hapo_lit.types import GateDecision


class BetaGate:
    """Opens where the posterior over the success rate lies low, as judged by ``rule`` against ``threshold``.

    Args:
        threshold: γ in [0, 1], or a schedule of it over ``horizon`` calls of ``observe``.  Annealed to
            ``injection_law.cut_off`` or below, the mean rule ends injection for good.
        rule: :class:`PosteriorMean` (the paper), :class:`CredibleBound` or :class:`ThompsonSample`.
        memory: how much of a prompt's earlier visits counts; None = only the current group, as in the paper.
        prior_alpha: a0 > 0, prior successes.
        prior_beta: b0 > 0, prior failures.
        horizon: over how many calls of ``observe`` a scheduled threshold runs: the steps of the gate's own phase.
        seed: of a rule that draws.
        allow_degenerate: True = accept a threshold at which the gate can never open or never close.

    ``__call__`` decides from the counts after ``observe``, so the posterior always includes the current group.  A
    prompt that was never observed is judged by the prior.  One call of ``observe`` is one visit, whatever the number
    of ranks.  A draw is a function of (seed, prompt, number of ``observe`` calls): a decision depends on neither the
    rank nor the order of the batch, and a second call of ``__call__`` gives the same decision.
    """

    estimates = True

    def __init__(
        self,
        threshold: float | Schedule,
        rule: Rule | None = None,
        memory: Memory | None = None,
        prior_alpha: float = 1.0,
        prior_beta: float = 1.0,
        horizon: int | None = None,
        seed: int = 0,
        allow_degenerate: bool = False,
    ) -> None:
        for name, prior in (("prior_alpha", prior_alpha), ("prior_beta", prior_beta)):
            if not 1e-6 <= check_positive(name, prior) <= 1e6:
                raise SettingError(name, f"must be from 1e-6 to 1e6, got {prior}")
        self._threshold_schedule = StepSchedule(threshold, horizon, "gate.threshold")
        self._threshold_schedule.check_within(0, 1, "gate.threshold")
        self.rule: Rule = PosteriorMean() if rule is None else rule
        self.memory = Memory() if memory is None else memory
        check_part("gate.rule", self.rule, Rule)
        check_part("gate.memory", self.memory, Memory)
        self.prior_alpha, self.prior_beta = prior_alpha, prior_beta
        self.seed, self.allow_degenerate = check_seed(seed), allow_degenerate
        self._visits = 0
        self._batch = np.empty(0, dtype=np.int64)
        """The prompts of the last ``observe``."""

    @property
    def threshold(self) -> float:
        """γ at the last visit."""
        return self._threshold_schedule(max(self._visits - 1, 0))

    def check(self, trials: int) -> None:
        """Raise ``ValueError`` if no threshold of the schedule lets the gate open, or none lets it close.

        Judged with as many trials as the memory settles at.
        """
        usable = self.rule.thresholds(self.memory.effective_trials(trials), self.prior_alpha, self.prior_beta)
        scheduled = sorted(self._threshold_schedule.values())
        if self.allow_degenerate or (scheduled[-1] > usable.low and scheduled[0] <= usable.high):
            return
        if scheduled[-1] > usable.low:
            verb, gamma, (formula, edge), nearest = "close", scheduled[0], usable.never_closes, usable.highest
        else:
            verb, gamma, (formula, edge), nearest = "open", scheduled[-1], usable.never_opens, usable.lowest
        advice = (
            f"the nearest threshold that can open and close is {nearest:.6g}. Set gate.threshold={nearest:.6g}, change"
            if 0 <= nearest <= 1
            else "change"
        )
        raise ValueError(
            f"gate.threshold={gamma:g} with {trials} rollouts per group could never {verb}: {formula} = {edge:.6g}; "
            f"{advice} group_size or the prior, or set gate.allow_degenerate=true"
        )

    def open_probability(self, rate: Rates, trials: int, visit: int) -> np.ndarray | None:
        """P(open) at a visit, as in ``protocols.HasOpenProbability``; None with a
        memory, as the probability then depends on it."""
        if self.memory.discount:
            return None
        threshold = self._threshold_schedule(visit)
        return self.rule.open_probability(rate, threshold, trials, self.prior_alpha, self.prior_beta)

    def observe(self, prompt_ids: Tensor, successes: Tensor, trials: Tensor) -> None:
        self._batch = prompt_ids.cpu().numpy()
        self._visits += 1
        self.memory.add(self._batch, successes.cpu().numpy(), (trials - successes).cpu().numpy())

    def __call__(self, prompt_ids: Tensor, successes: Tensor) -> GateDecision:
        prompts = prompt_ids.cpu().numpy()
        posterior = self._posterior(prompts)
        probability = self.rule.probability(posterior, self.threshold)
        opens = probability > (uniform("gate", self.seed, prompts, self._visits) if self.rule.draws else 0)
        return GateDecision(
            open=torch.from_numpy(opens).to(prompt_ids.device),
            confidence=torch.from_numpy(posterior.mean).float().to(prompt_ids.device),
        )

    def _posterior(self, prompts: np.ndarray) -> Posterior:
        counts = self.memory.counts_of(prompts)
        return Posterior(counts[:, 0], counts[:, 1], self.prior_alpha, self.prior_beta)

    def metrics(self) -> dict[str, float]:
        """The threshold, how many prompts are remembered, and mean and spread of the posterior means of this step's
        prompts.

        The law at these means would be no prediction of how often the gate opens: it has seen the very groups, and the
        prior draws it together.  ``injection.csv`` compares what can be compared.
        """
        values = {"prompts": float(len(self.memory)), "threshold": self.threshold}
        if not len(self._batch):
            return values
        means = self._posterior(np.unique(self._batch)).mean
        return values | {"posterior_mean": float(means.mean()), "posterior_spread": float(means.std())}

    @property
    def _settings(self) -> dict[str, Any]:
        """Settings that a checkpoint and the gate that it is loaded into must have in common."""
        return {
            "prior": (self.prior_alpha, self.prior_beta),
            "discount": self.memory.discount,
            "rule": f"{type(self.rule).__name__}{vars(self.rule)}",
            "threshold": self._threshold_schedule.values(),
            "seed": self.seed,
        }

    def state_dict(self) -> dict[str, Any]:
        return {**self._settings, **self.memory.state_dict(), "visits": self._visits}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_same_settings(self, self._settings, state)
        self._visits = state["visits"]
        self.memory.load_state_dict(state)

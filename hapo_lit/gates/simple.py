"""Gates that look at nothing but the group in front of them, or not even that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hapo_lit.draws import uniform
from hapo_lit.injection_law import Rates, at_most
from hapo_lit.schedules import Course, Schedule
from hapo_lit.types import GateDecision, ResumeError


class Memoryless:
    """The empty memory of gates that remember nothing."""

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


class NeverGate(Memoryless):
    """Never opens: plain on-policy training."""

    def __call__(self, prompt_ids: Tensor, rewards: Tensor) -> GateDecision:
        return decision(torch.zeros_like(prompt_ids, dtype=torch.bool))

    def chance(self, rate: Rates, trials: int, visit: int) -> np.ndarray:
        return np.zeros_like(rate)


class AlwaysGate(Memoryless):
    """Always opens: the teacher sits in every group (LUFFY, arXiv 2504.14945)."""

    def __call__(self, prompt_ids: Tensor, rewards: Tensor) -> GateDecision:
        return decision(torch.ones_like(prompt_ids, dtype=torch.bool))

    def chance(self, rate: Rates, trials: int, visit: int) -> np.ndarray:
        return np.ones_like(rate)


class FailureGate(Memoryless):
    """Opens when the group at hand has at most ``max_successes`` right answers (HPT, arXiv 2509.04419).

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
        return decision((rewards > 0).sum(1) <= self.max_successes)

    def chance(self, rate: Rates, trials: int, visit: int) -> np.ndarray:
        return at_most(self.max_successes, rate, trials)


class ScheduledGate:
    """Opens at random with a probability that follows a schedule, whatever the policy does.

    The teacher's share of methods that mix by the clock and not by need (CHORD, arXiv 2508.11408), and the control
    experiment for any gate that claims to choose *where* to help.  A draw is a function of (seed, prompt, number of
    ``observe`` calls).

    Args:
        probability: in [0, 1], or a schedule of it over ``horizon`` calls of ``observe``.
        horizon: over how many steps a schedule runs.
        seed: of the draws.
    """

    def __init__(self, probability: float | Schedule, horizon: int | None = None, seed: int = 0) -> None:
        self.probability = Course(probability, horizon, "gate.probability")
        least, *_, most = 2 * self.probability.values()
        if least < 0 or most > 1:
            raise ValueError(f"gate.probability must stay in [0, 1], and goes from {least:g} to {most:g}")
        self.seed = seed
        self._visits = 0

    def check(self, trials: int) -> None:
        """Any share is meant."""

    def observe(self, prompt_ids: Tensor, successes: Tensor, trials: Tensor) -> None:
        self._visits += 1

    def __call__(self, prompt_ids: Tensor, rewards: Tensor) -> GateDecision:
        drawn = uniform(self.seed, prompt_ids.cpu().numpy(), self._visits)
        return decision(torch.from_numpy(drawn < self._now).to(prompt_ids.device))

    def chance(self, rate: Rates, trials: int, visit: int) -> np.ndarray:
        return np.full_like(rate, self.probability(visit))

    @property
    def _now(self) -> float:
        return self.probability(max(self._visits - 1, 0))

    def metrics(self) -> dict[str, float]:
        return {"probability": self._now}

    def state_dict(self) -> dict[str, Any]:
        return {"draws": self._visits}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if set(state) != {"draws"}:
            raise ResumeError(f"ScheduledGate keeps a count of draws, but the checkpoint holds {sorted(state)}")
        self._visits = state["draws"]


def decision(open_P: Tensor) -> GateDecision:
    """A decision without an estimate of the success rate."""
    return GateDecision(open=open_P, confidence=torch.ones_like(open_P, dtype=torch.float32))

"""Gates without a memory: they look at the current group only, or at nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hapo_lit.errors import ResumeError
from hapo_lit.injection_law import Rates, probability_of_at_most
from hapo_lit.numerics.draws import uniform
from hapo_lit.numerics.ranges import check_seed
from hapo_lit.schedules import Schedule, StepSchedule
from hapo_lit.types import GateDecision


class Memoryless:
    """What a gate needs besides its decision if it remembers nothing: subclasses add ``__call__``."""

    estimates = False

    def check(self, trials: int) -> None:
        """Nothing to refuse: such a gate may always open or never close."""

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

    def __call__(self, prompt_ids: Tensor, successes: Tensor) -> GateDecision:
        return decision(torch.zeros_like(prompt_ids, dtype=torch.bool))

    def open_probability(self, rate: Rates, trials: int, visit: int) -> np.ndarray:
        return np.zeros_like(rate)


class AlwaysGate(Memoryless):
    """Always opens: the teacher sits in every group (LUFFY, arXiv 2504.14945)."""

    def __call__(self, prompt_ids: Tensor, successes: Tensor) -> GateDecision:
        return decision(torch.ones_like(prompt_ids, dtype=torch.bool))

    def open_probability(self, rate: Rates, trials: int, visit: int) -> np.ndarray:
        return np.ones_like(rate)


class FailureGate(Memoryless):
    """Opens when the current group has at most ``max_successes`` right answers (HPT, arXiv 2509.04419).

    With 0 it opens on all-wrong groups only, where GRPO has no gradient: the baseline for gates with a posterior.
    """

    def __init__(self, max_successes: int = 0) -> None:
        self.max_successes = max_successes

    def check(self, trials: int) -> None:
        if not 0 <= self.max_successes < trials:
            raise ValueError(
                f"gate.max_successes={self.max_successes} with {trials} rollouts per group: the gate could never "
                f"{'open' if self.max_successes < 0 else 'close'}; set it between 0 and {trials - 1}"
            )

    def __call__(self, prompt_ids: Tensor, successes: Tensor) -> GateDecision:
        return decision((successes == 1).sum(1) <= self.max_successes)

    def open_probability(self, rate: Rates, trials: int, visit: int) -> np.ndarray:
        return probability_of_at_most(self.max_successes, rate, trials)


class ScheduledGate:
    """Opens at random with a probability that follows a schedule, whatever the policy does.

    For methods whose teacher's share follows the step (CHORD, arXiv 2508.11408), and the control experiment for gates
    that choose *where* to help.  A draw is a function of (seed, prompt, number of ``observe`` calls).

    Args:
        probability: in [0, 1], or a schedule of it over ``horizon`` calls of ``observe``.
        horizon: over how many steps a schedule runs.
        seed: of the draws.
    """

    estimates = False

    def __init__(self, probability: float | Schedule, horizon: int | None = None, seed: int = 0) -> None:
        self.probability = StepSchedule(probability, horizon, "gate.probability")
        self.probability.check_within(0, 1, "gate.probability")
        self.seed = check_seed(seed)
        self._visits = 0

    def check(self, trials: int) -> None:
        """Nothing to refuse: a probability of 0 or 1 is allowed."""

    def observe(self, prompt_ids: Tensor, successes: Tensor, trials: Tensor) -> None:
        self._visits += 1

    def __call__(self, prompt_ids: Tensor, successes: Tensor) -> GateDecision:
        drawn = uniform("gate", self.seed, prompt_ids.cpu().numpy(), self._visits)
        return decision(torch.from_numpy(drawn < self._current).to(prompt_ids.device))

    def open_probability(self, rate: Rates, trials: int, visit: int) -> np.ndarray:
        return np.full_like(rate, self.probability(visit))

    @property
    def _current(self) -> float:
        return self.probability(max(self._visits - 1, 0))

    def metrics(self) -> dict[str, float]:
        return {"probability": self._current}

    def state_dict(self) -> dict[str, Any]:
        return {"visits": self._visits, "probability": self.probability.values(), "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_same_settings(self, {"probability": self.probability.values(), "seed": self.seed}, state)
        self._visits = state["visits"]


def check_same_settings(gate: object, settings: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Raise ``ResumeError`` unless the checkpoint of a gate was written with these settings."""
    name = type(gate).__name__
    for key, value in settings.items():
        if key not in state:
            raise ResumeError(f"the checkpoint holds no {name} state ({key} is missing): it had another gate")
        if state[key] != value:
            both = "" if isinstance(value, tuple) and len(value) > 2 else f" ({state[key]} then, {value} now)"
            raise ResumeError(f"the checkpoint was written with another {key} of {name}{both}: resume with that one")


def decision(open_P: Tensor) -> GateDecision:
    """A decision without an estimate of the success rate."""
    return GateDecision(open=open_P, confidence=torch.ones_like(open_P, dtype=torch.float32))

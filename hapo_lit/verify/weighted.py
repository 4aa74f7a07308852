"""Several rewards in one: accuracy, format, length, or others, each with its weight.

Only one of them says what a success is, so that gates, injectors, teacher checks and evaluations see right answers, and
advantages see the sum.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hapo_lit.contracts import asked_by, check_part, reported
from hapo_lit.protocols import Verifier
from hapo_lit.rows import Judgement, Questions
from hapo_lit.verify.answers import only_box
from hapo_lit.verify.judging import judge


class WeightedVerifier:
    """``r = Σ_k w_k · r_k``; a response is right if the reward named ``success`` calls it right.

    Each reward is a verifier; its mean is logged as ``rewards/<name>``, before the weight.

    Args:
        rewards: name -> verifier.
        weights: name -> w_k, any finite number; that of ``success`` is above 0.
        success: the reward that says what is right.
    """

    def __init__(
        self, rewards: Mapping[str, Verifier], weights: Mapping[str, float], success: str = "accuracy"
    ) -> None:
        for name, verifier in rewards.items():
            check_part(f"verifier.rewards.{name}", verifier, Verifier)
        if set(rewards) != set(weights):
            raise ValueError(
                f"verifier.weights has {', '.join(weights) or 'nothing'}, and verifier.rewards has "
                f"{', '.join(rewards) or 'nothing'}: give each reward a weight, 0 to log it only"
            )
        if success not in rewards:
            raise ValueError(f"verifier.success={success} is none of the rewards {', '.join(rewards)}")
        for name, weight in weights.items():
            if not isinstance(weight, int | float) or not math.isfinite(weight):
                raise ValueError(f"verifier.weights.{name}={weight} must be a finite number")
        if weights[success] <= 0:
            raise ValueError(f"verifier.weights.{success}={weights[success]} would not pay for success: set it above 0")
        self.rewards, self.weights, self.success = dict(rewards), dict(weights), success
        self.asks_for = tuple(sorted({name for verifier in rewards.values() for name in asked_by(verifier)}))
        self._metrics: dict[str, float] = {}

    def __call__(self, responses: Sequence[str], answers: Sequence[str], **asked: Any) -> Judgement:
        started, questions = time.perf_counter(), Questions(answers, **asked)
        judgements = {name: judge(verifier, responses, questions) for name, verifier in self.rewards.items()}
        ordered = [verifier for name, verifier in self.rewards.items() if name != self.success]
        self._metrics = {
            name: value
            for verifier in (*ordered, self.rewards[self.success])  # whose metrics win
            for name, value in reported(verifier, verifier.metrics()).items()
        }
        for name, judgement in judgements.items():
            self._metrics[f"rewards/{name}"] = float(judgement.rewards.mean()) if len(responses) else 0.0
        self._metrics["time/verify"] = time.perf_counter() - started
        total = torch.zeros(len(responses))
        for name, judgement in judgements.items():
            total = total + self.weights[name] * judgement.rewards
        return Judgement(total, judgements[self.success].successes)

    def metrics(self) -> dict[str, float]:
        return self._metrics

    def fingerprint(self) -> list[object]:
        """What decides its verdicts."""
        return [self.rewards, self.weights, self.success]


class BoxAtTheEnd:
    """The reward for form: 1 if the response has exactly one ``\\boxed{}`` and ends with it, whatever it holds."""

    def __call__(self, responses: Sequence[str], answers: Sequence[str]) -> torch.Tensor:
        return torch.tensor([float(only_box(response) is not None) for response in responses])

    def metrics(self) -> dict[str, float]:
        return {}


class Brevity:
    """The reward for length: 1 up to ``free`` characters, falling in a straight line to 0 at ``limit``.

    Characters, as a verifier sees texts; ``advantage=soft_overlong`` counts tokens.

    Args:
        free: characters that cost nothing.
        limit: characters from which on there is nothing to earn.
    """

    def __init__(self, free: int, limit: int) -> None:
        if not 0 <= free < limit:
            raise ValueError(f"a reward for length needs 0 <= free < limit, got free={free} and limit={limit}")
        self.free, self.limit = free, limit

    def __call__(self, responses: Sequence[str], answers: Sequence[str]) -> torch.Tensor:
        lengths = torch.tensor([len(response) for response in responses], dtype=torch.float32)
        return ((self.limit - lengths) / (self.limit - self.free)).clamp(0, 1)

    def metrics(self) -> dict[str, float]:
        return {}

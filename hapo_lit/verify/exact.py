"""The verifier that needs no algebra."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from hapo_lit.verify.answers import only_box
from hapo_lit.verify.kinds import numbers
from hapo_lit.verify.latex import normalise


class ExactVerifier:
    """1 if the response has one box, ends with it, and it holds the answer as a number or the same string.

    For tasks where the work is the point: a verifier that does algebra would accept ``\\boxed{7547-2293}``, the
    question itself, as the answer to "Compute 7547-2293.".
    """

    def __init__(self) -> None:
        self._metrics: dict[str, float] = {}

    def __call__(self, responses: Sequence[str], answers: Sequence[str]) -> Tensor:
        started = time.perf_counter()
        boxes = [only_box(response) for response in responses]
        verdicts = [box is not None and _same(answer, box) for answer, box in zip(answers, boxes, strict=True)]
        self._metrics = {
            "time/verify": time.perf_counter() - started,
            "verify/no_answer": boxes.count(None) / max(len(boxes), 1),
        }
        return torch.tensor(verdicts, dtype=torch.float32)

    def metrics(self) -> dict[str, float]:
        return self._metrics

    def fingerprint(self) -> str:
        """Nothing: there are no settings."""
        return ""


def _same(gold: str, answer: str) -> bool:
    left, right = normalise(gold), normalise(answer)
    if left == right:
        return bool(left)
    one, two = numbers.read(left), numbers.read(right)
    return one is not None and two is not None and one.value == two.value

"""The verifier for mathematics: cheap equality first, then algebra in a killable process."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from hapo_lit.verify.answers import last_box
from hapo_lit.verify.equality import plainly_equal
from hapo_lit.verify.pool import DIED, EQUAL, TIMEOUT, UNPARSABLE, AlgebraPool

MAX_ANSWER_LENGTH = 300
"""Longer boxes are refused unread: no answer needs it, and it is where parsers are slow.  So are several formulas."""


class MathVerifier:
    """1 if the last box of the response equals the reference answer, by algebra where needed.

    Strings and plain numbers are decided in process in microseconds; what is left goes through
    ``latex2sympy2_extended`` and ``math-verify`` in :class:`~hapo_lit.verify.pool.AlgebraPool`.

    Args:
        workers, seconds, memory_mib: see the pool.
    """

    def __init__(self, workers: int = 1, seconds: float = 5.0, memory_mib: int = 2048) -> None:
        self._pool = AlgebraPool(workers, seconds, memory_mib)
        self._metrics: dict[str, float] = {}

    def __call__(self, responses: Sequence[str], answers: Sequence[str]) -> Tensor:
        started = time.perf_counter()
        boxes = [last_box(response) for response in responses]
        verdicts = torch.zeros(len(responses))
        undecided: dict[tuple[str, str], list[int]] = {}
        refused = 0
        for row, (answer, box) in enumerate(zip(answers, boxes, strict=True)):
            if box is None:
                continue
            if len(box) > MAX_ANSWER_LENGTH or "$" in box.strip("$ "):
                refused += 1
                continue
            equal = plainly_equal(answer, box)
            if equal is None:
                undecided.setdefault((answer, box), []).append(row)
            else:
                verdicts[row] = float(equal)
        codes = self._pool.compare(list(undecided))
        for code, rows in zip(codes, undecided.values(), strict=True):
            verdicts[rows] = float(code == EQUAL)
        count = max(len(responses), 1)
        self._metrics = {
            "time/verify": time.perf_counter() - started,
            "verify/no_answer": boxes.count(None) / count,
            "verify/refused": refused / count,
            "verify/unparsable": codes.count(UNPARSABLE) / count,
            "verify/timeout": (codes.count(TIMEOUT) + codes.count(DIED)) / count,
        }
        return verdicts

    def metrics(self) -> dict[str, float]:
        return self._metrics

"""Numbers that change with progress: learning rates, gate thresholds, mixing weights.

A schedule is a function of progress in [0, 1] and remembers nothing, so a resumed run needs no schedule state.
"""

from __future__ import annotations

import math
from typing import Protocol


class Schedule(Protocol):
    def __call__(self, progress: float) -> float:
        """Value at ``progress``, the share in [0, 1] of the steps already taken."""


class Constant:
    """``value`` throughout."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, progress: float) -> float:
        return self.value


class Linear:
    """A straight line from ``start`` to ``end``."""

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, end

    def __call__(self, progress: float) -> float:
        return self.start + (self.end - self.start) * _clamped(progress)


class Cosine:
    """Half a cosine wave from ``start`` to ``end``: flat at both ends."""

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, end

    def __call__(self, progress: float) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * _clamped(progress))) / 2


def _clamped(progress: float) -> float:
    return min(max(progress, 0.0), 1.0)

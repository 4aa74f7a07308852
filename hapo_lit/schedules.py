"""Numbers that change with progress: learning rates, gate thresholds, mixing weights.

A schedule is a function of progress in [0, 1] without a state of its own: a checkpoint holds nothing of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from hapo_lit.numerics.ranges import SettingError, check_finite, check_optional_count, check_positive, check_share


class Schedule(Protocol):
    def __call__(self, progress: float) -> float:
        """Value at ``progress``, the share in [0, 1] of the steps already taken."""


class Constant:
    """``value`` throughout."""

    def __init__(self, value: float) -> None:
        self.value = check_finite("value", value)

    def __call__(self, progress: float) -> float:
        return self.value


class Linear:
    """A straight line from ``start`` to ``end``."""

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = check_finite("start", start), check_finite("end", end)

    def __call__(self, progress: float) -> float:
        return self.start + (self.end - self.start) * _clamped(progress)


class Cosine:
    """Half a cosine wave from ``start`` to ``end``: flat at both ends."""

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = check_finite("start", start), check_finite("end", end)

    def __call__(self, progress: float) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * _clamped(progress))) / 2


class WarmupLinear(Linear):
    """From 0 up to ``start`` in a straight line over the first ``warmup`` of the way, then down to ``end`` in another.

    Args:
        start: the highest value.
        end: the last value.
        warmup: share of the way in [0, 1); the first step has the value 0, as everywhere.
    """

    def __init__(self, start: float, end: float = 0.0, warmup: float = 0.05) -> None:
        super().__init__(start, end)
        self.warmup = _warmup(warmup)

    def __call__(self, progress: float) -> float:
        return _with_warmup(super().__call__, self.warmup, progress)


class WarmupCosine(Cosine):
    """As :class:`WarmupLinear`, but down from ``start`` to ``end`` along half a cosine wave."""

    def __init__(self, start: float, end: float = 0.0, warmup: float = 0.05) -> None:
        super().__init__(start, end)
        self.warmup = _warmup(warmup)

    def __call__(self, progress: float) -> float:
        return _with_warmup(super().__call__, self.warmup, progress)


class Step:
    """``start`` until ``at``, a share of the way, and ``end`` from there on."""

    def __init__(self, start: float, end: float, at: float = 0.5) -> None:
        self.start, self.end = check_finite("start", start), check_finite("end", end)
        self.at = check_share("at", at)

    def __call__(self, progress: float) -> float:
        return self.start if progress < self.at else self.end


class Sigmoid:
    """``end + (start − end) / (1 + exp(steepness · (progress − middle)))``: a smooth step, at no time quite ``end``."""

    def __init__(self, start: float, end: float, middle: float = 0.5, steepness: float = 10.0) -> None:
        self.start, self.end = check_finite("start", start), check_finite("end", end)
        self.middle, self.steepness = check_finite("middle", middle), check_positive("steepness", steepness)

    def __call__(self, progress: float) -> float:
        share = (1 + math.tanh(self.steepness * (_clamped(progress) - self.middle) / 2)) / 2
        return self.start + (self.end - self.start) * share


class Complement:
    """``1 −`` another schedule: the other weight of a mixture."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def __call__(self, progress: float) -> float:
        return 1 - self.schedule(progress)


def some_steps(count: int) -> list[int]:
    """Steps before ``count``: all of them, or a thousand and the last."""
    return sorted({*range(0, count, max(1, count // 1000)), *range(max(0, count - 1), count)})


class StepSchedule:
    """A number, or a schedule over ``horizon`` steps, that a part reads at each step.

    Args:
        value: the number or schedule.
        horizon: steps it runs over; a schedule needs it, a number does not.
        name: of the parameter, for the error.
    """

    def __init__(self, value: float | Schedule, horizon: int | None, name: str) -> None:
        if not callable(value) and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{name} must be a number or a schedule, got {value!r}")
        if callable(value) and (type(horizon) is not int or horizon < 1):
            raise ValueError(f"{name} is a schedule and needs a horizon of at least 1 step (${{steps}}), got {horizon}")
        check_optional_count("horizon", horizon)
        self.name = name
        self.schedule: Schedule = value if callable(value) else Constant(value)
        self.horizon = horizon if callable(value) and horizon else 1

    def __call__(self, step: int) -> float:
        """The value at ``step``, counted from 0."""
        return self.schedule(step / self.horizon)

    def values(self) -> tuple[float, ...]:
        """Its values in order: at every step, or at a thousand of them and the last."""
        found = tuple(map(self, some_steps(self.horizon)))
        if wrong := [value for value in found if not isinstance(value, int | float) or not math.isfinite(value)]:
            raise ValueError(f"{self.name} must be a finite number at every step, and is {wrong[0]!r}")
        return found

    def check_within(self, low: float, high: float, name: str) -> None:
        """Raise ``ValueError`` if one of its values is outside ``[low, high]``."""
        lowest, highest = min(self.values()), max(self.values())
        if not low <= lowest <= highest <= high:
            span = f"{lowest:g}" if lowest == highest else f"{lowest:g} to {highest:g}"
            allowed = "not be negative" if math.isinf(high) else f"stay in [{low:g}, {high:g}]"
            raise ValueError(f"{name} must {allowed}, and is {span}")


def step_schedules(parts: Iterable[object]) -> Iterator[StepSchedule]:
    """Every :class:`StepSchedule` that one of the parts holds, itself or in a part of its own."""
    seen: set[int] = set()
    waiting = list(parts)
    while waiting:
        part = waiting.pop()
        if id(part) in seen or type(part).__module__.startswith(("torch.", "transformers.", "numpy")):
            continue
        seen.add(id(part))
        if isinstance(part, StepSchedule):
            yield part
        elif isinstance(part, Mapping):
            waiting.extend(part.values())
        elif isinstance(part, list | tuple):
            waiting.extend(part)
        else:
            waiting.extend(getattr(part, "__dict__", {}).values())


def _warmup(share: float) -> float:
    if check_share("warmup", share) == 1:
        raise SettingError("warmup", "must be a share of the way in [0, 1), got 1")
    return share


def _with_warmup(schedule: Schedule, warmup: float, progress: float) -> float:
    progress = _clamped(progress)
    if progress < warmup:
        return schedule(0.0) * progress / warmup
    return schedule((progress - warmup) / (1 - warmup))


def _clamped(progress: float) -> float:
    return min(max(progress, 0.0), 1.0)

"""What numbers a parameter may have.  Each check refuses NaN and what is no number, and returns the value.

``name`` is the parameter's own: where the part stands in a configuration, the command line knows.
"""

from __future__ import annotations

import math
from typing import NoReturn

MOST = 4096
"""Rows, workers and passes of which more are a slip of the finger: they would take hours or all memory."""


class SettingError(ValueError):
    """A parameter of a part has a value that it cannot have; ``parameter`` is its name, ``reason`` the rest."""

    def __init__(self, parameter: str, reason: str) -> None:
        super().__init__(f"{parameter} {reason}")
        self.parameter, self.reason = parameter, reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.parameter, self.reason)


def check_positive(name: str, value: float, finite: bool = True) -> float:
    """``0 < value``, and below infinity unless that is a limit that never acts (``finite=False``)."""
    if not _is_number(value) or not value > 0 or (finite and value == math.inf):
        _refuse(name, f"a number above 0{' and finite' * finite}", value)
    return value


def check_not_negative(name: str, value: float, finite: bool = True) -> float:
    """``0 <= value``, and below infinity unless that is a limit that never acts (``finite=False``)."""
    if not _is_number(value) or not value >= 0 or (finite and value == math.inf):
        _refuse(name, f"a number and not negative{', and finite' * finite}", value)
    return value


def check_finite(name: str, value: float) -> float:
    """Any number but NaN and the infinities."""
    if not _is_number(value) or not math.isfinite(value):
        _refuse(name, "a finite number", value)
    return value


def check_share(name: str, value: float) -> float:
    """``0 <= value <= 1``."""
    if not _is_number(value) or not 0 <= value <= 1:
        _refuse(name, "in [0, 1]", value)
    return value


def check_count(name: str, value: int, least: int = 1, most: int | None = None) -> int:
    """A whole number of at least ``least``, and at most ``most``."""
    if type(value) is not int or value < least or (most is not None and value > most):
        span = f"of at least {least}" if most is None else f"from {least} to {most:,}"
        _refuse(name, f"a whole number {span}", value)
    return value


def check_optional_count(name: str, value: int | None, least: int = 1, most: int | None = None) -> int | None:
    """As :func:`check_count`, or None."""
    return None if value is None else check_count(name, value, least, most)


def check_seed(value: int) -> int:
    """A whole number of at least 0."""
    return check_count("seed", value, least=0)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refuse(name: str, requirement: str, value: object) -> NoReturn:
    raise SettingError(name, f"must be {requirement}, got {'null' if value is None else repr(value)}")

"""Hydra composes a configuration twice: once for ``hydra.mode`` alone, and once to run.

The first is a third of what a test of a mistake costs, and is left out where a command line asks for no sweep: of what
ships, the searches alone set the mode (``test_sweep.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

MODE = "hydra._internal.hydra.Hydra.get_mode"
"""The method that gives it, or None."""
SWEEPS = ("-m", "--multirun", "sweep=", "hydra.mode=")


def asks_for_a_sweep(arguments: Sequence[str]) -> bool:
    """Whether Hydra has to find out."""
    return any(argument.lstrip("+").startswith(SWEEPS) for argument in arguments)


def no_mode(*_: object, **__: object) -> None:
    """In the place of that method."""

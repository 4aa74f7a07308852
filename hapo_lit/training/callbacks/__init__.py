"""Callbacks of a run, one a file; each is a :class:`hapo_lit.training.interfaces.RunCallback`."""

from __future__ import annotations

from lightning.pytorch.callbacks import Callback


def in_order(**named: Callback | None) -> list[Callback]:
    """Callbacks by name, so that one can be changed or left out (None) by name, as a list."""
    return [callback for callback in named.values() if callback is not None]

"""The precisions that a run may compute in."""

from __future__ import annotations

PRECISIONS = ("32-true", "bf16-mixed")
"""In 16-mixed gradients would be clipped before they are unscaled, in bf16-true weights and rewards be rounded."""


def check_precision(key: str, precision: str | int) -> None:
    """Raise ``ValueError`` at a precision that is not supported; ``key`` is the setting that holds it."""
    if precision not in PRECISIONS:
        raise ValueError(f"{key}={precision} is not supported: set {' or '.join(PRECISIONS)}")

"""``deterministic=true``: the same bits whenever a run is repeated on the same devices."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
WORKSPACES = (":4096:8", ":16:8")
"""Its values with which cuBLAS adds up in the same order every time; the first one is set where there is none."""


def make_deterministic() -> None:
    """Let torch use deterministic algorithms alone, from now on; to be called before the first operation on a device.

    An operation that has none then raises an error, see :func:`without_deterministic_form`.

    Raises:
        ValueError: the environment contradicts it.
    """
    if os.environ.setdefault(CUBLAS, WORKSPACES[0]) not in WORKSPACES:
        raise ValueError(f"deterministic=true and {CUBLAS}={os.environ[CUBLAS]} contradict one another: unset that")
    os.environ.setdefault("FLASH_ATTENTION_DETERMINISTIC", "1")  # which transformers reads
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


@contextmanager
def determinism_restored() -> Iterator[None]:
    """Afterwards torch chooses its algorithms as before."""
    enabled, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warns)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn


def without_deterministic_form(error: BaseException) -> str | None:
    """Which operation has no deterministic form, and what helps, if that is what an error came from; else None."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RuntimeError) and (
            found := re.match(r"(\S+) does not have a deterministic implementation", str(cause))
        ):
            return (
                f"deterministic=true: the operation {found[1]} has no deterministic form on this device: do without "
                f"what uses it (such as another model.attention or model.compile), or set deterministic=false"
            )
        cause = cause.__cause__ or cause.__context__
    return None

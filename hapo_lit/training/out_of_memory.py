"""Out-of-memory errors, reported with the settings to lower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hapo_lit.errors import MemoryShortError


@contextmanager
def when_out_of_memory(doing: str, lower: str) -> Iterator[None]:
    """Inside, running out of memory becomes a :class:`~hapo_lit.errors.MemoryShortError`.

    Args:
        doing: what is done inside, for the message.
        lower: the settings that make it smaller.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        short = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
        if not short:
            raise
        raise MemoryShortError(f"out of memory while {doing}: lower {lower}") from error

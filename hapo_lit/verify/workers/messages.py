"""The messages between the parent, the fork server and the workers.  A worker never replies with a pickle."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Protocol


class Code(IntEnum):
    """What became of a pair.  Only EQUAL earns a reward."""

    NOT_EQUAL = 0
    EQUAL = 1
    UNPARSABLE = 2
    BAD_GOLD = 3
    TIMEOUT = 4
    DIED = 5


class Comparer(Protocol):
    """What a worker does.  It is pickled to the workers, which must be able to import its module."""

    preload: tuple[str, ...]
    """Modules to import before the first worker is forked, so that a new one is ready at once."""

    def prepare(self) -> None:
        """Called once in each worker, before its memory is limited."""

    def __call__(self, gold: str, answer: str) -> Code:
        """An ``Exception`` means UNPARSABLE; a MemoryError, and what is no ``Exception``, end the worker: DIED."""
        ...


READY = b"\xff"
"""A worker's first message; anything else is the reason why it cannot start."""
TASK = struct.Struct("!QQ")
"""To a worker: sizes of gold and answer in bytes; their texts follow.  It replies with one byte, a :class:`Code`."""
CODEC = ("utf-8", "surrogatepass")
REQUEST = struct.Struct("!q")
"""To the fork server: number of a worker, to be started if a pipe comes with it, else to be ended."""
REPORT = struct.Struct("!q")
"""From the fork server: how the worker ended, as its exit code, negative for a signal."""

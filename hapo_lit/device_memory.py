"""What a device has, what sampling takes of it, and how many sequences fit at once.

A run and ``hapo plan`` decide by the same functions, so that they come to the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from typing import NamedTuple

USABLE = 0.9
"""Share of what is free that sampling takes at most: the allocator cannot use all of it, and not all is counted."""


class RolloutBatch(NamedTuple):
    """What one process samples in a step: some number of sequences, and how long they may be.

    Example:
        ``RolloutBatch(sequences=16 * 8, prompt=1024, response=8192, group=8)`` for 16 prompts with 8 responses each.
    """

    sequences: int
    """Responses of all its prompts."""
    prompt: int
    """Maximum tokens of a prompt."""
    response: int
    """Maximum tokens of a response."""
    group: int = 1
    """Responses to each prompt."""

    @property
    def tokens(self) -> int:
        """Maximum tokens of a sequence, prompt included."""
        return self.prompt + self.response

    @property
    def prompts(self) -> int:
        """Prompts that so many consecutive sequences may belong to, at most."""
        return min(self.sequences, ceil((self.sequences - 1) / self.group) + 1)

    @classmethod
    def largest(cls, prompts: int, processes: int, rollouts: int, prompt: int, response: int) -> RolloutBatch:
        """The batch of the process that has most.

        Args:
            prompts: of a step, over all processes.
            processes: that share them.
            rollouts: of each prompt.
            prompt, response: tokens of each, at most.
        """
        return cls(ceil(prompts / processes) * rollouts, prompt, response, max(1, rollouts))


class DeviceMemory(NamedTuple):
    """Bytes of a device.

    Example:
        ``DeviceMemory(total=80 * 2**30, free=62 * 2**30)``.
    """

    total: int
    free: int
    """Free whenever the process samples: without what it holds by then, whether or not it is allocated yet."""


PLENTY = DeviceMemory(2**62, 2**62)
"""A device whose memory is not known: as if there were enough."""


class SamplingMemory(NamedTuple):
    """What an engine takes of the policy's device, besides the policy.

    Example:
        ``SamplingMemory({"keys and values": 6 * 2**30}, at_once=24)``.
    """

    held: Mapping[str, int]
    """Kind -> bytes while it samples."""
    at_once: int
    """Sequences that are sampled at once when all are at full length; the others wait."""
    stays: bool = False
    """True = all of it is held while the policy is updated, too."""

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return sum(self.held.values())


def sequences_that_fit(memory: Callable[[int], int], most: int, room: int) -> int:
    """How many sequences are sampled at once, so that all get their turn in as few, equally large parts as fit.

    Args:
        memory: number of sequences -> bytes; about linear, so that two of its values tell the others.
        most: sequences there are.
        room: bytes that they may take.

    Returns:
        at least 1, even where that does not fit.
    """
    whole = memory(most)
    if whole <= room or most == 1:
        return most
    one = memory(1)
    fit = max(1, 1 + int((room - one) * (most - 1) / (whole - one))) if room > one else 1
    while fit > 1 and memory(fit) > room:
        fit = fit * 9 // 10
    return ceil(most / ceil(most / fit))

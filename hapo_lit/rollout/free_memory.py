"""What is free on a device, for engines that go by it."""

from __future__ import annotations

import torch

from hapo_lit.device_memory import DeviceMemory


def memory_of(device: torch.device, to_come: int) -> DeviceMemory:
    """What a CUDA device has, and what of it is free for sampling.

    Args:
        device: this process's.
        to_come: bytes that the process will keep there and has not allocated yet.
    """
    free, total = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return DeviceMemory(total, free + cached - to_come)

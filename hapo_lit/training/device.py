"""On which kind of device a run computes."""

from __future__ import annotations

import torch


def chosen_accelerator(name: str) -> str:
    """The accelerator for Lightning: ``auto`` is CUDA where there is a device, else the CPU.

    Lightning's own ``auto`` would take Apple's GPU, which has no float64; metrics are added up in that.
    """
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name

"""The optimiser of a policy: what it trains, what is under its wrapper, and what a step sets in it."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

from hapo_lit.training.phases import Phases


def trained_parameters(policy: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that learn: all of them, or those of an adapter."""
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """Torch's own optimiser: the ``state`` of Lightning's or Fabric's wrapper is not the live one after loading."""
    inner: Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner


def set_for_step(optimizer: Optimizer, phases: Phases, step: int) -> None:
    """Give an optimiser the learning rate of ``step``, and empty moments where a phase begins fresh."""
    inner = unwrapped(optimizer)
    if phases.begins_fresh(step):
        inner.state.clear()
    for group in inner.param_groups:
        group["lr"] = phases.learning_rate(step)

"""The optimiser of a policy: what it trains, what is under its wrapper, and what a step sets in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch.optim import Optimizer

from hapo_lit.errors import PartError, one_line
from hapo_lit.policy.sharding import local
from hapo_lit.training.phases import Phases


def trained_parameters(policy: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that learn: all of them, or those of an adapter."""
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]


def made(make: Callable[[Iterable[torch.nn.Parameter]], Optimizer], parameters: list[torch.nn.Parameter]) -> Optimizer:
    """An optimiser of parameters.

    Raises:
        PartError: it cannot be made with its settings, or is none.
    """
    try:
        optimizer = make(parameters)
    except (TypeError, ValueError) as error:
        settings = getattr(make, "keywords", {})
        given = f" (optim has {', '.join(f'{name}={value}' for name, value in settings.items())})" if settings else ""
        raise PartError(f"optim: {one_line(str(error), 300)}{given}") from error
    if not isinstance(optimizer, Optimizer):
        raise PartError(f"optim must make a torch.optim.Optimizer; it made a {type(optimizer).__name__}")
    return optimizer


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


def bytes_to_come(optimizer: Optimizer | None, parameters: Iterable[torch.nn.Parameter]) -> int:
    """Bytes that an optimiser will keep on this process from its first step on, and does not keep yet.

    Args:
        optimizer: None = it is not made yet, and is taken for one with two moments, as AdamW is.
        parameters: those that it trains.
    """
    if optimizer is None:
        return 2 * sum(local(parameter).nbytes for parameter in parameters)
    inner = unwrapped(optimizer)
    kept = 2 if "betas" in inner.defaults else int(bool(inner.defaults.get("momentum")))
    return kept * sum(local(parameter).nbytes for parameter in parameters if parameter not in inner.state)

"""What the ranks of a run ask of one another, by one collective operation: an all-gather."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hapo_lit.protocols import Ranks

Value = TypeVar("Value")


def ranks_over(all_gather: Callable[[Tensor], Any], device: torch.device, rank: int, world: int) -> Ranks:
    """The ranks of several processes.

    Args:
        all_gather: Lightning's: a tensor of this rank -> ``[world, ...]`` of all.
        device: of this rank; collective operations need tensors on it.
        rank: this process's number, from 0.
        world: how many processes there are.
    """

    def gathered(values: Tensor) -> Tensor:
        of_all = all_gather(values)
        assert isinstance(of_all, Tensor)
        return of_all

    def barrier() -> None:
        gathered(torch.zeros((), device=device)).cpu()  # a GPU's all-gather is over only when it is read

    return Ranks(
        gather=lambda values: gathered(values).flatten(0, 1),
        mean=lambda value: gathered(value).mean(),
        max=lambda number: int(gathered(torch.tensor(number, device=device)).max()),
        barrier=barrier,
        rank=rank,
        world=world,
    )


def of_all_ranks(value: Value, group: dist.ProcessGroup | None = None) -> list[Value]:
    """A small value of every rank, in their order; of this process alone where there is no process group.  Collective.

    Args:
        value: of this rank.
        group: of all ranks; None = the run's own.
    """
    if not dist.is_initialized():
        return [value]
    found: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(found, value, group=group)
    return found

"""Several ranks in one process, a thread each, which meet for every collective operation."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor

from hapo_lit.protocols import Ranks

Result = TypeVar("Result")


def on_ranks(world: int, task: Callable[[Ranks], Result]) -> list[Result]:
    """What ``task`` returns on each of ``world`` ranks."""
    barrier, values = Barrier(world, timeout=20), [torch.zeros(0)] * world

    def ranks_of(rank: int) -> Ranks:
        def gather(value: Tensor) -> Tensor:
            values[rank] = value
            barrier.wait()
            assert len({(found.shape, found.dtype) for found in values}) == 1, "ranks gather tensors of other shapes"
            of_all = torch.cat(values)
            barrier.wait()
            return of_all

        return Ranks(
            gather=gather,
            mean=lambda value: gather(value[None]).mean(),
            max=lambda number: int(gather(torch.tensor([number])).max()),
            barrier=lambda: gather(torch.zeros(1)) and None,
            rank=rank,
            world=world,
        )

    def run(rank: int) -> Result:
        try:
            return task(ranks_of(rank))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(run, range(world)))

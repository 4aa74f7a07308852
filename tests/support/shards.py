"""One process of several, without the others: what it would gather from them has arbitrary contents."""

from __future__ import annotations

from contextlib import contextmanager

import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore


@contextmanager
def process(rank=0, count=1):
    """Inside, this is process ``rank`` of ``count``; gives their mesh.  One of one gathers its own, in full."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=count)
    try:
        yield init_device_mesh("cpu", (count,))
    finally:
        dist.destroy_process_group()

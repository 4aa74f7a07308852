"""Why a run cannot resume from a checkpoint: damaged bytes, no run state, or weights that are not finite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist

from hapo_lit.errors import ResumeError
from hapo_lit.training.checkpoint_format import damage, has_tensors, is_sharded, load
from hapo_lit.training.finite import not_finite, some_of
from hapo_lit.training.ranks import of_all_ranks
from hapo_lit.training.shards import parts_in

PART = 2**30
"""Bytes of tensors in shards that are read at once."""


def check(path: Path) -> None:
    """Raise ``ResumeError`` unless a run can resume from this path.  Collective, as :func:`fault`."""
    if path.is_dir() and not is_sharded(path):
        raise ResumeError(
            f"{path} is a folder and no checkpoint: name a checkpoint in it, such as RUN/checkpoints/last.ckpt"
        )
    if found := fault(path):
        raise ResumeError(f"{path} is damaged ({found}): try an older checkpoint in {path.parent}, or resume=auto")


def fault(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None.

    All of it is read.  Where there is a process group every rank must call it: each tensor is read by one of them, and
    all come to know what was found.
    """
    if found := damage(path):
        return found
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    return next(filter(None, of_all_ranks(_fault_of_share(path, rank, world))), None)


def _fault_of_share(path: Path, rank: int, world: int) -> str | None:
    try:
        names = [name for part in _share(path, rank, world) for name in not_finite(part)]
    except ResumeError as error:
        return str(error)
    return f"weights that are not finite: {some_of(names)}" if names else None


def _share(path: Path, rank: int, world: int) -> Iterator[Any]:
    state = load(path)
    if has_tensors(path):
        yield from parts_in(path, PART, rank, world)
    if rank == 0:
        yield {name: state.get(name) for name in ("module", "optimizer")}

"""A checkpoint on disk: one file, or a folder of shards with a manifest; how it is checked and read."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist

from hapo_lit.errors import ResumeError
from hapo_lit.storage import atomic
from hapo_lit.storage.checksums import Checksum, checksum_of
from hapo_lit.training.named_globals import SHARD, ShardReader, refusal, state_globals
from hapo_lit.training.ranks import of_all_ranks
from hapo_lit.training.run_state import FORMAT, RunState

MANIFEST = "manifest.json"
"""In the folder of a sharded checkpoint: the size and checksum of each of its files."""
META = "meta.pt"
"""In the folder of a sharded checkpoint: everything that is in no shard."""


def load(path: Path) -> RunState:
    """The run state in a checkpoint; of a sharded one everything but its shards, whose list is read too.

    Nothing in it is run (:mod:`hapo_lit.training.named_globals`).

    Raises:
        ResumeError: the file was not written by this version of hapo_lit, or holds more than a run state.
    """
    try:
        with state_globals():
            file = path / META if path.is_dir() else path
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # of a file that anybody may have written
        raise ResumeError(f"{path} cannot be read ({refusal(error)}): it was written by something else") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ResumeError(f"{path} is no checkpoint of this version of hapo_lit (format {FORMAT})")
    if has_tensors(path):
        ShardReader(path).read_metadata()
    return cast(RunState, state)


def has_tensors(path: Path) -> bool:
    """Whether there are tensors in the shards of a checkpoint; one whose list of them is lost is damaged."""
    return (path / ".metadata").is_file()


def is_sharded(path: Path) -> bool:
    """Whether a path is a sharded checkpoint."""
    return (path / MANIFEST).is_file()


def damage(path: Path) -> str | None:
    """What is wrong with the bytes of a checkpoint, or None.

    All of it is read.  Where there is a process group every rank must call it: each file is read by one of them, and
    all come to know what was found.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    return next(filter(None, of_all_ranks(_damage_of_share(path, rank, world))), None)


def _damage_of_share(path: Path, rank: int, world: int) -> str | None:
    try:
        if not path.is_dir():
            return _damage_of_file(path) if rank == 0 else None
        listed = json.loads((path / MANIFEST).read_text())
        for name, (size, checksum) in listed.items():
            if reader_of(name, world) == rank and checksum_of(path / name) != (size, checksum):
                return f"checksum of {name}"
    except (OSError, zipfile.BadZipFile, ValueError, EOFError, RuntimeError, zlib.error) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _damage_of_file(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    return None if broken is None else f"checksum of {broken}"


def reader_of(name: str, world: int) -> int:
    """The rank, of ``world``, that checks a file of a sharded checkpoint; it reads it too if as many wrote it."""
    found = SHARD.fullmatch(name)
    return int(found[1]) % world if found else 0


def write_manifest(folder: Path, checksums: dict[str, Checksum]) -> None:
    """List the files of a sharded checkpoint, with which :func:`damage` compares them."""
    atomic.write_private(folder / MANIFEST, json.dumps(checksums).encode())

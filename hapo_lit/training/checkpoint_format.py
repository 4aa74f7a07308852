"""A checkpoint on disk: one file, or a folder of shards with a manifest; how it is checked and read."""

from __future__ import annotations

import json
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any, cast

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader

from hapo_lit.errors import ResumeError
from hapo_lit.training.interfaces import ResumableModule
from hapo_lit.training.run_state import FORMAT, RunState, check_weights

MANIFEST = "manifest.json"
"""In the folder of a sharded checkpoint: the size and checksum of each of its files."""
META = "meta.pt"
"""In the folder of a sharded checkpoint: everything that is not a shard, under the name that Fabric gives it."""


def load_checked(path: Path) -> RunState:
    """As :func:`load`, after all bytes have been checked."""
    if path.is_dir() and not is_sharded(path):
        raise ResumeError(
            f"{path} is a folder and no checkpoint: name a checkpoint in it, such as RUN/checkpoints/last.ckpt"
        )
    if fault := damage(path):
        raise ResumeError(f"{path} is damaged ({fault}): try an older checkpoint in {path.parent}, or resume=auto")
    return load(path)


def load(path: Path) -> RunState:
    """The run state in a checkpoint; of a sharded one everything but its shards.

    Raises:
        ResumeError: the file was not written by this version of hapo_lit.
    """
    try:
        state = torch.load(path / META if path.is_dir() else path, map_location="cpu", weights_only=False, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, ImportError) as error:
        raise ResumeError(f"{path} cannot be read ({error}): it was written by something else") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ResumeError(f"{path} is no checkpoint of this version of hapo_lit (format {FORMAT})")
    return cast(RunState, state)


def is_sharded(path: Path) -> bool:
    """Whether a path is a sharded checkpoint."""
    return (path / MANIFEST).is_file()


def damage(path: Path) -> str | None:
    """What is wrong with the bytes of a checkpoint, or None; reads all of it."""
    try:
        if not path.is_dir():
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
            return None if broken is None else f"checksum of {broken}"
        listed = json.loads((path / MANIFEST).read_text())
        for name, (size, checksum) in listed.items():
            if (path / name).stat().st_size != size or _checksum(path / name) != checksum:
                return f"checksum of {name}"
    except (OSError, zipfile.BadZipFile, ValueError, EOFError, RuntimeError, zlib.error) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None


def write_manifest(folder: Path) -> None:
    """List the files of a sharded checkpoint, with which :func:`damage` compares them."""
    (folder / MANIFEST).unlink(missing_ok=True)
    parts = sorted(file for file in folder.rglob("*") if file.is_file())
    sums = {str(part.relative_to(folder)): (part.stat().st_size, _checksum(part)) for part in parts}
    (folder / MANIFEST).write_text(json.dumps(sums))


def check_shards(module: ResumableModule, path: Path) -> None:
    """As :func:`~hapo_lit.training.run_state.check_weights`, for the weights of a sharded checkpoint."""
    saved: dict[str, Any] = FileSystemReader(path).read_metadata().state_dict_metadata
    prefix = "module."
    check_weights(
        module,
        {name.removeprefix(prefix): tensor.size for name, tensor in saved.items() if name.startswith(prefix)},
    )


def _checksum(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while block := file.read(2**22):
            total = zlib.crc32(block, total)
    return total

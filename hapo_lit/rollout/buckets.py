"""Weights in files of bounded size: what a trainer writes for a server, and what the server reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def written_buckets(
    weights: Iterable[tuple[str, Tensor]], folder: Path, dtype: torch.dtype, size: int
) -> Iterator[Path]:
    """Write weights to safetensors files, one after the other.

    Only the bucket that is being filled is held in memory, and nothing of it once its file is there.  The next is
    begun when the caller asks for it, so that it may delete the one before.

    Args:
        weights: name and weight, on any device; taken one at a time.
        folder: for the files.
        dtype: of what is written.
        size: bytes of a file's weights, at most; a weight that is larger has a file of its own.

    Yields:
        the path of each file.
    """
    bucket: dict[str, Tensor] = {}
    held = number = 0
    for name, weight in weights:
        added = weight.numel() * dtype.itemsize
        if bucket and held + added > size:
            yield _write(bucket, folder, number)
            held, number = 0, number + 1
        bucket[name] = weight.to("cpu", dtype).contiguous()
        held += added
        del weight
    if bucket:
        yield _write(bucket, folder, number)


def _write(bucket: dict[str, Tensor], folder: Path, number: int) -> Path:
    path = folder / f"weights-{number}.safetensors"
    save_file(bucket, path)
    bucket.clear()
    return path


def read_bucket(path: str, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Name and weight of everything in a file, one at a time, as copies that do not need the file."""
    with safe_open(path, "pt", device=str(device)) as file:
        for name in file.keys():  # noqa: SIM118
            weight = file.get_tensor(name)
            yield name, weight.clone() if device.type == "cpu" else weight  # on a CPU it is the file, mapped

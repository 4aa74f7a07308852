"""What the files of a checkpoint may hold: a few named classes and functions, none of which runs anything else.

A pickle names the functions that rebuild it, and reading it calls them.  Nothing but what is named here is ever called.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from hapo_lit.errors import ResumeError, SaveError

STATE: tuple[Any, ...] = (
    *(np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]),  # functions of numpy's without a public name
    np.ndarray,
    np.dtype,
    *(type(np.dtype(letter)) for letter in "?bhilqBHILQefd"),
)
"""In a run state, besides what ``torch.load`` takes for weights: numpy's numbers, such as those of its generator."""
_DTYPES = {f"torch.{name}": dtype for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype)}
SHARDS: dict[str, Any] = {
    "torch.Size": torch.Size,
    "torch.serialization._get_layout": torch.serialization._get_layout,
    "torch.distributed.checkpoint.filesystem._StorageInfo": filesystem._StorageInfo,
    "pathlib.PosixPath": PurePosixPath,  # where the checkpoint was written
    "pathlib._local.PosixPath": PurePosixPath,
    **_DTYPES,
    **{
        f"{metadata.__name__}.{name}": getattr(metadata, name)
        for name in "Metadata MetadataIndex StorageMeta TensorStorageMetadata TensorProperties ChunkStorageMetadata "
        "_MEM_FORMAT_ENCODING".split()
    },
}
"""In ``.metadata``, which says where the tensors of a sharded checkpoint are."""
SHARD = re.compile(r"__(\d+)_\d+\.distcp")
"""Name of a rank's own file in the folder of a sharded checkpoint."""


@contextmanager
def state_globals() -> Iterator[None]:
    """Inside, ``torch.load(weights_only=True)`` takes what a run state holds."""
    with safe_globals(list(STATE)):
        yield


def require_readable(file: Path | IO[bytes]) -> None:
    """Raise ``SaveError`` if a state that was just written holds what would not be read again."""
    with state_globals():
        unknown = get_unsafe_globals_in_checkpoint(file)  # type: ignore[arg-type]
    if unknown:
        raise SaveError(
            f"the state of this run holds {min(unknown)}, and no checkpoint with that is ever read, since it could run "
            f"code: let state_dict of your own part return numbers, text, tensors, numpy arrays of numbers, lists and "
            f"dictionaries of them"
        )


def refusal(error: Exception) -> str:
    """Why a file could not be read, in a line; ``torch``'s own message advises to let it run code."""
    text = " ".join(str(error).split())
    if found := re.search(r"(?:GLOBAL |but got <class ')([\w.]+)", text):
        return f"it holds {found[1]}, which is no part of a run state and could run code"
    return text[:200] or type(error).__name__


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (found := SHARDS.get(f"{module}.{name}")) is None:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name} was not an allowed global")
        return found


class ShardReader(FileSystemReader):
    """Reads a sharded checkpoint, of which torch's own reader would run whatever its ``.metadata`` names."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """See :class:`FileSystemReader`.

        Raises:
            ResumeError: it is none, holds more than the places of tensors, or names files elsewhere.
        """
        path = Path(self.path) / ".metadata"
        try:
            with path.open("rb") as file:
                found = _Unpickler(file).load()
        except Exception as error:  # of a file that anybody may have written
            raise ResumeError(f"{path} cannot be read: {refusal(error)}") from error
        if not _is_of_tensors(found):
            raise ResumeError(f"{path} cannot be read: it holds more than the places of tensors")
        found.storage_data = found.storage_data or {}
        found.storage_meta = StorageMeta(load_id=self.load_id)
        return found  # type: ignore[no-any-return]


def _is_of_tensors(found: Any) -> bool:
    """Whether it holds tensors only, in files of the same folder; torch would unpickle everything else."""
    if type(found) is not Metadata or type(found.state_dict_metadata) is not dict:
        return False
    places = found.storage_data if type(found.storage_data) is dict else {}
    return all(type(about) is TensorStorageMetadata for about in found.state_dict_metadata.values()) and all(
        type(place) is filesystem._StorageInfo
        and type(place.relative_path) is str
        and SHARD.fullmatch(place.relative_path)
        and not place.transform_descriptors
        for place in places.values()
    )

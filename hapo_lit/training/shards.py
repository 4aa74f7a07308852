"""Checkpoints in shards: every process writes and reads its own part, by PyTorch's distributed checkpoint.

The tensors of policy, reference and optimiser are in the shards, under the names that they have in the state dicts,
such as ``module.policy.lm_head.weight`` and ``optimizer.state.0.exp_avg``.  Everything else is in one small file.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from io import IOBase
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.optim import Optimizer

from hapo_lit.errors import ResumeError, one_line
from hapo_lit.storage import atomic
from hapo_lit.storage.checksums import Checksum, checksum_of
from hapo_lit.training.checkpoint_format import META, load, write_manifest
from hapo_lit.training.interfaces import ResumableModule
from hapo_lit.training.named_globals import ShardReader, require_readable
from hapo_lit.training.ranks import of_all_ranks
from hapo_lit.training.run_state import RunState, check_weights

MODULE, OPTIMIZER = "module.", "optimizer."
"""What the names of tensors begin with."""
OF_PARAMETER = re.compile(r"optimizer\.state\.(\d+)\.")
"""What the names of a parameter's moments begin with, with its number in the optimiser."""
PLACE = "tensor:"
"""In the optimiser's state, before the name of a tensor that is in the shards."""
PATIENCE = timedelta(hours=6)
"""How long a rank waits for the slowest disk; that another rank has died it knows at once."""

# -- writing ----------------------------------------------------------------------------------------------------------


class HostCopy(BlockingAsyncStager):
    """Copies what a process holds of each tensor to the host, before training changes it.

    Torch's own stager copies twice what is on a GPU.
    """

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state_dict.items()}


class OwnersFiles(FileSystem):
    """Files that nobody else may read, as the weights of a policy, in a folder that nobody else may enter."""

    @contextmanager
    def create_stream(self, path: str | os.PathLike, mode: str) -> Iterator[IOBase]:
        with super().create_stream(path, mode) as stream:
            if "w" in mode:
                os.fchmod(stream.fileno(), 0o600)
            yield stream

    def mkdir(self, path: str | os.PathLike) -> None:
        Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)


class ShardWriter:
    """Writes sharded checkpoints, one at a time, in a thread beside training.

    Made on every rank, and every rank must ask for the same checkpoints.  A checkpoint gets its name from rank 0, when
    each rank has its own files on disk and has read them again for their checksums.  Until then there is the copy of
    what this process holds.

    Args:
        module: whose weights and optimiser are written.
        in_background: False = :meth:`write` waits.
    """

    def __init__(self, module: ResumableModule, in_background: bool = True) -> None:
        self.module, self.in_background = module, in_background
        self.group = dist.new_group(backend="gloo", timeout=PATIENCE)  # of its own, as the thread talks beside training
        self.rank = dist.get_rank()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def write(self, draft: Path, state: RunState, publish: Callable[[], object]) -> None:
        """Begin to write the module as it is now; waits for the write before.

        Args:
            draft: the folder to write.
            state: everything else, complete on rank 0.
            publish: gives the draft its name; called on rank 0.

        Raises:
            OSError, RuntimeError: a rank could not write, in :meth:`wait` if it is in the background.
        """
        self.wait()
        tensors = {MODULE + name: tensor for name, tensor in self.module.state_dict().items()}
        state["optimizer"] = _taken_out(self.module.optimizer_state(), OPTIMIZER[:-1], tensors)
        meta = io.BytesIO()
        if self.rank == 0:
            torch.save(state, meta)
        writer = FileSystemWriter(draft, per_thread_copy_ahead=0)  # all is on the host already
        writer.fs = OwnersFiles()
        upload = state_dict_saver.async_save(
            tensors, storage_writer=writer, async_stager=HostCopy(), process_group=self.group
        )
        self._writing = self._thread.submit(self._complete, cast(Future, upload), draft, meta.getvalue(), publish)
        if not self.in_background:
            self.wait()

    @property
    def is_writing(self) -> bool:
        """Whether a write has begun that nobody has waited for; the same on all ranks."""
        return self._writing is not None

    @property
    def has_ended(self) -> bool:
        """Whether this rank's part of that write is over, and what the others made of theirs is known."""
        return self._writing is not None and self._writing.done()

    def wait(self) -> None:
        """Until the checkpoint has its name; raises what became of it otherwise."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _complete(self, upload: Future, draft: Path, meta: bytes, publish: Callable[[], object]) -> None:
        """In the thread: what follows DCP's own writing."""
        try:
            upload.result()
            of_all = self._together(lambda: self._checksums(draft, meta))
            self._together(lambda: self._publish(draft, of_all, publish))
        except (OSError, RuntimeError):
            self._drop(draft)
            raise
        except CheckpointException as error:  # which is no Exception, and has all the frames in its text
            self._drop(draft)
            faults = [f"rank {rank}: {fault}" for rank, (fault, _) in error.failures.items()]
            raise OSError("; ".join(faults)) from error

    def _checksums(self, draft: Path, meta: bytes) -> dict[str, Checksum]:
        """Of this rank's files; rank 0 has two more."""
        own = sorted(draft.glob(f"__{self.rank}_*"))
        if self.rank == 0:
            require_readable(io.BytesIO(meta))
            atomic.write_private(draft / META, meta)
            own += [draft / META, draft / ".metadata"]
        return {path.name: checksum_of(path) for path in own}

    def _publish(self, draft: Path, of_all: list[dict[str, Checksum]], publish: Callable[[], object]) -> None:
        if self.rank == 0:
            write_manifest(draft, {name: checksum for own in of_all for name, checksum in own.items()})
            publish()

    def _together(self, do: Callable[[], Any]) -> list[Any]:
        """What ``do`` gives on every rank; an error on one of them is an error on all."""
        done, fault = None, ""
        try:
            done = do()
        except (OSError, RuntimeError) as error:
            fault = f"rank {self.rank}: {error}"
        of_all = of_all_ranks((done, fault), self.group)
        if faults := [fault for _, fault in of_all if fault]:
            raise OSError("; ".join(faults))
        return [done for done, _ in of_all]

    def _drop(self, draft: Path) -> None:
        if self.rank == 0:  # all have ended theirs
            atomic.remove(draft)


def _taken_out(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A nested state with the names of its tensors in their places; the tensors are added to ``tensors``."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return PLACE + name
    if isinstance(value, Mapping):
        return {key: _taken_out(inner, f"{name}.{key}", tensors) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_taken_out(inner, f"{name}.{index}", tensors) for index, inner in enumerate(value))
    return value


def _put_back(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The nested state that :func:`_taken_out` was given."""
    if isinstance(value, str) and value.startswith(PLACE):
        return tensors[value.removeprefix(PLACE)]
    if isinstance(value, Mapping):
        return {key: _put_back(inner, tensors) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_put_back(inner, tensors) for inner in value)
    return value


# -- reading ----------------------------------------------------------------------------------------------------------


def load_shards(
    module: ResumableModule, optimizer: Optimizer, parameters: list[torch.nn.Parameter], path: Path
) -> None:
    """Put a sharded checkpoint into a sharded module and its optimiser, however many processes wrote it.

    Every rank reads what it holds.

    Args:
        module: any of the same model.
        optimizer: torch's own.
        parameters: that it trains, in order.
        path: of the checkpoint.

    Raises:
        ResumeError: it holds another model, or was written by an earlier version.
    """
    stored, rest = _stored(path), _optimizer_in(load(path), path)
    shapes = {name.removeprefix(MODULE): about.size for name, about in stored.items() if name.startswith(MODULE)}
    check_weights(module, shapes)
    tensors = {MODULE + name: tensor for name, tensor in module.state_dict().items()}
    for name, about in stored.items():
        if name.startswith(OPTIMIZER):
            found = OF_PARAMETER.match(name)
            tensors[name] = _room(about, parameters[int(found[1])] if found else None)
    _read(tensors, path)
    optimizer.load_state_dict(_put_back(rest, tensors))


def load_whole(path: Path) -> RunState:
    """As :func:`~hapo_lit.training.checkpoint_format.load`, the tensors in the shards of a sharded one included."""
    state = load(path)
    if path.is_dir():
        add_tensors(state, path)
    return state


def add_tensors(state: RunState, path: Path) -> None:
    """Add to the rest of a sharded checkpoint what is in its shards: then it is as that of an unsharded one."""
    rest, tensors = _optimizer_in(state, path), tensors_in(path)
    state["module"] = {name.removeprefix(MODULE): value for name, value in tensors.items() if name.startswith(MODULE)}
    state["optimizer"] = _put_back(rest, tensors)


def tensors_in(path: Path, beginning: str = "") -> dict[str, Tensor]:
    """Tensors in the shards of a checkpoint whose names begin so, each put together."""
    tensors = {name: _room(about) for name, about in _stored(path).items() if name.startswith(beginning)}
    _read(tensors, path)
    return tensors


def parts_in(path: Path, size: int, rank: int, world: int) -> Iterator[dict[str, Tensor]]:
    """The tensors in the shards of a checkpoint that are one rank's to look at, about so many bytes at a time."""
    part: dict[str, Tensor] = {}
    for name, about in list(_stored(path).items())[rank::world]:
        part[name] = _room(about)
        if sum(tensor.nbytes for tensor in part.values()) >= size:
            _read(part, path)
            yield part
            part = {}
    if part:
        _read(part, path)
        yield part


def _stored(path: Path) -> dict[str, TensorStorageMetadata]:
    """What the shards hold, by name."""
    return cast(dict[str, TensorStorageMetadata], ShardReader(path).read_metadata().state_dict_metadata)


def _optimizer_in(state: RunState, path: Path) -> dict[str, Any]:
    """The optimiser's state without its tensors."""
    if "optimizer" not in state:
        raise ResumeError(f"{path} is a sharded checkpoint of an earlier version of hapo_lit, which has to resume it")
    return state["optimizer"]


def _room(about: TensorStorageMetadata, like: Tensor | None = None) -> Tensor:
    """A tensor without values; sharded as ``like`` is, if that has its shape."""
    if like is not None and like.shape == about.size:
        return torch.empty_like(like, dtype=about.properties.dtype)
    return torch.empty(about.size, dtype=about.properties.dtype)


def _read(tensors: dict[str, Tensor], path: Path) -> None:
    """Fill tensors, or what this rank holds of them, from the shards."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # no rank needs another for that
        try:
            state_dict_loader.load(tensors, storage_reader=ShardReader(path), no_dist=True)
        except CheckpointException as error:  # which is no Exception
            faults = {one_line(str(fault), 200) or type(fault).__name__ for fault, _ in error.failures.values()}
            raise ResumeError(f"the shards in {path} cannot be read: {'; '.join(faults)}") from error

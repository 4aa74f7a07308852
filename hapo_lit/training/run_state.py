"""The run state: all that a run needs to go on, and the folder that keeps it safe.

A state is taken between two steps, where no rollout is under way: every draw is a function of (seed, prompt, sample,
step), so a batch that was cut short is sampled again as it was.  Both doors write the same state and go on from each
other's: policy, reference, optimiser, what ``HapoModule.run_state`` remembers (step, gate, skipped updates), the
position in the data, and the global generators of each rank for parts that draw from them.  (Ours do not.)

A state appears under its name only when it is complete and on disk: it is written under another name, synced, renamed.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from hapo_lit.errors import ResumeError
from hapo_lit.policy.loading import load_tokenizer, merged, policy_like
from hapo_lit.policy.sharding import full_state_dict

FORMAT = 1
MANIFEST = "manifest.json"
"""In the folder of a sharded state: the size and checksum of each of its files."""
REST = "meta.pt"
"""In the folder of a sharded state: everything that is not a shard, as Fabric names it."""
STATE = re.compile(r"step-(\d+)\.ckpt")


# -- what a state holds -----------------------------------------------------------------------------------------------


def capture(module: Any, data: Any, settings: Mapping[str, Any], weights: bool = True) -> dict[str, Any]:
    """The state of a run; every rank must ask, and rank 0 gets it whole.

    Args:
        module: the ``HapoModule``.
        data: its datamodule.
        settings: key -> value, for comparison when the run goes on.
        weights: False = without policy and optimiser, which a sharded state keeps apart.
    """
    first = not dist.is_initialized() or dist.get_rank() == 0
    state = {
        "format": FORMAT,
        "world": dist.get_world_size() if dist.is_initialized() else 1,
        "run": module.run_state(),
        "data": data.state_dict(),
        "settings": dict(settings),
        "generators": _generators(),
    }
    if weights:
        state["module"] = full_state_dict(module.state_dict(), keep=first)
        state["optimizer"] = full_state_dict(module.optimizer_state(), keep=first)
    return state


def restore(state: Mapping[str, Any], module: Any, data: Any, settings: Mapping[str, Any] | None = None) -> None:
    """Put a run back where it was, before its module is wrapped or its optimiser made.

    Args:
        state, module, data: as in :func:`capture`.
        settings: of this run, which must be those of the state; None = they may differ.

    Raises:
        ResumeError: the state belongs to another run; the message says what differs.
    """
    data.load_state_dict(state["data"])
    module.load_run_state(state["run"])
    if settings is not None and (different := changed(state["settings"], settings)):
        raise ResumeError(
            f"settings differ from those of the state ({'; '.join(different)}): go on with the same ones, start a new "
            f"run, or set allow_changes=true"
        )
    if "module" in state:
        _load_weights(module, state["module"])
        module.resume_optimizer(state["optimizer"])
    if data.rank < len(state["generators"]):
        _set_generators(state["generators"][data.rank])


def _load_weights(module: Any, weights: Mapping[str, Any]) -> None:
    must_fit(module, {name: value.shape for name, value in weights.items()})
    module.load_state_dict(weights)


def must_fit(module: Any, shapes: Mapping[str, Any]) -> None:
    """Raise ``ResumeError`` unless a module's weights have these names and shapes."""
    own = {name: value.shape for name, value in module.state_dict().items()}
    for name in sorted(set(own) ^ set(shapes)):
        where = "the state" if name in shapes else "this run's model"
        raise ResumeError(f"the state holds another model: only {where} has {name!r}; resume with the same model.*")
    for name, shape in shapes.items():
        if own[name] != shape:
            raise ResumeError(
                f"the state holds another model: {name} is {tuple(shape)} there and {tuple(own[name])} here; resume "
                f"with the same model.*"
            )


def shards_must_fit(module: Any, path: Path) -> None:
    """As :func:`must_fit`, for the weights of a sharded state."""
    saved: dict[str, Any] = FileSystemReader(path).read_metadata().state_dict_metadata
    must_fit(module, {name.removeprefix("module."): each.size for name, each in saved.items() if name[:7] == "module."})


def _generators() -> list[dict[str, Any]]:
    own = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}  # noqa: NPY002
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    if not dist.is_initialized():
        return [own]
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, own)
    return every


def _set_generators(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``key: then -> now`` for every setting that differs."""
    missing = "(absent)"
    return [
        f"{key}: {then.get(key, missing)} -> {now.get(key, missing)}"
        for key in sorted(set(then) | set(now))
        if then.get(key, missing) != now.get(key, missing)
    ]


# -- reading ----------------------------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Any]:
    """As :func:`load`, after all bytes have been checked."""
    if path.is_dir() and not (path / MANIFEST).is_file():
        raise ResumeError(f"{path} is a folder and no state: name a state in it, such as RUN/checkpoints/last.ckpt")
    if fault := damage(path):
        raise ResumeError(f"{path} is damaged ({fault}): try an older state in {path.parent}, or resume=auto")
    return load(path)


def load(path: Path) -> dict[str, Any]:
    """A state, whole or, of a sharded one, everything but its shards.

    Raises:
        ResumeError: the file is none of ours.
    """
    try:
        state = torch.load(path / REST if path.is_dir() else path, map_location="cpu", weights_only=False, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, ImportError) as error:
        raise ResumeError(f"{path} cannot be read ({error}): it was written by something else") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ResumeError(f"{path} is no run state of this version of hapo_lit (format {FORMAT})")
    return state


def damage(path: Path) -> str | None:
    """What is wrong with the bytes of a state, or None; reads all of it."""
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


def _checksum(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while block := file.read(2**22):
            total = zlib.crc32(block, total)
    return total


# -- export -----------------------------------------------------------------------------------------------------------


def policy_weights(path: Path, beside: Path) -> dict[str, Any]:
    """The policy's parameters in a state; a sharded one is put together in a temporary folder in ``beside``.

    Raises:
        ResumeError: the state is damaged or none of ours.
    """
    weights = read(path).get("module")
    if weights is None:
        with tempfile.TemporaryDirectory(dir=beside, prefix=".export-") as folder:
            dcp_to_torch_save(path, Path(folder) / "whole.pt")
            weights = torch.load(Path(folder) / "whole.pt", map_location="cpu", weights_only=False)["module"]
    prefix = "policy."
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def export(weights: Mapping[str, Any], model: Path, lora: Mapping[str, Any] | None, out: Path) -> None:
    """A Hugging Face folder with a policy, an adapter merged in; it appears under its name only when it is complete.

    Args:
        weights: of the policy, by name.
        model: a folder with the policy's configuration and tokenizer.
        lora: the adapter's settings, or None.
        out: the folder to write; one that is there is replaced only by a complete one.
    """
    policy = policy_like(str(model), lora)
    try:
        policy.load_state_dict(weights)
    except RuntimeError as error:
        raise ResumeError(f"the state does not fit the model of its run in {model}: {error}") from error
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.unfinished")
    _remove(unfinished)
    merged(policy).save_pretrained(unfinished)
    load_tokenizer(str(model)).save_pretrained(unfinished)
    if out.is_dir():
        shutil.rmtree(out)
    os.replace(unfinished, out)


# -- the folder -------------------------------------------------------------------------------------------------------


class StateFolder:
    """States of a run, by step; all but reading is for rank 0.

    ``step-40.ckpt`` is a state (a file, or a folder if it is sharded), ``last.ckpt`` and ``best.ckpt`` are links.

    Args:
        folder: where; made when the first state is written.
        keep: how many of the newest stay, besides the best; -1 = all.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        if keep == 0 or keep < -1:
            raise ValueError(f"callbacks.states.keep must be at least 1, or -1 for all, got {keep}")
        self.folder, self.keep = Path(folder), keep

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step}.ckpt"

    def unfinished(self, step: int) -> Path:
        """Where a state is written before it has a name."""
        return self.folder / f".step-{step}.unfinished"

    def steps(self) -> list[int]:
        """Steps of all states that have a name, in order."""
        if not self.folder.is_dir():
            return []
        found = (STATE.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest state whose bytes are whole, or None; and a line for each that was passed over."""
        passed: list[str] = []
        for step in reversed(self.steps()):
            path = self.path(step)
            fault = damage(path)
            if fault is None:
                try:
                    load(path)
                except ResumeError as error:
                    fault = str(error)
                else:
                    return path, passed
            passed.append(f"{path} is damaged and was passed over: {fault}")
        return None, passed

    def adopt(self, path: Path) -> None:
        """Take in a state of another folder, so that a run that began from it can go on from here alone."""
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.unfinished(step_of(path))
        _remove(unfinished)
        if path.is_dir():
            shutil.copytree(path, unfinished, copy_function=_link_or_copy)
        else:
            _link_or_copy(str(path), str(unfinished))
        self.publish(step_of(path))

    def write(self, step: int, state: Mapping[str, Any], best: bool = False) -> Path:
        """Write a state as one file; ``best`` = keep it until a better one comes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save(state, self.unfinished(step))
        return self.publish(step, best)

    def publish(self, step: int, best: bool = False) -> Path:
        """Give the state that lies at ``unfinished(step)`` its name, once it is on disk, and drop old ones."""
        unfinished, path = self.unfinished(step), self.path(step)
        files = [unfinished]
        if unfinished.is_dir():
            (unfinished / MANIFEST).unlink(missing_ok=True)
            parts = sorted(each for each in unfinished.rglob("*") if each.is_file())
            sums = {str(part.relative_to(unfinished)): (part.stat().st_size, _checksum(part)) for part in parts}
            (unfinished / MANIFEST).write_text(json.dumps(sums))
            files = [*parts, unfinished / MANIFEST, unfinished]
        for file in files:
            _sync(file)
        if path.is_dir():  # a folder cannot be replaced by a rename
            shutil.rmtree(path)
        os.replace(unfinished, path)
        self._link("last.ckpt", path)
        if best:
            self.mark_best(step)
        _sync(self.folder)
        self.prune()
        return path

    def mark_best(self, step: int) -> None:
        """Keep the state of ``step`` until a better one comes."""
        if one_link(self.folder / "best.ckpt") != self.path(step):
            self._link("best.ckpt", self.path(step))

    def tidy(self) -> tuple[Path | None, list[str]]:
        """As :meth:`newest`, before a run goes on: damaged states are set aside, what never got a name is dropped."""
        newest, passed = self.newest()
        for step in self.steps():
            if newest is None or step > step_of(newest):
                os.replace(self.path(step), self._aside(step))
        self.drop_unfinished()
        if newest is not None:
            self._link("last.ckpt", newest)
        return newest, passed

    def drop_unfinished(self) -> None:
        """Remove what never got a name."""
        for path in self.folder.glob(".*.unfinished"):
            _remove(path)

    def _aside(self, step: int) -> Path:
        """A free name for a damaged state."""
        names = (self.folder / f"step-{step}.damaged{'' if n == 1 else f'-{n}'}" for n in count(1))
        return next(name for name in names if not name.exists())

    @property
    def damaged(self) -> list[Path]:
        """States that were set aside."""
        return sorted(self.folder.glob("step-*.damaged*"))

    def _link(self, name: str, path: Path) -> None:
        fresh = self.folder / f".{name}.unfinished"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(path.name)
        os.replace(fresh, self.folder / name)

    def prune(self) -> None:
        """Drop old states."""
        best = (self.folder / "best.ckpt").resolve().name
        for step in self.steps()[: -self.keep] if self.keep > 0 else []:
            if self.path(step).name != best:
                _remove(self.path(step))


def one_link(path: Path) -> Path:
    """A state's own path, where ``path`` may be ``last.ckpt``; links among the folders above stay as they are."""
    return path.parent / os.readlink(path) if path.is_symlink() else path


def step_of(path: Path) -> int:
    """The step in the name of a state."""
    match = STATE.fullmatch(one_link(path).name)
    if match is None:
        raise ResumeError(f"{path} is not named like a state, step-NUMBER.ckpt")
    return int(match[1])


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

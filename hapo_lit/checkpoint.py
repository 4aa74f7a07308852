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
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from hapo_lit.policy import load_tokenizer, merged, policy_like
from hapo_lit.sharding import whole
from hapo_lit.types import ResumeError

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
        state["module"] = whole(module.state_dict(), keep=first)
        state["optimizer"] = whole(module.optimizer_state(), keep=first)
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
    mine = dist.get_rank() if dist.is_initialized() else 0
    if mine < len(state["generators"]):
        _set_generators(state["generators"][mine])


def _load_weights(module: Any, weights: Mapping[str, Any]) -> None:
    own = module.state_dict()
    for name in sorted(set(own) ^ set(weights)):
        where = "the state" if name in weights else "this run's model"
        raise ResumeError(f"the state holds another model: only {where} has {name!r}; resume with the same model.*")
    for name, value in weights.items():
        if own[name].shape != value.shape:
            raise ResumeError(
                f"the state holds another model: {name} is {tuple(value.shape)} there and {tuple(own[name].shape)} "
                f"here; resume with the same model.*"
            )
    module.load_state_dict(weights)


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
    except (OSError, zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, zlib.error) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _checksum(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while block := file.read(2**22):
            total = zlib.crc32(block, total)
    return total


# -- export -----------------------------------------------------------------------------------------------------------


def policy_weights(path: Path) -> dict[str, Any]:
    """The policy's parameters in a state, sharded or not.

    Raises:
        ResumeError: the state is damaged or none of ours.
    """
    weights = read(path).get("module")
    if weights is None:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
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
    policy.load_state_dict(weights)
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
            if (fault := damage(self.path(step))) is None:
                return self.path(step), passed
            passed.append(f"{self.path(step)} is damaged and was passed over: {fault}")
        return None, passed

    def write(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write a state as one file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save(state, self.unfinished(step))
        return self.publish(step)

    def publish(self, step: int) -> Path:
        """Give the state that lies at ``unfinished(step)`` its name, once it is on disk, and drop old ones."""
        unfinished, path = self.unfinished(step), self.path(step)
        files = [unfinished]
        if unfinished.is_dir():
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
        _sync(self.folder)
        self._prune()
        return path

    def mark_best(self, step: int) -> None:
        """Keep the state of ``step`` until a better one comes."""
        self._link("best.ckpt", self.path(step))

    def tidy(self) -> tuple[Path | None, list[str]]:
        """As :meth:`newest`, before a run goes on: damaged states are set aside, what never got a name is dropped."""
        newest, passed = self.newest()
        for step in self.steps():
            if newest is None or step > step_of(newest):
                os.replace(self.path(step), self.path(step).with_suffix(".damaged"))
        for path in self.folder.glob(".*.unfinished"):
            _remove(path)
        if newest is not None:
            self._link("last.ckpt", newest)
        return newest, passed

    def _link(self, name: str, path: Path) -> None:
        fresh = self.folder / f".{name}.unfinished"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(path.name)
        os.replace(fresh, self.folder / name)

    def _prune(self) -> None:
        best = (self.folder / "best.ckpt").resolve().name
        for step in self.steps()[: -self.keep] if self.keep > 0 else []:
            if self.path(step).name != best:
                _remove(self.path(step))


def step_of(path: Path) -> int:
    """The step in the name of a state."""
    match = STATE.fullmatch(path.resolve().name)
    if match is None:
        raise ResumeError(f"{path} is not named like a state, step-NUMBER.ckpt")
    return int(match[1])


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

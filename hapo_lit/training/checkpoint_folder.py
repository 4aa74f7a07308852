"""The folder with a run's checkpoints: a checkpoint has a name there only when it is complete and on disk."""

from __future__ import annotations

import os
import re
import shutil
from itertools import count
from pathlib import Path

import torch

from hapo_lit.errors import ResumeError
from hapo_lit.storage import atomic
from hapo_lit.training.checkpoint_faults import fault
from hapo_lit.training.named_globals import require_readable
from hapo_lit.training.ranks import of_all_ranks
from hapo_lit.training.run_state import RunState

NAME = re.compile(r"step-(\d+)\.ckpt")


class CheckpointFolder:
    """Checkpoints of a run, by step; all but reading is for rank 0, and :meth:`newest` for all ranks together.

    ``step-40.ckpt`` is a checkpoint (a file, or a folder if it is sharded); ``last.ckpt`` and ``best.ckpt`` are links.

    Args:
        folder: where; made when the first checkpoint is written.
        keep: how many of the newest stay, besides the best; -1 = all.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        if keep == 0 or keep < -1:
            raise ValueError(f"callbacks.checkpointer.keep must be at least 1, or -1 for all, got {keep}")
        self.folder, self.keep = Path(folder), keep

    # -- reading

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is or would be."""
        return self.folder / f"step-{step}.ckpt"

    def steps(self) -> list[int]:
        """Steps of all checkpoints, in order."""
        if not self.folder.is_dir():
            return []
        found = (NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def best(self) -> int:
        """The step of the checkpoint that is marked as the best; 0 = none is, or it is not there."""
        path = self.folder / "best.ckpt"
        return step_of(path) if path.exists() else 0

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint without a fault, or None; and a line for each that was passed over.

        Where there is a process group every rank must call it; each file is read by one of them.
        """
        passed_over: list[str] = []
        for step in reversed(of_all_ranks(self.steps())[0]):
            path = self.path(step)
            if (found := fault(path)) is None:
                return path, passed_over
            passed_over.append(f"{path} is damaged and was passed over: {found}")
        return None, passed_over

    @property
    def damaged(self) -> list[Path]:
        """Checkpoints that were set aside."""
        return sorted(self.folder.glob("step-*.damaged*"))

    # -- writing

    def write(self, step: int, state: RunState, best: bool = False) -> Path:
        """Write a run state as one file that others cannot read; ``best`` = keep it until a better one comes."""
        draft = atomic.make_private(self.draft(step))
        torch.save(state, draft)
        require_readable(draft)
        return self.publish(step, best)

    def draft(self, step: int) -> Path:
        """Where a checkpoint is written before it has its name."""
        return atomic.draft_of(self.path(step))

    def publish(self, step: int, best: bool = False) -> Path:
        """Give the finished draft of a step its name, once it is on disk, and remove old checkpoints."""
        draft, path = self.draft(step), self.path(step)
        atomic.publish(draft, path, synced=True)
        self._link("last.ckpt", path)
        if best:
            self.mark_best(step)
        atomic.sync(self.folder)
        self.prune()
        return path

    def adopt(self, path: Path) -> None:
        """Take in a checkpoint of another folder, so that a run that began from it can resume from here alone."""
        self.folder.mkdir(parents=True, exist_ok=True)
        step = step_of(path)
        atomic.remove(self.draft(step))
        if path.is_dir():
            shutil.copytree(path, self.draft(step), copy_function=_link_or_copy)
        else:
            _link_or_copy(str(path), str(self.draft(step)))
        self.publish(step)

    def mark_best(self, step: int) -> None:
        """Keep the checkpoint of ``step`` until a better one comes."""
        if link_target(self.folder / "best.ckpt") != self.path(step):
            self._link("best.ckpt", self.path(step))

    def _link(self, name: str, path: Path) -> None:
        draft = atomic.draft_of(self.folder / name)
        atomic.remove(draft)
        draft.symlink_to(path.name)
        os.replace(draft, self.folder / name)

    # -- keeping it tidy

    def prune(self) -> None:
        """Remove old checkpoints."""
        best = (self.folder / "best.ckpt").resolve().name
        for step in self.steps()[: -self.keep] if self.keep > 0 else []:
            path = self.path(step)
            if path.name != best:
                atomic.remove(path.rename(self.draft(step)) if path.is_dir() else path)  # half a folder has no name

    def tidy(self, newest: Path | None) -> None:
        """Before a run resumes from :meth:`newest`: set aside later ones, which are damaged, and remove drafts."""
        for step in self.steps():
            if newest is None or step > step_of(newest):
                os.replace(self.path(step), self._free_name(step))
        self.drop_drafts()
        if newest is not None:
            self._link("last.ckpt", newest)

    def drop_drafts(self) -> None:
        """Remove what never got a name."""
        atomic.drop_drafts(self.folder)

    def _free_name(self, step: int) -> Path:
        """For a damaged checkpoint."""
        names = (self.folder / f"step-{step}.damaged{'' if n == 1 else f'-{n}'}" for n in count(1))
        return next(name for name in names if not name.exists())


def link_target(path: Path) -> Path:
    """A checkpoint's own path, where ``path`` may be ``last.ckpt``; links among the folders above stay as they are."""
    return path.parent / os.readlink(path) if path.is_symlink() else path


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint."""
    match = NAME.fullmatch(link_target(path).name)
    if match is None:
        raise ResumeError(f"{path} is not named like a checkpoint, step-NUMBER.ckpt")
    return int(match[1])


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)

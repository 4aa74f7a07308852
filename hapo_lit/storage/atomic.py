"""A file or folder that appears under its name only when it is complete.

It is written beside its place under a name that begins with a dot and ends in ``.unfinished``, and renamed.  A process
that is killed leaves at most such a draft behind; :func:`drop_drafts` removes it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUFFIX = ".unfinished"


def draft_of(path: Path, shared: bool = False) -> Path:
    """Where ``path`` is written before it is complete.

    Args:
        path: of the file or folder.
        shared: several processes may write it at the same time, so that each needs a draft of its own.
    """
    return path.with_name(f".{path.name}{f'-{os.getpid()}' if shared else ''}{SUFFIX}")


@contextmanager
def appearing(path: Path, shared: bool = False, synced: bool = False) -> Iterator[Path]:
    """The draft of ``path``, to be written inside as a file or a folder; it gets its name at the end.

    On an error the draft is removed and ``path`` stays as it was.

    Args:
        path: of the file or folder; a file is replaced, and so is a folder unless ``shared``.
        shared: several processes may write it at the same time: of folders the first stays.
        synced: wait until all of it is on disk before it gets its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path, shared)
    remove(draft)
    try:
        yield draft
        publish(draft, path, shared, synced)
    finally:
        remove(draft)


def publish(draft: Path, path: Path, shared: bool = False, synced: bool = False) -> None:
    """Give a finished draft its name; the arguments are those of :func:`appearing`."""
    if synced:
        sync_all(draft)
    if draft.is_dir():
        if shared and path.is_dir():  # another process was first
            return
        if path.is_dir():  # a folder cannot be replaced by a rename
            shutil.rmtree(path)
    try:
        os.replace(draft, path)
    except OSError:
        if not (shared and draft.is_dir() and path.is_dir()):
            raise
    if synced:
        sync(path.parent)


def make_private(path: Path) -> Path:
    """An empty file that its owner alone may read and write, to be written next; the path itself."""
    remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600)
    return path


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that its owner alone may read and write."""
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def drop_drafts(folder: Path) -> None:
    """Remove the drafts of this folder, in which no other process writes."""
    for path in folder.glob(f".*{SUFFIX}"):
        remove(path)


def sync_all(path: Path) -> None:
    """Wait until a file, or a folder with all that is in it, is on disk."""
    for part in sorted(path.rglob("*")) if path.is_dir() else ():
        if part.is_file():
            sync(part)
    sync(path)


def sync(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""The folder of a run: which one it is, and that one process alone writes to it."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import IO

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from hapo_lit.analysis.runs import LOCK
from hapo_lit.errors import SetupError


def folder_to_resume(run: Path) -> Path:
    """``run`` itself if the user chose it; otherwise the newest folder that an earlier run of the experiment left."""
    hydra = HydraConfig.get()
    settings = [setting.lstrip("+~") for setting in hydra.overrides.hydra]
    chosen = any(setting.startswith("hydra.run.dir=") for setting in settings) or hydra.mode != RunMode.RUN
    if chosen or run != Path(hydra.runtime.output_dir) or not run.parent.is_dir():
        return run
    earlier = [folder for folder in run.parent.iterdir() if folder != run and (folder / "config.yaml").is_file()]
    return max(earlier, default=run)


def lock_folder(run: Path) -> IO[bytes]:
    """A lock on a run's folder, to be kept: released when the process exits."""
    run.mkdir(parents=True, exist_ok=True)
    try:  # never what a link leads to, and no pipe that waits for a reader
        number = os.open(run / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        raise SetupError(
            f"{run / LOCK} cannot be opened ({error.strerror}): remove it, or choose another folder"
        ) from error
    file = os.fdopen(number, "rb+", buffering=0)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise SetupError(f"another process is training in {run}: wait for it, or choose another folder") from error
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):  # a file system without locks
            raise
    return file

"""Sweeps: where each job's run lies, and what is said of jobs that failed.

A job that fails leaves the line that says why in ``error.txt`` in its folder and gives no value, which the basic
sweeper takes as it is and Optuna's as a failed trial.  So the other jobs run, under every launcher.
"""

from __future__ import annotations

import hashlib
import re
import sys
import traceback
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

ERROR = "error.txt"
PRUNED = "pruned.txt"
"""In which a trial that was ended early says when and why."""
LONGEST = 120
"""Characters of a folder's name."""
STARTED: dict[Path, dict[Path, int]] = {}
"""Sweeps that this process has started: folder -> errors that lay there already, each with its time."""


class Pruned(Exception):
    """A sweep's pruner ended this job early; ``value`` is what it had reached."""

    def __init__(self, value: float) -> None:
        super().__init__("pruned")
        self.value = value


def sweeping() -> bool:
    """Whether the job at hand is one of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def note_failure(line: str, error: BaseException) -> None:
    """Say why this job of a sweep failed, at once and in its folder, where the frames are too."""
    job = HydraConfig.get()
    print(f"hapo: error: job {job.job.num}: {line}", file=sys.stderr, flush=True)
    frames = "".join(traceback.format_exception(error))
    (Path(job.runtime.output_dir) / ERROR).write_text(f"{line}\n\n{frames}")


def forget_end() -> None:
    """The job is tried anew."""
    for name in (ERROR, PRUNED):
        (Path(HydraConfig.get().runtime.output_dir) / name).unlink(missing_ok=True)


def report_failures() -> None:
    """List the jobs that failed since :class:`Sweep` took note, and leave with status 1 if there are any."""
    while STARTED:
        folder, before = STARTED.popitem()
        failed = [path for path, when in sorted(_errors(folder).items()) if before.get(path) != when]
        if failed:
            print(f"hapo: {len(failed)} of the sweep's jobs failed:", file=sys.stderr)
            for path in failed:
                print(f"  {path.parent}: {path.read_text().splitlines()[0]}", file=sys.stderr)
            raise SystemExit(1)


def _errors(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob(f"*/{ERROR}")}


class Sweep(Callback):
    """Hydra's callback at the start of a sweep: its folder is made, as a study in SQLite needs one, and what is the
    same in all jobs is left out of their folders' names."""

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        STARTED[folder] = _errors(folder)
        settings = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        same = ",".join(each.key_or_group for each in settings if not each.is_sweep_override())
        with read_write(config), open_dict(config):  # every job is composed anew, with these overrides
            config.hydra.overrides.hydra.append(f"hydra.job.config.override_dirname.exclude_keys=[{same}]")


def folder_name(number: object, overrides: str) -> str:
    """A job's folder: its number and its overrides, without what a path or a shell would take for its own, and short.

    ``0_gate.threshold=0.4,seed=1``
    """
    name = re.sub(r"(\.\d{4})\d+", r"\1", overrides)  # what a sampler drew, to four places
    name = re.sub(r"[^\w.=,+-]", "_", name)
    if len(name) > LONGEST:
        name = f"{name[: LONGEST - 9]}-{hashlib.blake2b(overrides.encode(), digest_size=4).hexdigest()}"
    return f"{number}_{name}" if name else str(number)


OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)

"""Sweeps: where each job's run lies, and what is said of jobs that failed.

A job that fails leaves the line that says why in ``error.txt`` in its folder and gives no value, which the basic
sweeper takes as it is and Optuna's as a failed trial.  So the other jobs run, under every launcher.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from hapo_lit.numerics.hashing import stable_hash

ERROR = "error.txt"
PRUNED = "pruned.txt"
"""In which a trial that was ended early says when and why."""
LONGEST = 120
"""Characters of a folder's name."""


def sweeping() -> bool:
    """Whether the job at hand is one of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def note_failure(line: str, error: BaseException) -> None:
    """Say why this job of a sweep failed, at once and in its folder, where the traceback is too."""
    job = HydraConfig.get()
    print(f"hapo: error: job {job.job.num}: {line}", file=sys.stderr, flush=True)
    frames = "".join(traceback.format_exception(error))
    (Path(job.runtime.output_dir) / ERROR).write_text(f"{line}\n\n{frames}")


def note_pruned(line: str) -> None:
    """Say when and why this job of a sweep was ended early."""
    print(line, flush=True)
    (Path(HydraConfig.get().runtime.output_dir) / PRUNED).write_text(f"{line}\n")


def forget_outcome() -> None:
    """The job runs once more: drop what its folder says of how it ended."""
    for name in (ERROR, PRUNED):
        (Path(HydraConfig.get().runtime.output_dir) / name).unlink(missing_ok=True)


class FailedJobs:
    """The jobs that failed in the sweeps of one invocation.

    A sweep may continue in a folder in which jobs failed before, so that only errors that are new count.
    """

    def __init__(self) -> None:
        self._earlier: dict[Path, dict[Path, int]] = {}
        """Folder of a sweep -> the errors that lay there already, each with its time."""
        self._refused: list[str] = []
        """A line for each job that could not be composed."""

    @classmethod
    @contextmanager
    def watched(cls) -> Iterator[FailedJobs]:
        """Inside, every sweep that starts is watched."""
        failed_jobs = cls()
        token = WATCHING.set(failed_jobs)
        try:
            yield failed_jobs
        finally:
            WATCHING.reset(token)

    def watch(self, folder: Path) -> None:
        """A sweep starts in this folder."""
        self._earlier[folder] = _errors(folder)

    def refuse(self, line: str) -> None:
        """A job cannot be composed: say so at once and at the end."""
        print(f"hapo: error: {line}", file=sys.stderr, flush=True)
        self._refused.append(line)

    def report(self) -> None:
        """List the jobs that failed, and leave with status 1 if there are any."""
        lines = list(self._refused)
        for folder, earlier in self._earlier.items():
            failed = [path for path, when in sorted(_errors(folder).items()) if earlier.get(path) != when]
            lines += [f"{path.parent}: {path.read_text().splitlines()[0]}" for path in failed]
        if lines:
            print(f"hapo: {len(lines)} of the sweep's jobs failed:", file=sys.stderr)
            print(*(f"  {line}" for line in lines), sep="\n", file=sys.stderr)
            raise SystemExit(1)


WATCHING: ContextVar[FailedJobs | None] = ContextVar("failed_jobs", default=None)
"""Where :class:`Sweep`, which Hydra makes, finds the object that the invocation made."""


@contextmanager
def jobs_that_compose(in_one_line: Callable[[BaseException], str]) -> Iterator[None]:
    """Inside, the basic sweeper leaves out the jobs that lack a key that others have, as with ``gate=beta,failure
    gate.threshold=0.3``, where it would refuse them all.  If none is left it is the first job's error.  Jobs that are
    the same run are named; under a sweeper that chooses its jobs as it goes they are not known beforehand.

    Args:
        in_one_line: what is said of an error.
    """
    check = Sweeper.validate_batch_is_legal

    def leave_out(sweeper: Sweeper, jobs: list[Sequence[str]]) -> None:
        if type(sweeper).__name__ != "BasicSweeper":  # others count on a value for each job
            return check(sweeper, jobs)
        assert sweeper.hydra_context is not None
        assert sweeper.config is not None
        loader = sweeper.hydra_context.config_loader
        errors: dict[str, Exception] = {}
        good: list[Sequence[str]] = []
        configurations: dict[str, DictConfig] = {}
        for settings in jobs:
            varied = [setting for setting in settings if any(setting not in other for other in jobs)] or settings
            try:
                config = loader.load_sweep_config(sweeper.config, list(settings))
                configurations[f"job {len(good)} ({' '.join(varied)})"] = config
                good.append(settings)
            except HydraException as error:
                if not isinstance(error.__cause__, ConfigKeyError | ConfigAttributeError):
                    raise
                errors[f"job {' '.join(varied)}: {in_one_line(error)}"] = error
        if errors and not good:
            raise next(iter(errors.values()))
        if (failed_jobs := WATCHING.get()) is not None:
            for line in errors:
                failed_jobs.refuse(line)
        jobs[:] = good
        _report_identical(configurations)
        return None

    Sweeper.validate_batch_is_legal = leave_out  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Sweeper.validate_batch_is_legal = check  # type: ignore[method-assign]


def _report_identical(configurations: Mapping[str, DictConfig]) -> None:
    """Print the jobs that are the same run, a line for each such run; interpolations are compared as written."""
    from hapo_lit.analysis.identical import identical_runs  # which takes a second to import

    settings = {job: OmegaConf.to_container(config, resolve=False) for job, config in configurations.items()}
    for identical in identical_runs(cast("dict[str, dict[str, Any]]", settings)):
        print(f"hapo: these jobs are {identical}", flush=True)


def _errors(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob(f"*/{ERROR}")}


class Sweep(Callback):
    """Hydra's callback at the start of a sweep: its folder is made, as a study in SQLite needs one, and what is the
    same in all jobs is left out of their folders' names."""

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        if (failed_jobs := WATCHING.get()) is not None:
            failed_jobs.watch(folder)
        settings = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        same = ",".join(setting.key_or_group for setting in settings if not setting.is_sweep_override())
        with read_write(config), open_dict(config):  # every job is composed anew, with these overrides
            config.hydra.overrides.hydra.append(f"hydra.job.config.override_dirname.exclude_keys=[{same}]")


def folder_name(number: object, overrides: str) -> str:
    """A job's folder: its number and its overrides, short, and without characters that mean something in a path or a
    shell.

    ``0_gate.threshold=0.4,seed=1``
    """
    name = re.sub(r"(\.\d{4})\d+", r"\1", overrides)  # what a sampler drew, to four places
    name = re.sub(r"[^\w.=,+-]", "_", name)
    if len(name) > LONGEST:
        name = f"{name[: LONGEST - 9]}-{stable_hash(overrides, size=4).hex()}"
    return f"{number}_{name}" if name else str(number)


OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)

"""One use of the command line under Hydra, and what becomes of its jobs.

Imports no part of a run: the entry point's module is imported when its job begins.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hapo_lit.cli.bootstrap import config_folder, stop_with
from hapo_lit.cli.chosen_options import leave_out_settings_of_others
from hapo_lit.cli.kinds_of_values import check_values
from hapo_lit.cli.lasting_output import lasting_output
from hapo_lit.cli.messages import CONFIGURATION_ERRORS, RUN_ERRORS, in_one_line, naming
from hapo_lit.cli.sweeps import FailedJobs, forget_outcome, jobs_that_compose, note_failure, note_pruned, sweeping
from hapo_lit.errors import Pruned

Result = TypeVar("Result")

HOW_JOBS_START = tuple("hydra.run hydra.sweep hydra.mode hydra.launcher hydra/launcher hydra/sweeper hydra.job".split())
"""Hydra's own settings that say how jobs are started, and not what one of them is."""


class Invocation:
    """``hapo VERB key=value ...``: composes the configuration and runs the verb's entry point on it.

    Hydra calls the instance once for each job, in this process or, pickled, in one that its launcher starts.

    Args:
        words: the verb, and the word that follows it if it needs one.
        config_name: the file in ``conf/`` to compose.
    """

    def __init__(self, words: tuple[str, ...], config_name: str) -> None:
        self.words, self.config_name = words, config_name
        self.program = os.path.abspath(sys.argv[0])
        self.job_began = False
        """While it is False, whatever is wrong is the configuration."""
        self.__module__ = f"hapo_lit.cli.{words[0]}"  # after which Hydra names its job

    def run(self, settings: list[str]) -> None:
        """Let Hydra compose and run; ends the process with one line if the configuration is wrong."""
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and what is printed is ours
        settings = sorted(settings, key=lambda setting: setting not in ("-m", "--multirun"))  # which Hydra wants first
        compose = hydra.main(version_base="1.3", config_path=config_folder(), config_name=self.config_name)
        with FailedJobs.watched() as failed_jobs, jobs_that_compose(in_one_line):
            try:
                with command_line(f"hapo {' '.join(self.words)}", *settings):
                    compose(self)()
            except Exception as error:  # Hydra's, or what it stumbles over in these settings
                failed_jobs.report()
                if self.job_began and not isinstance(error, CONFIGURATION_ERRORS):
                    raise
                stop_with(error, naming(in_one_line(error), settings))
            failed_jobs.report()

    def __call__(self, config: DictConfig) -> object:
        """Run a job.  Meanwhile ``sys.argv`` is the command with which Lightning starts this job's other processes."""
        self.job_began = True
        main = importlib.import_module(f"hapo_lit.cli.{self.words[0]}").main
        with command_line(self.program, *self.words, *job_settings()), lasting_output():
            return run_job(main, config)


@contextmanager
def command_line(*words: str) -> Iterator[None]:
    """Inside, ``sys.argv`` is this."""
    before, sys.argv = sys.argv, list(words)
    try:
        yield
    finally:
        sys.argv = before


def job_settings() -> list[str]:
    """The command line that runs the job at hand, one of a sweep included, by itself."""
    overrides = HydraConfig.get().overrides
    task = [setting for setting in overrides.task if not setting.startswith("sweep=")]
    return task + [setting for setting in overrides.hydra if not setting.lstrip("+~").startswith(HOW_JOBS_START)]


def run_job(main: Callable[[DictConfig], Result], config: DictConfig) -> Result | None:
    """The value of an entry point; an error that the user can mend ends the process with one line.

    A job of a sweep that fails, in whatever way, notes why and gives no value, so that the others run.
    """
    if sweeping():
        forget_outcome()
    composed = OmegaConf.to_container(config, resolve=False)
    try:
        if HydraConfig.initialized():
            leave_out_settings_of_others(config, HydraConfig.get().overrides.task)
        check_values(config)
        return main(config)
    except Pruned as pruned:
        if sweeping():
            note_pruned(str(pruned))
        return pruned.value  # type: ignore[return-value]
    except Exception as error:
        known = isinstance(error, (*CONFIGURATION_ERRORS, *RUN_ERRORS))
        line = in_one_line(error, composed) if known else f"{type(error).__name__}: {error}"
        if sweeping():
            note_failure(line, error)
            return None
        if known:
            about_settings = isinstance(error, CONFIGURATION_ERRORS) and HydraConfig.initialized()
            stop_with(error, naming(line, HydraConfig.get().overrides.task) if about_settings else line)
        raise

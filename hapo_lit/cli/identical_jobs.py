"""What is said at the start of a sweep of jobs that are the same run."""

from __future__ import annotations

from itertools import product
from typing import Any, cast

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


def report_identical_jobs(config: DictConfig) -> None:
    """Print the jobs of a sweep that are the same run, a line for each such run; ``config`` is the sweep's own.

    Of a sweeper that chooses its jobs as it goes they are not known beforehand, and nothing is printed.
    """
    if not str(config.hydra.sweeper._target_).endswith(".BasicSweeper"):
        return
    from hapo_lit.analysis.identical import identical_runs  # which takes a second to import

    jobs = {}
    for number, overrides in enumerate(jobs_of(config)):
        settings = settings_of(config, overrides)
        varied = [override for override in overrides if override not in config.hydra.overrides.task]
        jobs[f"job {number} ({' '.join(varied)})"] = settings
    for identical in identical_runs(jobs):
        print(f"hapo: these jobs are {identical}", flush=True)


def jobs_of(config: DictConfig) -> list[list[str]]:
    """The overrides of each job, in Hydra's order: all combinations, the last varying fastest."""
    params = config.hydra.sweeper.get("params") or {}
    lines = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    choices: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides(lines):
        key = override.get_key_element()
        values = override.sweep_string_iterator() if override.is_discrete_sweep() else [_value(override)]
        choices[key] = [f"{key}={value}" for value in values]
    return [list(job) for job in product(*choices.values())]


def settings_of(config: DictConfig, overrides: list[str]) -> dict[str, Any]:
    """The settings of a job, interpolations as they are written; none if they do not compose, which Hydra will say."""
    loader = GlobalHydra.instance().hydra.config_loader  # type: ignore[union-attr]
    try:
        job = loader.load_sweep_config(config, overrides)
    except (HydraException, OmegaConfBaseException, ValueError):
        return {}
    return cast("dict[str, Any]", OmegaConf.to_container(job, resolve=False))


def _value(override: Any) -> str:
    return str(override.get_value_element_as_str())

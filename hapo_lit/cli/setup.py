"""Building the parts of a run from its configuration."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from transformers.utils import logging as transformers_logging

from hapo_lit.cli.bootstrap import config_folder
from hapo_lit.cli.kinds_of_values import LARGEST
from hapo_lit.cli.messages import CONFIGURATION_ERRORS, RUN_ERRORS
from hapo_lit.errors import ResumeError, SetupError, nearest
from hapo_lit.training.determinism import make_deterministic, without_deterministic_form

PRESET_GROUPS = ("experiment", "debug", "sweep")
"""Groups whose options set other keys, and which are no key themselves."""
RANGES = {
    "threads": (1, max(64, os.cpu_count() or 1)),
    "seed": (0, LARGEST),
    "steps": (1, LARGEST),
    "eval_every": (1, LARGEST),
    "save_every": (1, LARGEST),
    "prompts_per_step": (1, LARGEST),
    "max_prompt_tokens": (1, LARGEST),
    "max_response_tokens": (1, LARGEST),
}
"""Keys at the top -> what they may be."""


@contextmanager
def setting_up() -> Iterator[None]:
    """Whatever goes wrong in here is about the settings or the machine, and becomes a ``SetupError``."""
    try:
        yield
    except (ValueError, OSError) as error:
        if isinstance(error, ResumeError):
            raise
        raise SetupError(str(error)) from error
    except (*CONFIGURATION_ERRORS, *RUN_ERRORS):
        raise
    except Exception as error:
        said = without_deterministic_form(error) or f"{type(error).__name__}: {error} (HAPO_TRACEBACK=1 shows where)"
        raise SetupError(said) from error


def build(config: DictConfig, *parts: str) -> list[Any]:
    """Build the named parts of the configuration, and refuse keys that nothing reads."""
    OmegaConf.resolve(config)
    if unknown := {str(key) for key in config} - known_keys():
        name = min(unknown)
        raise SetupError(f"nothing reads the key {name!r}{nearest(name, known_keys())}")
    for key, (least, most) in RANGES.items():
        if not least <= config[key] <= most:
            at_most = "" if most == LARGEST else f" and at most {most:,}"
            raise SetupError(f"{key} must be a whole number of at least {least}{at_most}, got {config[key]!r}")
    if "lr" in config.optim:
        raise SetupError("optim.lr would be overwritten at every step: set learning_rate.start and learning_rate.end")
    if config.deterministic:
        make_deterministic()
    torch.set_num_threads(config.threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(config.threads))  # of processes that this one starts for other devices
    quieten()
    return [instantiate(config[part], _convert_="all") for part in parts]


@cache
def known_keys() -> frozenset[str]:
    """Every key at the top of an entry point's configuration: what ``conf/*.yaml`` set, and the groups they choose."""
    keys: set[str] = set()
    for file in Path(config_folder()).glob("*.yaml"):
        content = OmegaConf.load(file)
        assert isinstance(content, DictConfig)
        defaults: ListConfig = content.pop("defaults")
        groups = {str(key) for choice in defaults if isinstance(choice, DictConfig) for key in choice}
        keys |= {str(key) for key in content} | {group for group in groups if not group.startswith("override ")}
    return frozenset(keys - {"hydra", *PRESET_GROUPS})


def quieten() -> None:
    """Keep the terminal for what the run says: no tips, no bars for loading a file, no advice that does not apply."""
    transformers_logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # the error says it again
    for message in (
        ".*LeafSpec.*",
        "Experiment logs directory .* exists and is not empty",
        ".*does not have many workers.*",
        r".*nn\.functional\.all_gather is deprecated",  # by torch; Lightning calls it
        ".*recommended to use `self.log.*sync_dist=True",  # they have been averaged
    ):
        warnings.filterwarnings("ignore", message=message)

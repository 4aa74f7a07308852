"""What the doors to a run share: building parts, and saying in one line what is wrong."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from transformers.utils import logging as transformers_logging

from hapo_lit.cli.bootstrap import config_folder, stop
from hapo_lit.cli.sweeps import Pruned, forget_end, note_failure, sweeping
from hapo_lit.errors import (
    EngineError,
    MemoryShortError,
    NotFiniteError,
    ResumeError,
    SaveError,
    SetupError,
    VerifierError,
    nearest,
)

Result = TypeVar("Result")


CONFIGURATION_ERRORS = (SetupError, ResumeError, HydraException, OmegaConfBaseException)
RUN_ERRORS = (VerifierError, NotFiniteError, MemoryShortError, SaveError, EngineError)
"""What may end a run on its way, and is said in one line too."""


@contextmanager
def setting_up() -> Iterator[None]:
    """What goes wrong in here before training starts is the user's to fix, and said in one line."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise SetupError(str(error)) from error


def build(config: DictConfig, *parts: str) -> list[Any]:
    """Build the named parts of the configuration, and refuse keys that nothing reads."""
    OmegaConf.resolve(config)
    if unknown := set(config) - KEYS:
        name = sorted(map(str, unknown))[0]
        raise SetupError(f"nothing reads the key {name!r}{nearest(name, KEYS)}")
    for key, least in {"threads": 1, "seed": 0, "eval_every": 1, "save_every": 1, "max_response_tokens": 1}.items():
        if not isinstance(config[key], int) or config[key] < least:
            raise SetupError(f"{key} must be a whole number of at least {least}, got {config[key]!r}")
    if "lr" in config.optim:
        raise SetupError("optim.lr would be overwritten at every step: set learning_rate.start and learning_rate.end")
    torch.set_num_threads(config.threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(config.threads))  # of this process's twins on other devices
    quieten()
    return [instantiate(config[part], _convert_="all") for part in parts]


def quieten() -> None:
    """Keep the terminal for what the run says: no tips, no bars for loading a file, no advice that does not apply."""
    transformers_logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # what it has to say, the error says again
    for message in (
        ".*LeafSpec.*",
        "Experiment logs directory .* exists and is not empty",
        ".*does not have many workers.*",
        ".*recommended to use `self.log.*sync_dist=True",  # they have been averaged
    ):
        warnings.filterwarnings("ignore", message=message)


KEYS = frozenset(
    [
        "algorithm",
        "advantage",
        "allow_changes",
        "callbacks",
        "data",
        "evaluators",
        "fabric",
        "gate",
        "injector",
        "learning_rate",
        "logger",
        "loss",
        "model",
        "module",
        "optim",
        "paths",
        "phases",
        "rollout",
        "teacher",
        "teacher_check",
        "teacher_errors",
        "template",
        "trainer",
        "verifier",
        "weighting",
        "seed",
        "threads",
        "steps",
        "group_size",
        "prompts_per_step",
        "precision",
        "processes",
        "memory_gib",
        "max_prompt_tokens",
        "max_response_tokens",
        "eval_every",
        "save_every",
        "save_minutes",
        "consistency_every",
        "resume",
    ]
)
"""Every top-level key of the doors; a test compares them."""


def give_up(error: BaseException) -> NoReturn:
    """Leave with the one line that says what is wrong, or with the frames if ``HAPO_TRACEBACK=1`` asks for them."""
    if os.environ.get("HAPO_TRACEBACK") == "1":
        raise error
    stop(in_one_line(error))


ENTERED: list[str] = []
"""ForkedRuns whose job has begun; while it is empty, whatever is wrong is the configuration."""


def door(main: Callable[[DictConfig], Result]) -> Callable[[DictConfig], Result | None]:
    """Turns a configuration error inside a door's job into one line; with ``HAPO_TRACEBACK=1`` the frames are shown.

    A job of a sweep that fails, in whatever way, notes why and gives no value, so that the others run.
    """

    @functools.wraps(main)
    def wrapped(config: DictConfig) -> Result | None:
        ENTERED.append(main.__name__)
        if sweeping():
            forget_end()
        try:
            return main(config)
        except Pruned as pruned:
            return pruned.value  # type: ignore[return-value]
        except Exception as error:
            known = isinstance(error, (*CONFIGURATION_ERRORS, *RUN_ERRORS))
            if sweeping():
                note_failure(in_one_line(error) if known else f"{type(error).__name__}: {error}", error)
                return None
            if known:
                give_up(error)
            raise

    return wrapped


def in_one_line(error: BaseException) -> str:
    """The message of a configuration error, without frames, with the nearest valid name where one was misspelt."""
    if isinstance(error, (SetupError, ResumeError, *RUN_ERRORS)):
        return " ".join(str(error).split())
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = " ".join(str(cause).split())
    if match := re.search(r"Config group override must be a string or a list. Got (\w+)", text):
        return f"a group was given a {match[1]}: name one of its options, or a field as group.field=value"
    if match := re.search(r"Key '([^']+)' is not in struct(?: full_key: (\S+))?", text):
        near = nearest(match[1], _all_keys() - {match[1]})
        return f"there is no key {match[2] or match[1]!r}{near}; `--cfg job` prints all keys"
    if match := re.search(r"Could not find 'hydra/(?:launcher|sweeper)/(\w+)'", text):
        return f"there is no launcher or sweeper {match[1]!r} here; pip install 'hapo_lit[sweep]' brings some"
    if match := re.search(r"Could not find '(\w+)/([\w/-]+)' Available options in '\w+': (.*?) Config search", text):
        options = match[3].split()
        return f"there is no {match[1]}={match[2]}{nearest(match[2], options)}; there are: {', '.join(options)}"
    unknown = re.search(r"got an unexpected keyword argument '(\w+)'", text)
    if unknown and (target := re.search(r"Error in call to target '([\w.]+)'", str(error))):
        known = [name for name in inspect.signature(get_object(target[1])).parameters if name != "self"]
        near = nearest(unknown[1], known)
        return f"{target[1]} has no parameter {unknown[1]!r}{near}; it has: {', '.join(known) or 'none'}"
    if unset := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{unset[1]} is not set, and has no default"
    if empty := re.search(r"(\w+)\(\) takes no arguments", text):
        where = re.search(r"full_key: (?:\S+\.)?(\w+)", str(error))
        holder = where[1] if where else "its key"
        return f"{empty[1]} has no settings, but {holder} holds some: a preset or an override meant another part"
    if missing := re.search(r"No module named '([\w.]+)\.(\w+)'; '[\w.]+' is not a package", text):
        return f"{missing[1]} has no {missing[2]!r}{nearest(missing[2], vars(get_object(missing[1])))}"
    if where := re.search(r"full_key: (\S+)", str(error)):
        return f"{text} (in {where[1]})" if where[1] not in text else text
    return text


def _all_keys() -> set[str]:
    """Every key that occurs anywhere in ``conf/``."""
    text = "\n".join(path.read_text() for path in Path(config_folder()).rglob("*.yaml"))
    return set(re.findall(r"^[ \t-]*(\w+):", text, re.MULTILINE))

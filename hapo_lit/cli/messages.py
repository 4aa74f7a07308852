"""What is wrong with a configuration, in one line: the errors of Hydra and OmegaConf without their frames."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf.errors import OmegaConfBaseException

from hapo_lit.cli.bootstrap import config_folder, unwrapped
from hapo_lit.errors import (
    EngineError,
    MemoryShortError,
    NotFiniteError,
    PartError,
    ResumeError,
    SaveError,
    SetupError,
    VerifierError,
    nearest,
)

CONFIGURATION_ERRORS = (SetupError, ResumeError, HydraException, OmegaConfBaseException)
"""Errors in a configuration."""
RUN_ERRORS = (VerifierError, PartError, NotFiniteError, MemoryShortError, SaveError, EngineError)
"""Errors during a run that are printed as one line."""


def in_one_line(error: BaseException) -> str:
    """The message of an error without its frames, with the nearest valid name where one was misspelt."""
    if isinstance(error, (SetupError, ResumeError, *RUN_ERRORS)):
        return unwrapped(str(error))
    text = unwrapped(str(first_cause(error)))
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
        if not near and (where := re.search(r"full_key: (\S+)", str(error))):
            key = where[1].rpartition(".")[2]
            near = f" ({key} was chosen with it: add ~{key}.{unknown[1]}, or use another {key} without settings)"
        return f"{target[1]} has no parameter {unknown[1]!r}{near}; it has: {', '.join(known) or 'none'}"
    if unset := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{unset[1]} is not set, and has no default"
    if empty := re.search(r"(\w+)\(\) takes no arguments", text):
        where = re.search(r"full_key: (?:\S+\.)?(\w+)", str(error))
        holder = where[1] if where else "its key"
        return (
            f"{empty[1]} has no settings, but {holder} holds some: they were meant for another class; check the preset "
            f"or override, or take each out with ~{holder}.NAME (`--cfg job` prints them)"
        )
    if missing := re.search(r"No module named '([\w.]+)\.(\w+)'; '[\w.]+' is not a package", text):
        return f"{missing[1]} has no {missing[2]!r}{nearest(missing[2], vars(get_object(missing[1])))}"
    if where := re.search(r"full_key: (\S+)", str(error)):
        return f"{text} (in {where[1]})" if where[1] not in text else text
    return text


def first_cause(error: BaseException) -> BaseException:
    """The error that was raised first, of those that led to this one."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _all_keys() -> set[str]:
    """Every key that occurs anywhere in ``conf/``."""
    text = "\n".join(path.read_text() for path in Path(config_folder()).rglob("*.yaml"))
    return set(re.findall(r"^[ \t-]*(\w+):", text, re.MULTILINE))

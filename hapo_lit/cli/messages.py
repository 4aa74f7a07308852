"""What is wrong with a configuration, in one line: the errors of Hydra and OmegaConf without their frames."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf.errors import OmegaConfBaseException

from hapo_lit.cli.bootstrap import config_folder, unwrapped
from hapo_lit.cli.own_key import at, own_key
from hapo_lit.errors import (
    EngineError,
    MachineError,
    MemoryShortError,
    NotFiniteError,
    PartError,
    ResumeError,
    SaveError,
    SetupError,
    UnhealthyError,
    VerifierError,
    cut,
    nearest,
)
from hapo_lit.numerics.ranges import SettingError

CONFIGURATION_ERRORS = (SetupError, ResumeError, HydraException, OmegaConfBaseException)
"""Errors in a configuration."""
RUN_ERRORS = (
    *(VerifierError, PartError, NotFiniteError, MemoryShortError, SaveError, EngineError, MachineError),
    UnhealthyError,
)
"""Errors during a run that are printed as one line."""

VERB_OF = {"fabric": "fabric", "trainer": "train"}
"""Key that not every verb has -> the verb that a run with it needs."""


def in_one_line(error: BaseException, composed: Any = None) -> str:
    """The message of an error without its frames, with the nearest valid name where one was misspelt.

    Args:
        error: what was raised.
        composed: the job's configuration as plain dictionaries, ``${...}`` unresolved; some messages then name the
            settings that mend it.
    """
    if isinstance(error, (SetupError, ResumeError, *RUN_ERRORS)):
        return unwrapped(str(error))
    cause = first_cause(error)
    text = unwrapped(str(cause))
    if isinstance(cause, SettingError):
        place = re.search(r"full_key: (\S+)", str(error))
        return f"{own_key(composed, f'{place[1]}.{cause.parameter}')} {cause.reason}" if place else text
    if match := re.search(r"Config group override must be a string or a list. Got (\w+)", text):
        return f"a group was given a {match[1]}: name one of its options, or a field as group.field=value"
    if match := re.search(r"Key '([^']+)' is not in struct(?: full_key: (\S+))?", text):
        near = nearest(match[1], _all_keys() - {match[1]})
        if (match[2] or match[1]) in VERB_OF:
            near = f": it belongs to `hapo {VERB_OF[match[1]]}`"
        return f"there is no key {match[2] or match[1]!r}{near}; `--cfg job` prints all keys"
    if match := re.search(r"Could not find 'hydra/(?:launcher|sweeper)/(\w+)'", text):
        return f"there is no launcher or sweeper {match[1]!r} here; pip install 'hapo_lit[sweep]' brings some"
    if match := re.search(r"Could not find '(\w+)/([\w/-]+)' Available options in '\w+': (.*?) Config search", text):
        options = match[3].split()
        return f"there is no {match[1]}={match[2]}{nearest(match[2], options)}; there are: {', '.join(options)}"
    unknown = re.search(r"got an unexpected keyword argument '(\w+)'", text)
    if unknown and (target := re.search(r"Error in call to target '([\w.]+)'", str(error))):
        known = [name for name in inspect.signature(get_object(target[1])).parameters if name != "self"]
        near = nearest(unknown[1], known) or _way_out(str(error), composed, known, unknown[1])
        return f"{target[1]} has no parameter {unknown[1]!r}{near}; it has: {', '.join(known) or 'none'}"
    if unset := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{unset[1]} is not set, and has no default"
    if empty := re.search(r"(\w+)\(\) takes no arguments", text):
        where = re.search(r"full_key: (?:\S+\.)?(\w+)", str(error))
        holder = where[1] if where else "its key"
        way_out = _way_out(str(error), composed) or ": they were meant for another class; check the preset or override"
        return f"{empty[1]} has no settings, but {holder} holds some{way_out}"
    if missing := re.search(r"No module named '([\w.]+)\.(\w+)'; '[\w.]+' is not a package", text):
        return f"{missing[1]} has no {missing[2]!r}{nearest(missing[2], vars(get_object(missing[1])))}"
    if (absent := re.search(r"No module named '([\w.]+)'", text)) and not absent[1].startswith("hapo_lit."):
        return (
            f"there is no module {absent[1]!r} here: start hapo in the folder of a module of your own, or put that "
            f"folder on PYTHONPATH; install any other"
        )
    if where := re.search(r"full_key: (\S+)", str(error)):
        key = own_key(composed, where[1])
        text = re.sub(r" ?full_key: \S+(?: object_type=\S+)?", "", text)
        return f"{text} (in {key})" if key not in text else text
    return text


def first_cause(error: BaseException) -> BaseException:
    """What Hydra, or a search for a module, has wrapped; what a part has wrapped itself stays so."""
    while error.__cause__ is not None and isinstance(error, (HydraException, OmegaConfBaseException, ImportError)):
        error = error.__cause__
    return error


def naming(line: str, settings: Sequence[str]) -> str:
    """A message with those settings of the command line that it may be about, if it names none in full.

    Args:
        line: the message.
        settings: ``key=value``, of the command line.
    """
    keys = {setting: re.split(r"[=@]", setting.lstrip("+~"))[0] for setting in settings}
    groups = [setting for setting, key in keys.items() if (Path(config_folder()) / key).is_dir()]
    quoted = [setting for setting in keys if len(value := setting.partition("=")[2]) > 3 and value in line]
    keys = {setting: key for setting, key in keys.items() if key not in ("experiment", "model.path", "resume")}
    if any(re.search(_in_full(key), line) for key in keys.values()):
        return line
    words = set(re.findall(r"\w+", line))
    near = quoted or [setting for setting, key in keys.items() if words & set(re.split(r"[./]", key))]
    shown = groups if "a group was given" in line else near or list(keys)
    return f"{line} (set here: {cut(' '.join(shown), 300)})" if shown else line


def _in_full(key: str) -> str:
    """What finds a key in a message: a word alone, such as ``steps``, is the key at the beginning or before ``=``."""
    found = rf"(?<![\w.]){re.escape(key)}(?!\w)"
    return found if "." in key else rf"^{found}|{found}=|key '{re.escape(key)}"


def _way_out(error: str, composed: Any, known: Sequence[str] = (), unknown: str | None = None) -> str:
    """What to add to the command line where a class was given settings of another; empty if it is not known.

    Args:
        error: Hydra's whole message, which says where.
        composed: as for :func:`in_one_line`.
        known: the parameters that the class has.
        unknown: the one that it was given first; None = any.
    """
    if not (where := re.search(r"full_key: (\S+)", error)):
        return ""
    key, node = own_key(composed, where[1]), at(composed, where[1])
    if not isinstance(node, dict):
        key, node = where[1].rpartition(".")[2], {unknown: None} if unknown else {}
    unwanted = [f"~{key}.{name}" for name in node if name not in known and not name.startswith("_")]
    if not unwanted:
        return ""
    options = {path.stem: path.read_text() for path in sorted((Path(config_folder()) / key).glob("*.yaml"))}
    empty = [name for name, text in options.items() if re.findall(r"^(\w+):", text, re.MULTILINE) == ["_target_"]]
    ours = any(f"_target_: {node.get('_target_')}\n" in text for text in options.values())
    other = f"{key}={empty[0]}, which has no settings, or " if empty and not ours else ""
    return f" ({key} was chosen with them: add {other}{' '.join(unwanted)})"


def _all_keys() -> set[str]:
    """Every key that occurs anywhere in ``conf/``."""
    text = "\n".join(path.read_text() for path in Path(config_folder()).rglob("*.yaml"))
    return set(re.findall(r"^[ \t-]*(\w+):", text, re.MULTILINE))

"""Whether the values of a configuration are what the parts' own signatures say: by type, before anything is built.

Ranges are the parts' own business (:mod:`hapo_lit.numerics.ranges`).
"""

from __future__ import annotations

import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue

from hapo_lit.cli.own_key import own_key
from hapo_lit.errors import SetupError

TOP: dict[str, Any] = {
    "allow_changes": bool,
    "deterministic": bool,
    "resume": str | None,
    "threads": int,
    "seed": int,
    "steps": int,
    "group_size": int,
    "prompts_per_step": int,
    "max_prompt_tokens": int,
    "max_response_tokens": int,
    "eval_every": int,
    "save_every": int,
    "paths.cache": str,
}
"""Keys that entry points read themselves -> their type."""
SET_LATER = ("model.path", "paths.run")
"""Keys that may be null where a text is wanted: the base policy, and a verb that has no folder."""
OTHERS = "**"
"""Stands for the parameters that a function takes by whatever name."""
LARGEST = 2**63
"""What is counted or drawn from fits into 64 bits."""


class Misfit(Exception):
    """A value is not of a type; what it should have been."""


def check_values(config: DictConfig) -> None:
    """Whether every value has the type of the parameter that gets it.

    Parameters without an annotation take anything, and so do those whose annotation is a class of somebody else.

    Args:
        config: of a job, interpolations not resolved: a message names the key that a user sets.

    Raises:
        SetupError: names the key and what it must be.
    """
    plain = OmegaConf.to_container(config, resolve=False)
    for key, kind in TOP.items():
        if key.split(".")[0] in config:
            _check(config, plain, key, kind)
    for where, node in _targets(config, ""):
        if "_partial_" in node and not isinstance(node["_partial_"], bool):
            raise SetupError(f"{where}._partial_ must be true or false, got {node['_partial_']!r}")
        kinds = _parameters(node["_target_"])
        for name in (str(key) for key in node if not str(key).startswith("_")):
            _check(config, plain, f"{where}.{name}", kinds.get(name, kinds.get(OTHERS, Any)))


def _check(config: DictConfig, plain: Any, key: str, kind: Any) -> None:
    try:
        value = OmegaConf.select(config, key, throw_on_missing=True)
        _fit(value, kind)
    except (MissingMandatoryValue, InterpolationToMissingValueError):
        return  # it is said where the part is built, if it is
    except Misfit as misfit:
        if value is None and own_key(plain, key) in SET_LATER:
            return
        raise SetupError(f"{own_key(plain, key)} must be {misfit}, got {_shown(value)}") from None


def _shown(value: Any) -> str:
    if isinstance(value, DictConfig | ListConfig):
        value = OmegaConf.to_container(value, resolve=False)
    if isinstance(value, float) and value.is_integer() and abs(value) < LARGEST:
        return f"{value!r} (a whole number has no point and no e: {int(value)})"
    text = repr(value)
    return "null" if value is None else text if len(text) < 100 else f"{text[:100]}..."


def _targets(node: Any, where: str) -> Iterator[tuple[str, DictConfig]]:
    """Every node that names a class or function, with its place; those that ``${...}`` points to are seen there."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            if not isinstance(node["_target_"], str):
                raise SetupError(f"{where}._target_ must name a class or function, got {_shown(node['_target_'])}")
            yield where, node
        keys: Sequence[Any] = list(node.keys())
    elif isinstance(node, ListConfig):
        keys = range(len(node))
    else:
        return
    for key in keys:
        if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
            yield from _targets(node[key], f"{where}.{key}" if where else str(key))


@cache
def _parameters(target: str) -> Mapping[str, Any]:
    """The annotated parameters of a class or function; none where they cannot be read.

    A number on the command line may be meant as a text: what somebody else's part makes of it is its own business.
    """
    try:
        called = get_object(target)
        takes_any, found = True, dict[str, Any]()
        for owner in called.__mro__ if isinstance(called, type) else (called,):
            if takes_any and (owner is called or "__init__" in vars(owner)):
                takes_any = _read(owner.__init__ if isinstance(owner, type) else owner, found)  # type: ignore[misc]
    except Exception:  # whatever importing somebody's module may raise: it is raised again where parts are built
        return {}
    ours = re.match(r"(hapo_lit|lightning|torch|hydra)\.", target)
    return found if ours else {name: kind for name, kind in found.items() if str not in (kind, *typing.get_args(kind))}


def _read(function: Callable[..., Any], found: dict[str, Any]) -> bool:
    """Add a function's annotations; whether it passes others on."""
    parameters = inspect.signature(function).parameters.values()
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # a name that is only known to a type checker
        hints = {}
    for parameter in parameters:
        if parameter.name in hints and parameter.kind != parameter.VAR_POSITIONAL:
            name = OTHERS if parameter.kind == parameter.VAR_KEYWORD else parameter.name
            found.setdefault(name, hints[parameter.name])
    return any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)


# -- one value ----------------------------------------------------------------------------------------------------


def _fit(value: Any, kind: Any) -> None:
    """Raise :class:`Misfit` unless a value has a type."""
    if isinstance(value, DictConfig) and "_target_" in value:
        return  # what it will make is not known yet
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        _fit_one_of(value, arguments)
    elif origin is typing.Literal:
        if not any(value == known and type(value) is type(known) for known in arguments):
            raise Misfit(_listed(map(str, arguments)))
    elif origin is typing.Annotated:
        _fit(value, arguments[0])
    elif kind in SCALARS:
        SCALARS[kind](value)
    elif (origin or kind) in SEQUENCES:
        _fit_sequence(value, origin, arguments)
    elif (origin or kind) in MAPPINGS:
        if not isinstance(value, DictConfig):
            raise Misfit("a dictionary, {name: value}")
        for name in value:
            _fit(value[name], arguments[1] if arguments else Any)
    elif isinstance(kind, type) and kind.__module__.partition(".")[0] in MADE:
        raise Misfit(_words(kind))


def _fit_one_of(value: Any, kinds: Sequence[Any]) -> None:
    refused = []
    for kind in kinds:
        try:
            return _fit(value, kind)
        except Misfit as misfit:
            refused.append(str(misfit))
    if any(kind in SCALARS and kind is not type(None) for kind in kinds):
        refused = [word.removesuffix(OBJECT) for word in refused]
    raise Misfit(_listed(dict.fromkeys(sorted(refused, key=lambda word: word == "null"))))


def _fit_sequence(value: Any, origin: Any, arguments: Sequence[Any]) -> None:
    fixed = origin is tuple and len(arguments) > 0 and arguments[-1] is not Ellipsis
    if not isinstance(value, ListConfig):
        raise Misfit(f"a list{f' of {len(arguments)}' if fixed else ''}, such as [a, b]")
    if fixed and len(value) != len(arguments):
        raise Misfit(f"a list of {len(arguments)}")
    for index, item in enumerate(value):
        kind = arguments[index if fixed else 0] if arguments else Any
        try:
            _fit(item, kind)
        except Misfit as misfit:
            raise Misfit(f"a list, each of which is {misfit}") from None


def _whole(value: Any) -> None:
    if type(value) is not int:
        raise Misfit("a whole number")
    if not -LARGEST <= value < LARGEST:
        raise Misfit("a whole number below 2^63")


def _number(value: Any) -> None:
    if type(value) not in (int, float) or math.isnan(value) or (type(value) is int and abs(value) >= LARGEST):
        raise Misfit("a number")


def _truth(value: Any) -> None:
    if type(value) is not bool:
        raise Misfit("true or false")


def _text(value: Any) -> None:
    if not isinstance(value, str):
        raise Misfit("a text")


def _nothing(value: Any) -> None:
    if value is not None:
        raise Misfit("null")


SCALARS: dict[Any, Callable[[Any], None]] = {
    int: _whole,
    float: _number,
    bool: _truth,
    str: _text,
    type(None): _nothing,
    None: _nothing,
}
SEQUENCES = (list, tuple, Sequence, Iterable)
MAPPINGS = (dict, Mapping)
MADE = ("hapo_lit", "lightning", "torch", "transformers")
"""Packages whose objects no value of a configuration is by itself."""
OBJECT = " (an object with a _target_)"


def _words(kind: type) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()
    return f"a{'n' if words[0] in 'aeiou' else ''} {words}{OBJECT}"


def _listed(words: Any) -> str:
    return " or ".join(words)

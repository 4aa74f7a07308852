"""Whether the numbers of a configuration are numbers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from hapo_lit.errors import SetupError

KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "bool": (bool, "true or false"),
}
"""Annotation of a parameter -> what its value must be, and how that is called."""
WHOLE = ("steps", "group_size", "prompts_per_step", "max_prompt_tokens", "max_response_tokens")
"""Keys at the top that several parts get."""


def check_whole_numbers(config: DictConfig) -> None:
    """Whether the keys at the top that several parts get are whole numbers.

    Raises:
        SetupError: names the key.
    """
    for key in WHOLE:
        if key in config:
            _check(key, config[key], "int")


def check_kinds(config: DictConfig) -> None:
    """Whether values whose parameter is annotated as a number or a truth value are such.

    Raises:
        SetupError: names the key and what it must be.
    """
    for where, node in _targets(config, ""):
        for name, annotation in _annotations(node["_target_"]).items():
            if name in node and not OmegaConf.is_missing(node, name):
                _check(f"{where}.{name}", node[name], annotation)


def _targets(node: Any, where: str) -> Iterator[tuple[str, DictConfig]]:
    """Every node that names a class or function, with its place."""
    if isinstance(node, DictConfig):
        if isinstance(node.get("_target_"), str):
            yield where, node
        children = [(str(key), node[key]) for key in node if not OmegaConf.is_missing(node, key)]
    elif isinstance(node, ListConfig):
        children = [(str(index), node[index]) for index in range(len(node)) if not OmegaConf.is_missing(node, index)]
    else:
        return
    for key, child in children:
        yield from _targets(child, f"{where}.{key}" if where else key)


def _annotations(target: str) -> dict[str, str]:
    """The parameters of a class or function with their annotations as text; none where they cannot be read."""
    try:
        parameters = inspect.signature(get_object(target)).parameters.values()
    except (ImportError, ValueError, TypeError, AttributeError):
        return {}  # it is said when the part is built
    return {
        parameter.name: re.sub(r"<class '(\w+)'>", r"\1", str(parameter.annotation))
        for parameter in parameters
        if parameter.annotation is not parameter.empty
    }


def _check(key: str, value: Any, annotation: str) -> None:
    kinds = [kind.strip() for kind in annotation.split("|")]
    known = [KINDS[kind] for kind in kinds if kind in KINDS]
    if not known or not set(kinds) <= {*KINDS, "None"}:  # a schedule or another part may stand there too
        return
    if value is None and "None" in kinds:
        return
    if (isinstance(value, bool) and "bool" not in kinds) or not any(isinstance(value, kind) for kind, _ in known):
        expected = " or ".join([*(name for _, name in known), *(["null"] if "None" in kinds else [])])
        raise SetupError(f"{key} must be {expected}, got {value!r}")

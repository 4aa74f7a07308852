"""The key that a user sets for what stands somewhere in a configuration."""

from __future__ import annotations

import re
from typing import Any


def own_key(settings: Any, place: str) -> str:
    """Where ``${...}`` points, in the end, on the way to a place.

    Args:
        settings: the job's configuration as plain dictionaries and lists, ``${...}`` unresolved.
        place: such as ``module.phases.sequence.whole.loss.clip``; Hydra writes an item of a list as ``levels0``.
    """
    for _ in range(20):  # a circle of pointers is refused when it is resolved
        keys: list[str] = []
        node, waiting = settings, place.split(".")
        pointer = None
        while waiting and pointer is None:
            part = waiting.pop(0)
            if isinstance(node, dict) and part not in node and (item := re.fullmatch(r"(.*?)(\d+)", part)):
                part, waiting = item[1], [item[2], *waiting]
            keys.append(part)
            node = child(node, part)
            pointer = re.fullmatch(r"\$\{([\w.]+)\}", node) if isinstance(node, str) else None
        if pointer is None:
            return ".".join(keys)
        place = ".".join([pointer[1], *waiting])
    return place


def at(settings: Any, place: str) -> Any:
    """What a user has at a place, after :func:`own_key`; None if there is nothing."""
    node = settings
    for part in own_key(settings, place).split("."):
        node = child(node, part)
    return node


def child(node: Any, part: str) -> Any:
    """A field of a dictionary or an item of a list, or None."""
    if isinstance(node, list):
        return node[int(part)] if part.isdigit() and int(part) < len(node) else None
    return node.get(part) if isinstance(node, dict) else None

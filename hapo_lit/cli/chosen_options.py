"""Settings of a preset that an option chosen on the command line does not have.

``experiment=finetune learning_rate=constant`` composes ``start``, ``end`` and ``warmup`` of the preset's schedule into
one that has none of them.  They are left out, and a line says so.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict, read_write


def leave_out_settings_of_others(config: DictConfig, overrides: Sequence[str]) -> None:
    """Change ``config`` in place.  What the command line sets itself stays, to be refused if there is no such setting.

    Args:
        config: of a job.
        overrides: of its command line.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    named = {override.key_or_group for override in parsed}
    for group in sorted(key for key in named if "." not in key):
        node = config.get(group)
        if not isinstance(node, DictConfig) or f"{group}._target_" in named or "_target_" not in node:
            continue
        parameters, settings = _parameters(str(node["_target_"])), [str(name) for name in node]
        if parameters is None:
            continue
        known = {name for name in settings if name in parameters or f"{group}.{name}" in named or name.startswith("_")}
        if unknown := [name for name in settings if name not in known]:
            OmegaConf.resolve(node)  # what is kept may be taken from what is left out
            with read_write(node), open_dict(node):
                for name in unknown:
                    node.pop(name)
            kept = ", ".join(f"{name}={node[name]}" for name in settings if name in known and not name.startswith("_"))
            print(
                f"hapo: the {group} that was chosen has no {', '.join(unknown)}, which the preset sets: left out"
                + (f" ({kept})" if kept else ""),
                file=sys.stderr,
            )


def _parameters(target: str) -> set[str] | None:
    """The parameters of a class or function; None if it takes any, or is not there, which is said elsewhere."""
    try:
        parameters = inspect.signature(get_object(target)).parameters.values()
    except Exception:  # whatever importing somebody's module may raise: it is raised again where parts are built
        return None
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}

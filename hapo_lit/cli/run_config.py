"""``config.yaml`` of a run's folder, read back: whoever wrote it would choose what is run.

It may name classes of this package, what ``conf/`` names, and what the user trusts; nothing else is ever built from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from hapo_lit.cli.bootstrap import config_folder, unwrapped
from hapo_lit.errors import SetupError

GETTERS = ("hydra.utils.get_method", "hydra.utils.get_class", "hydra.utils.get_object")
"""Their ``path`` is a name, too."""
CHOICES = {
    "hapo_lit.losses": "token_ratio sequence_ratio sequence_product k1 k2 k3 k3_reweighted",
    "hapo_lit.advantages": "whole_group on_policy",
}
"""Functions that options of ``conf/`` have in their place."""
LIBRARIES = (
    *("lightning.pytorch.loggers.TensorBoardLogger", "lightning.pytorch.loggers.CSVLogger"),
    *("torch.optim.Adam", "torch.optim.SGD"),
)
"""What ``conf/`` has named in earlier versions, or users put in the place of what it names."""


def read_run_config(run: Path, trust: Sequence[str] = ()) -> dict[str, Any]:
    """The settings of a run, resolved.

    Args:
        run: its folder.
        trust: classes, functions or modules of the user's own that it may name.

    Raises:
        SetupError: it cannot be read, or names something else.
    """
    file = run / "config.yaml"
    try:
        config = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise SetupError(f"{file} cannot be read: {unwrapped(str(error))[:200]}") from error
    if not isinstance(config, dict):
        raise SetupError(f"{file} is no configuration of a run")
    shipped = names_in_conf()
    for name in named_in(config):
        if name not in shipped and not _trusted(name, trust) and not _is_class_of_ours(name):
            raise SetupError(
                f"{file} names {name}, which is no part of hapo_lit and could run anything: if it is yours, trust it "
                f"(--trust {name.rpartition('.')[0] or name})"
            )
    return config  # type: ignore[return-value]


def names_in_conf() -> set[str]:
    """The classes and functions that ``conf/`` names."""
    text = "\n".join(path.read_text() for path in Path(config_folder()).rglob("*.yaml"))
    named = re.findall(r"_target_: *([\w.]+)", text) + re.findall(r"get_method, path: *([\w.]+)", text)
    return {*named, *LIBRARIES, *(f"{module}.{name}" for module, names in CHOICES.items() for name in names.split())}


def named_in(node: Any) -> Iterator[str]:
    """Every class or function that Hydra would look for in these settings."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        if node.get("_target_") in GETTERS:
            yield str(node["path"]) if set(node) == {"_target_", "path"} else "something by other means than a path"
        for value in node.values():
            yield from named_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from named_in(value)


def _trusted(name: str, trust: Sequence[str]) -> bool:
    return any(name == own or name.startswith(f"{own}.") for own in trust)


def _is_class_of_ours(name: str) -> bool:
    """No function, as some remove files; and none that a module of ours has only imported."""
    if not re.fullmatch(r"hapo_lit(\.\w+)+", name):
        return False
    try:
        found = get_object(name)
    except Exception:  # there is none, or a package that it needs is missing
        return False
    return isinstance(found, type) and found.__module__.startswith("hapo_lit.")

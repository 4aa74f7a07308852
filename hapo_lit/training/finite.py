"""Whether weights and the optimiser's moments are finite: nothing else is saved, resumed or exported."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from hapo_lit.errors import NotFiniteError
from hapo_lit.policy.sharding import local
from hapo_lit.training.interfaces import RunModule


def not_finite(value: Any, name: str = "") -> list[str]:
    """The names of the tensors in a nested state that hold NaN or an infinity.

    Of a sharded one this rank's part counts.  Each is read once, without a copy.
    """
    named = {local(tensor).data_ptr(): (key, local(tensor)) for key, tensor in _tensors(value, name)}
    return [key for key, tensor in named.values() if tensor.numel() and not _is_finite(tensor)]


@torch.no_grad()
def _is_finite(tensor: Tensor) -> bool:
    least, most = torch.aminmax(tensor)  # of NaN both are NaN; three times as fast as `isfinite`
    return bool(torch.isfinite(least) & torch.isfinite(most))


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tensors(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _tensors(inner, f"{name}.{index}")


def some_of(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    return names[0] + (f" and {len(names) - 1:,} more" if len(names) > 1 else "")


def require_finite(module: RunModule, trained: bool = True) -> None:
    """Stop the run where weights or moments are not finite.  Collective: every rank must call it.

    Args:
        module: of the run.
        trained: False = it may have no optimiser yet.

    Raises:
        NotFiniteError: on all ranks; it names the cause as far as it can be seen.
    """
    names = not_finite(module.state_dict())
    if trained and not names:
        names = not_finite(module.optimizer_state()["state"], "the optimiser's state")
    if not module.ranks.max(len(names)):
        return
    where = some_of(names) if names else "those of another process"
    groups = module.optimizer_state()["param_groups"] if trained else []
    raise NotFiniteError(
        f"after step {module.step} weights are not finite ({where}), and they are neither saved nor exported: "
        f"{_cause(groups, module.max_grad_norm)}; an earlier checkpoint, if there is one, is resumed with resume=auto "
        f"allow_changes=true and other values"
    )


def _cause(groups: list[dict[str, Any]], max_grad_norm: float) -> str:
    """What the last update had that is no number, by its key; advice where all are."""
    settings = {f"optim.{name}": value for group in groups for name, value in group.items()}
    rate = settings.pop("optim.lr", None)
    settings |= {"learning_rate": rate, "module.max_grad_norm": 0.0 if max_grad_norm == math.inf else max_grad_norm}
    wrong = [f"{name}={value}" for name, value in settings.items() if not _is_number(value)]
    if wrong:
        return f"the last update had {', '.join(wrong)}"
    return "lower learning_rate" + (f" (now {rate:g})" if rate else "") + ", and look at optim and losses of your own"


def _is_number(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)

"""The run state: all that a run needs to resume, bit for bit.

It is taken between two steps, where no rollout is under way: every draw is a function of (seed, prompt, sample, step),
so a batch that was cut short is sampled again as it was.  ``hapo train`` and ``hapo fabric`` write the same
state, and a run of one can resume with the other.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
import torch.distributed as dist

from hapo_lit.errors import ResumeError
from hapo_lit.policy.sharding import full_state_dict
from hapo_lit.training.interfaces import ResumableData, ResumableModule
from hapo_lit.training.ranks import of_all_ranks

FORMAT = 2
"""Raised whenever run states of older versions cannot be read any more."""


class RunState(TypedDict):
    """What a checkpoint holds; in a sharded one tensors of ``module`` and ``optimizer`` are in the shards."""

    format: int
    """:data:`FORMAT` of the version that wrote it."""
    world: int
    """How many processes the run had."""
    run: dict[str, Any]
    """The module's memory besides its weights: step, skipped updates, and the phases with their gates."""
    data: dict[str, Any]
    """The position in the data, and what must stay the same for it to mean the same."""
    settings: dict[str, Any]
    """The settings of the run, for comparison with those of the run that resumes."""
    generators: list[dict[str, Any]]
    """The global random generators of every rank, for parts that draw from them; hapo_lit's own do not."""
    module: NotRequired[dict[str, Any]]
    """The weights of policy and reference."""
    optimizer: NotRequired[dict[str, Any]]
    """The state of torch's optimiser; in a sharded checkpoint with the names of its tensors in their places."""
    best: NotRequired[tuple[float, int]]
    """The best held-out accuracy so far, and its step."""


def capture(
    module: ResumableModule, data: ResumableData, settings: Mapping[str, Any], weights: bool = True
) -> RunState:
    """The state of a run, complete on rank 0.  Collective: every rank must call it.

    Args:
        module, data: of the run.
        settings: key -> value, for comparison when the run resumes.
        weights: False = without policy and optimiser, which a sharded checkpoint keeps apart.
    """
    is_rank_0 = not dist.is_initialized() or dist.get_rank() == 0
    state: RunState = {
        "format": FORMAT,
        "world": dist.get_world_size() if dist.is_initialized() else 1,
        "run": module.run_state(),
        "data": data.state_dict(),
        "settings": dict(settings),
        "generators": _generators(),
    }
    if weights:
        state["module"] = full_state_dict(module.state_dict(), keep=is_rank_0)
        state["optimizer"] = full_state_dict(module.optimizer_state(), keep=is_rank_0)
    return state


def restore(
    state: RunState, module: ResumableModule, data: ResumableData, settings: Mapping[str, Any] | None = None
) -> None:
    """Put a run back where it was, before its module is wrapped or its optimiser made.

    Args:
        state, module, data: as in :func:`capture`.
        settings: of this run, which must be those of the state; None = they may differ.

    Raises:
        ResumeError: the state belongs to another run; the message says what differs.
    """
    data.load_state_dict(state["data"])
    module.load_run_state(state["run"])
    if settings is not None:
        steps = module.phases.steps
        module.phases.check_length(state["run"]["phases"]["bounds"][-1], module.step)
        if different := changed({**state["settings"], "steps": steps}, {**settings, "steps": steps}):
            raise ResumeError(
                f"settings differ from those of the checkpoint ({'; '.join(different)}): resume with the same ones, "
                f"start a new run, or set allow_changes=true"
            )
    if "module" in state:
        check_weights(module, {name: value.shape for name, value in state["module"].items()})
        module.load_state_dict(state["module"])
        module.resume_optimizer(state["optimizer"])
    if data.rank < len(state["generators"]):
        _set_generators(state["generators"][data.rank])


def check_weights(module: ResumableModule, shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise ``ResumeError`` unless a module's weights have these names and shapes."""
    own = {name: value.shape for name, value in module.state_dict().items()}
    for name in sorted(set(own) ^ set(shapes)):
        where = "the checkpoint" if name in shapes else "this run's model"
        raise ResumeError(
            f"the checkpoint holds another model: only {where} has {name!r}; resume with the same model.*"
        )
    for name, shape in shapes.items():
        if own[name] != shape:
            raise ResumeError(
                f"the checkpoint holds another model: {name} is {tuple(shape)} there and {tuple(own[name])} here; "
                f"resume with the same model.*"
            )


def changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``key: then -> now`` for every setting that differs."""
    missing = "(absent)"
    return [
        f"{key}: {then.get(key, missing)} -> {now.get(key, missing)}"
        for key in sorted(set(then) | set(now))
        if then.get(key, missing) != now.get(key, missing)
    ]


def _generators() -> list[dict[str, Any]]:
    own = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}  # noqa: NPY002
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    return of_all_ranks(own)


def _set_generators(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])

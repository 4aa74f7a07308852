"""The rollout engines of a run, and what they are to leave of the device's memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from torch.distributed.tensor import DTensor

from hapo_lit.protocols import ReservesMemory, RolloutEngine
from hapo_lit.training.evaluation import Evaluator
from hapo_lit.training.module import HapoModule
from hapo_lit.training.optimizer import bytes_to_come, trained_parameters
from hapo_lit.training.phases import Phase


def engines_in(phases: Iterable[Phase], evaluators: Mapping[str, Evaluator]) -> list[RolloutEngine]:
    """The engines of phases and of evaluations."""
    engines = [phase.algorithm.engine for phase in phases]
    evaluating = [evaluator.engine for evaluator in evaluators.values()]
    return [engine for engine in (*engines, *evaluating) if engine is not None]


def engines_of(module: HapoModule) -> list[RolloutEngine]:
    """The engines of a run's phases and evaluations."""
    return engines_in(module.phases, module.evaluation.evaluators)


def reserve_memory(module: HapoModule) -> None:
    """Let engines that take what is free leave what the run will keep from its first step on."""
    for engine in engines_of(module):
        if isinstance(engine, ReservesMemory):
            engine.reserve_memory(partial(_memory_to_come, module))


def _memory_to_come(module: HapoModule) -> int:
    """The optimiser's moments, and the largest weight, which an engine gets gathered where the policy is in shards."""
    optimizer = module.optimizer
    if optimizer is None and module._trainer is not None and module._trainer.optimizers:
        optimizer = module._trainer.optimizers[0]
    gathered = max((weight.nbytes for weight in module.policy.parameters() if isinstance(weight, DTensor)), default=0)
    return bytes_to_come(optimizer, trained_parameters(module.policy)) + gathered

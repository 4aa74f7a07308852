"""What each process of a run holds, under the strategies it may have: dry runs and arithmetic put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from hapo_lit.device_memory import PLENTY, DeviceMemory, RolloutBatch, SamplingMemory
from hapo_lit.planning.memory_dry_run import DryRun, UpdateMemory, dry_sampling, dry_updates
from hapo_lit.planning.memory_plan import SAMPLING, MemoryPlan, ModelWeights, Sharding, TransientMemory, memory_plan
from hapo_lit.planning.phase_plan import PhasePlan
from hapo_lit.training.engines import engines_of
from hapo_lit.training.module import HapoModule

ONE_PROCESS = "one process"
"""The strategy of a run that has one."""


class StrategyMemory(NamedTuple):
    """What a process holds under one strategy."""

    plan: MemoryPlan
    update: UpdateMemory
    batch: RolloutBatch | None
    """What a process samples in a step; None = nothing."""
    sampling: SamplingMemory
    """What the engine takes of the device."""


class RunMemory(NamedTuple):
    """What the processes of a run hold."""

    weights: ModelWeights
    optimizer_state: list[Tensor]
    """What the optimiser keeps, of all processes."""
    strategies: dict[str, StrategyMemory]
    """Strategy -> what each process holds."""


def run_memory(
    module: HapoModule,
    phases: Sequence[PhasePlan],
    mixed: bool,
    strategies: Mapping[str, Sharding | None],
    total: int | None = None,
    on_cpu: bool = False,
) -> RunMemory:
    """Count what the processes of a run hold.

    Args:
        module: of the run, on the meta device; it is changed in place.
        phases: the plans of its phases, in order.
        mixed: True = ``bf16-mixed``: autocast, or layers in bfloat16 where they are sharded.
        strategies: their names; those that shard weights come last.
        total: bytes of a GPU, within which engines keep as far as they can; None = as if there were enough.
        on_cpu: True = the run has no GPU, and engines keep within nothing.
    """
    weights = ModelWeights.of(module)
    dry = DryRun(module, mixed, "cpu" if on_cpu else "cuda")
    optimizer_state, step = dry.optimizer()
    itself = any(engine.is_trainer for engine in engines_of(module))
    found = {}
    update = None
    for name, sharding in strategies.items():
        if sharding is not None and dry.mixed:
            dry.compute_in_bfloat16()
            update = None
        update = update or dry_updates(dry, phases)
        transient = TransientMemory(update.backward.peak, step)
        plan = memory_plan(weights, optimizer_state, transient, phases[0].processes, sharding, itself)
        gpu = PLENTY if total is None else DeviceMemory(total, total - plan.at(SAMPLING))
        batch, sampling = dry_sampling(dry, phases, None if on_cpu else gpu) or (None, SamplingMemory({}, 0))
        found[name] = StrategyMemory(plan.with_sampling(sampling), update, batch, sampling)
    return RunMemory(weights, optimizer_state, found)

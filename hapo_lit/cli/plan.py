"""``hapo plan``: what a run would do and hold in memory, from its configuration alone; no weights, data or devices."""

from __future__ import annotations

import sys
from typing import NamedTuple

import torch
from hydra import compose
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console

from hapo_lit.cli.checks import check_lengths, check_settings_agree, checkpointer_in, require_records
from hapo_lit.cli.plan_report import (
    GIB,
    NOT_COUNTED,
    host_and_disk,
    notes,
    show_memory,
    show_model,
    show_phase,
    size,
    waiting,
)
from hapo_lit.cli.setup import build, setting_up
from hapo_lit.planning.memory_plan import Sharding
from hapo_lit.planning.phase_plan import PhasePlan, phase_plans
from hapo_lit.planning.remedies import remedies
from hapo_lit.planning.run_memory import ONE_PROCESS, RunMemory, StrategyMemory, run_memory
from hapo_lit.policy.adapters import has_adapter
from hapo_lit.policy.attention import ATTENTIONS, MASKED, check_trains
from hapo_lit.policy.compiling import check_backend
from hapo_lit.policy.loading import load_policy, meta_model
from hapo_lit.training.callbacks.checkpointer import Checkpointer
from hapo_lit.training.device import chosen_accelerator
from hapo_lit.training.fabric_setup import check_layout, check_settings
from hapo_lit.training.module import HapoModule
from hapo_lit.training.rates import rate_warning, training_line
from hapo_lit.training.trial import try_out
from hapo_lit.training.update_notices import update_notices


class Plan(NamedTuple):
    """A run, counted."""

    module: HapoModule
    phases: list[PhasePlan]
    processes: int
    strategy: str
    """That of the run."""
    checkpointer: Checkpointer | None
    memory: RunMemory

    @property
    def chosen(self) -> StrategyMemory:
        """What a process of the run holds."""
        return self.memory.strategies[self.strategy]


def main(config: DictConfig) -> None:
    """Compose, check, count, print."""
    with setting_up():
        plan = plan_of(config)
    console = Console(highlight=False)
    console.width = max(console.width, 110)
    module, memory = plan.module, plan.memory
    show_model(console, config, module, memory.weights)
    for (phase, _), steps in zip(module.phases.with_steps(), plan.phases, strict=True):
        show_phase(console, config, phase.algorithm.gate, steps, plan.checkpointer)
    show_memory(console, memory, plan.strategy, plan.processes)
    notices = update_notices(module, config.prompts_per_step)
    named = str(config.fabric.accelerator)
    device = f"{chosen_accelerator(named)} (accelerator=auto here)" if named == "auto" else named
    console.print(training_line(module, device, plan.processes), soft_wrap=True)
    lines = [*notices, *waiting(config, plan.chosen), *notes(module, plan.chosen.update)]
    lines += [*host_and_disk(config, memory, plan.processes, plan.checkpointer), NOT_COUNTED]
    if config.memory_gib is not None and plan.chosen.plan.peak <= config.memory_gib * GIB:
        held, there_is = size(plan.chosen.plan.peak), size(config.memory_gib * GIB)
        lines.append(f"fits: at most {held} of {there_is}, with {settings(config, plan)}")
    for line in lines:
        console.print(line, soft_wrap=True)
    warn(config.memory_gib, plan)
    if warning := rate_warning(module):
        print(warning, file=sys.stderr)


def plan_of(config: DictConfig) -> Plan:
    """Build what a configuration names, without contents, check it, and count."""
    check_settings_agree(config)
    processes, fabric = processes_of(config), config.fabric
    check_settings(fabric.strategy, fabric.precision, fabric.sharded_checkpoints, fabric.async_checkpoints)
    check_layout(fabric.strategy, processes, fabric.replicas, fabric.reshard_after_forward)
    without_contents(config)
    module, data, loggers, callbacks = build(config, "module", "data", "logger", "callbacks")
    require_records(config, processes, loggers, callbacks)
    check_lengths(module, config)
    try_out(module)
    lengths = (config.max_prompt_tokens, config.max_response_tokens)
    phases = phase_plans(module, data.prompts_per_step, processes, *lengths)
    total = None if config.memory_gib is None else int(config.memory_gib * GIB)
    mixed, on_cpu = fabric.precision == "bf16-mixed", fabric.accelerator == "cpu"
    sharding = Sharding(processes // fabric.replicas, mixed, fabric.reshard_after_forward)
    strategies: dict[str, Sharding | None] = {"ddp": None, "fsdp": sharding} if processes > 1 else {ONE_PROCESS: None}
    if processes == 1 and fabric.strategy == "fsdp":
        strategies = {"fsdp": sharding}
    memory = run_memory(module, phases, mixed, strategies, total, on_cpu)
    strategy = "fsdp" if fabric.strategy == "fsdp" else next(iter(strategies))
    return Plan(module, phases, processes, strategy, checkpointer_in(callbacks), memory)


def processes_of(config: DictConfig) -> int:
    """How many processes the run has.

    Raises:
        ValueError: that depends on the machine where it will run.
    """
    devices, nodes = config.fabric.devices, config.fabric.num_nodes
    count = config.processes
    if count is None:
        per_node = len(devices) if isinstance(devices, ListConfig) else devices
        if per_node == "auto":
            per_node = max(1, torch.cuda.device_count())  # as many as there are here
        if type(per_node) is not int or per_node < 1:
            raise ValueError(f"fabric.devices={devices} depends on the machine: set processes, such as processes=8")
        count = per_node * nodes
    if type(count) is not int or count < 1:
        raise ValueError(f"processes must be a whole number of at least 1, or null, got {count!r}")
    if config.memory_gib is not None and not (type(config.memory_gib) in (int, float) and config.memory_gib > 0):
        raise ValueError(f"memory_gib must be a number above 0, or null, got {config.memory_gib!r}")
    return count


def without_contents(config: DictConfig) -> None:
    """Change a configuration so that its policy is made on the meta device, with shapes alone, and no tokenizer is."""
    model = config.model
    loaded = get_object(model.policy._target_) is load_policy
    settings = {"path": model.path, **(model.policy if loaded else {}), "shape": model.get("shape")}
    if not loaded or model.path is None:  # a policy that is made and not loaded
        with torch.device("meta"):
            made = instantiate(compose("pretrain").model.policy if loaded else model.policy, _convert_="all")
        settings |= {"shape": made.config.to_dict(), "path": "a policy of our own making"}
    check_backend(settings.get("compiled", False))
    for name in ("strategy", "compiled"):  # of no use to a model without contents
        settings.pop(name, None)
    OmegaConf.set_struct(config, False)
    model.policy = {**settings, "_target_": f"{meta_model.__module__}.{meta_model.__name__}"}
    model.tokenizer = None
    attention = settings.get("attention", "sdpa")
    if attention in ATTENTIONS:  # others are refused where the model is made
        run = config.get("fabric", config)  # which `hapo train` and `hapo serve` do not have
        dtype, mixed = getattr(torch, settings.get("dtype", "float32")), run.precision == "bf16-mixed"
        check_trains(attention, dtype, run.accelerator, mixed)
    if attention not in MASKED:
        config.module.padding_free = (
            None  # the longest rows have no padding, and ``sdpa`` in its place would hold a mask
        )
    OmegaConf.set_struct(config, True)


def settings(config: DictConfig, plan: Plan) -> str:
    """The settings of a run that decide what it holds."""
    module, limit = plan.module, plan.module.micro_batch_limit
    found = [] if plan.strategy == ONE_PROCESS else [f"fabric.strategy={plan.strategy}"]
    if plan.chosen.batch is not None:
        names = str(config.rollout._target_).split(".")
        found.append(f"rollout={names[-2]}" if names[:2] == ["hapo_lit", "rollout"] else names[-1])
    found.append(f"module.micro_batch_{'size' if limit.tokens is None else 'tokens'}={limit.tokens or limit.rows}")
    found += ["model.gradient_checkpointing=true"] * module.policy.is_gradient_checkpointing
    found += ["an adapter"] * has_adapter(module.policy)
    return ", ".join(found)


def warn(memory_gib: float | None, plan: Plan) -> None:
    """Say so if a process needs more than there is, and what helps."""
    held = plan.chosen.plan
    if memory_gib is None or held.peak <= memory_gib * GIB:
        return
    policy = plan.module.policy
    longest = max(plan.phases, key=lambda phase: phase.micro_batch)
    found = remedies(plan.memory, plan.strategy, longest, policy.is_gradient_checkpointing, has_adapter(policy))
    helps = ", ".join(f"{remedy.setting} (saves about {size(remedy.saves)})" for remedy in found)
    needed = f"a process holds {size(held.peak)} {held.peak_moment}"
    print(f"warning: {needed}, and memory_gib={memory_gib:g}: take {helps}", file=sys.stderr)

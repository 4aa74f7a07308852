"""``hapo plan``: what a run would do and hold in memory, from its configuration alone; no weights, data or devices."""

from __future__ import annotations

import sys
from math import ceil

import numpy as np
import torch
from hydra import compose
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table

from hapo_lit.cli.checks import check_lengths, checkpointer_in, require_records
from hapo_lit.cli.setup import build, setting_up
from hapo_lit.planning.memory_dry_run import DryRunResult, dry_run
from hapo_lit.planning.memory_plan import (
    GRADIENT,
    SAMPLING,
    STEP,
    MemoryPlan,
    ModelWeights,
    bytes_of,
    checkpoint_bytes,
    memory_plan,
)
from hapo_lit.planning.phase_plan import PhasePlan, open_probabilities, phase_plans
from hapo_lit.policy.adapters import has_adapter
from hapo_lit.policy.attention import MASKED
from hapo_lit.policy.loading import load_policy, meta_model
from hapo_lit.protocols import Gate
from hapo_lit.training.callbacks.checkpointer import Checkpointer
from hapo_lit.training.device import chosen_accelerator
from hapo_lit.training.engines import engines_of
from hapo_lit.training.fabric_setup import check_layout, check_settings, keeps_shards
from hapo_lit.training.module import HapoModule
from hapo_lit.training.rates import rate_warning, training_line
from hapo_lit.training.update_notices import update_notices

GIB = 2**30
RATES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Success rates at which the gate's probability of opening is printed."""
REMEDIES = {
    SAMPLING: "more processes, or a smaller group_size or max_response_tokens",
    GRADIENT: (
        "model.gradient_checkpointing=true, a smaller module.micro_batch_size or micro_batch_tokens, or "
        "fabric.strategy=fsdp"
    ),
    STEP: "fabric.strategy=fsdp, more processes with it, or model.lora.rank=16",
}
"""Moment of a step -> what makes it need less."""
NOT_COUNTED = "not counted: the device's context, buffers of NCCL, what the allocator cannot use; keep a tenth free"


def main(config: DictConfig) -> None:
    """Compose, check, count, print."""
    with setting_up():
        processes = processes_of(config)
        fabric = config.fabric
        check_settings(fabric.strategy, fabric.precision, fabric.sharded_checkpoints, fabric.async_checkpoints)
        check_layout(fabric.strategy, processes, fabric.replicas, fabric.reshard_after_forward)
        without_contents(config)
    module, data, loggers, callbacks = build(config, "module", "data", "logger", "callbacks")
    require_records(config, processes, loggers, callbacks)
    check_lengths(module, config)
    with setting_up():
        lengths = (config.max_prompt_tokens, config.max_response_tokens)
        phases = phase_plans(module, data.prompts_per_step, processes, *lengths)
    checkpointer = checkpointer_in(callbacks)
    console = Console(highlight=False)
    console.width = max(console.width, 110)
    weights = ModelWeights.of(module)
    show_model(console, config, module, weights)
    for (phase, _), plan in zip(module.phases.with_steps(), phases, strict=True):
        show_phase(console, config, phase.algorithm.gate, plan, checkpointer)
    found = dry_run(module, phases, mixed=config.fabric.precision == "bf16-mixed")
    memories = {
        name: memory_plan(
            weights, found.optimizer_state, found.transient, processes, name == "fsdp", samples_itself(module)
        )
        for name in (("ddp", "fsdp") if processes > 1 else ("one process",))
    }
    chosen = "one process" if processes == 1 else "fsdp" if config.fabric.strategy == "fsdp" else "ddp"
    show_memory(console, memories, chosen, processes)
    notices = update_notices(module, data.prompts_per_step)
    named = str(config.fabric.accelerator)
    device = f"{chosen_accelerator(named)} (accelerator=auto here)" if named == "auto" else named
    console.print(training_line(module, device, processes), soft_wrap=True)
    for line in (*notices, *notes(found), *host_and_disk(config, weights, found, processes, checkpointer), NOT_COUNTED):
        console.print(line, soft_wrap=True)
    warn(config.memory_gib, memories[chosen])
    if warning := rate_warning(module):
        print(warning, file=sys.stderr)


def samples_itself(module: HapoModule) -> bool:
    """Whether the policy samples in some phase or evaluation, and not an engine with weights of its own."""
    return any(engine.is_trainer for engine in engines_of(module))


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
    for name in ("strategy", "compiled"):  # of no use to a model without contents
        settings.pop(name, None)
    OmegaConf.set_struct(config, False)
    model.policy = {**settings, "_target_": f"{meta_model.__module__}.{meta_model.__name__}"}
    model.tokenizer = None
    if settings.get("attention", "sdpa") not in MASKED:
        config.module.padding_free = (
            None  # the longest rows have no padding, and ``sdpa`` in its place would hold a mask
        )
    OmegaConf.set_struct(config, True)


# -- what is printed --------------------------------------------------------------------------------------------------


def size(count: float) -> str:
    """Bytes for people to read."""
    return f"{count / GIB:,.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:,.2f} MiB"


def show_model(console: Console, config: DictConfig, module: HapoModule, weights: ModelWeights) -> None:
    """A line about the model."""
    count = f"{weights.count:,} parameters in {module.policy.dtype}".replace("torch.", "")
    part = f", {weights.trained_count:,} of them trained" if has_adapter(module.policy) else ""
    reach = getattr(module.policy.config, "max_position_embeddings", None)
    kind = f"{module.policy.config.model_type}, {count}{part}, {config.fabric.precision}"
    console.print(f"{config.model.policy.path}: {kind}{f', {reach:,} positions' if reach else ''}", soft_wrap=True)


def show_phase(
    console: Console, config: DictConfig, gate: Gate | None, plan: PhasePlan, checkpointer: Checkpointer | None
) -> None:
    """A phase's steps as a table."""
    title = f"{plan.steps:,} steps{', supervised' if plan.supervised else ''}"
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    updates = plan.steps * plan.updates
    tokens = plan.micro_batch_limit.tokens
    most = plan.micro_batch if tokens is None else min(plan.micro_batch_limit.rows, plan.rows_per_update)
    pass_size = f"{most:,} row{'s' if most > 1 else ''}{'' if tokens is None else f' and {tokens:,} tokens'}"
    evaluations = 1 + ceil(config.steps / config.eval_every)  # before the first step, when due, and after the last
    sampled, trained = plan.sampled_tokens, plan.trained_tokens
    facts = {
        "processes": f"{plan.processes}",
        "prompts in a step": f"{plan.prompts:,}, {plan.prompts_per_process:,} of each process",
        "rollouts of a prompt": "" if plan.supervised else f"{plan.rollouts}",
        "rows of a prompt": f"{plan.rows}, of the teacher {'at most ' if plan.teachers else ''}{plan.teachers}",
        "the gate": "" if gate is None else opening(gate, plan.rollouts),
        "passes of a process for an update": f"at most {plan.micro_batches:,}, of {pass_size} at most",
        "updates on a batch": f"{plan.updates}, {updates:,} in all{splitting(plan)}",
        "tokens sampled in a step": "" if plan.supervised else f"at most {sampled:,}, {sampled * plan.steps:,} in all",
        "tokens trained on in a step": f"at most {trained:,}, {trained * plan.steps:,} in all",
        "evaluations": f"{evaluations}, each {' and '.join(config.evaluators)}",
        "checkpoints": saving(checkpointer),
    }
    for name, fact in facts.items():
        if fact:
            table.add_row(name, fact)
    console.print(table)


def splitting(plan: PhasePlan) -> str:
    """How a batch is split into mini-batches, if it is."""
    if plan.minibatches == 1:
        return ""
    passes = f"{plan.passes} pass{'es' if plan.passes > 1 else ''}"
    prompts = f"{plan.minibatch} prompt{'s' if plan.minibatch > 1 else ''}"
    most = " at most" if plan.prompts % plan.minibatches else ""
    return f"; {passes} over {plan.minibatches} mini-batches of {prompts}{most}"


def opening(gate: Gate, rollouts: int) -> str:
    """How probably the gate opens in the first step, or its class where that is not known."""
    found = open_probabilities(gate, np.array(RATES), rollouts, visit=0)
    if found is None:
        return type(gate).__name__
    rates = ", ".join(f"{100 * rate:.0f}" for rate in RATES)
    return f"opens with P = {', '.join(f'{value:.2f}' for value in found)} at {rates} % right answers"


def saving(checkpointer: Checkpointer | None) -> str:
    """When checkpoints are written, and how many stay."""
    if checkpointer is None:
        return "none"
    clock = f" and {checkpointer.minutes:g} minutes" if checkpointer.minutes is not None else ""
    keep = checkpointer.folder.keep
    stay = "all" if keep < 0 else f"the last {keep}{' and the best' if checkpointer.best else ''}"
    return f"every {checkpointer.every:,} steps{clock}; {stay} stay"


def show_memory(console: Console, memories: dict[str, MemoryPlan], chosen: str, processes: int) -> None:
    """What a process holds, by kind and strategy."""
    title = f"memory of each of {processes} processes (* = fabric.strategy)" if processes > 1 else "memory"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in memories:
        table.add_column(name + ("*" if name == chosen and processes > 1 else ""), justify="right")
    plans = list(memories.values())

    def row(name: str, counts: list[int | None]) -> None:
        table.add_row(name, *("" if count is None else size(count) for count in counts))

    for name in dict.fromkeys(name for plan in plans for name in plan.lasting):
        row(name, [plan.lasting.get(name) for plan in plans])
    for moment in plans[0].transient:
        table.add_section()
        for name in dict.fromkeys(name for plan in plans for name in plan.transient[moment]):
            counts = [plan.transient[moment].get(name) for plan in plans]
            if any(counts):
                row(f"{moment}: {name}", counts)
        row(f"{moment}, in all", [plan.at(moment) for plan in plans])
    table.add_section()
    table.add_row("at most", *(size(plan.peak) for plan in plans), style="bold")
    console.print(table)


def notes(found: DryRunResult) -> list[str]:
    """What else the dry run has found."""
    lines = [f"logits: at most {size(found.peak_logits)} at a time, for one chunk of a micro-batch's tokens"]
    if found.without_checkpointing is not None:
        now = f"{size(sum(found.transient.gradient.values()))} held in a backward pass"
        lines.append(f"model.gradient_checkpointing: without it the {now} would be {size(found.without_checkpointing)}")
    return lines


def host_and_disk(
    config: DictConfig, weights: ModelWeights, found: DryRunResult, processes: int, checkpointer: Checkpointer | None
) -> list[str]:
    """What the host and the disk hold."""
    local = processes // config.fabric.num_nodes or 1
    checkpoint = checkpoint_bytes(weights, found.optimizer_state)
    loading = "1 process loads" if local == 1 else f"{local} processes load"
    lines = [f"host: {size(weights.loading_bytes * local)} on a machine while {loading} the model"]
    if config.fabric.strategy == "fsdp":
        part = bytes_of([max(weights.policy, key=lambda weight: weight.nbytes)], processes // config.fabric.replicas)
        lines = [
            f"host: {size(part * local)} on a machine while {loading} the model, a weight at a time from safetensors"
        ]
    if keeps_shards(config.fabric.strategy, processes, config.fabric.sharded_checkpoints):
        copied = checkpoint * local * config.fabric.replicas // processes
        lines[0] += f", {size(copied)} on each for the copy from which a checkpoint is written"
    else:
        lines[0] += f", {size(checkpoint)} on the first while a checkpoint is written"
    if checkpointer is None:
        return lines
    keep = checkpointer.folder.keep
    count = f"at most {keep + bool(checkpointer.best) + 1} at once" if keep > 0 else "all stay"
    lines.append(
        f"disk: {size(checkpoint)} a checkpoint, {count}; {size(weights.export_bytes)} for the policy at the end"
    )
    return lines


def warn(memory_gib: float | None, memory: MemoryPlan) -> None:
    """Say so if a process needs more than there is."""
    if memory_gib is None or memory.peak <= memory_gib * GIB:
        return
    moment = memory.peak_moment
    needed = f"a process holds {size(memory.peak)} {moment}"
    print(f"warning: {needed}, and memory_gib={memory_gib:g}: take {REMEDIES[moment]}", file=sys.stderr)

"""What ``hapo plan`` prints."""

from __future__ import annotations

from math import ceil

import numpy as np
from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table

from hapo_lit.planning.memory_dry_run import UpdateMemory
from hapo_lit.planning.memory_plan import ModelWeights, bytes_of, checkpoint_bytes
from hapo_lit.planning.phase_plan import PhasePlan, open_probabilities
from hapo_lit.planning.run_memory import RunMemory, StrategyMemory
from hapo_lit.policy.adapters import has_adapter
from hapo_lit.protocols import Gate
from hapo_lit.training.callbacks.checkpointer import Checkpointer
from hapo_lit.training.fabric_setup import keeps_shards
from hapo_lit.training.module import HapoModule

GIB = 2**30
RATES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Success rates at which the gate's probability of opening is printed."""
NOT_COUNTED = "not counted: the device's context, buffers of NCCL, what the allocator cannot use: leave room for these"


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


def show_memory(console: Console, memory: RunMemory, chosen: str, processes: int) -> None:
    """What a process holds, by kind and strategy."""
    title = f"memory of each of {processes} processes (* = fabric.strategy)" if processes > 1 else "memory"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in memory.strategies:
        table.add_column(name + ("*" if name == chosen and processes > 1 else ""), justify="right")
    plans = [strategy.plan for strategy in memory.strategies.values()]

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


def waiting(config: DictConfig, chosen: StrategyMemory) -> list[str]:
    """How many sequences are sampled at once, where that is not all of them."""
    batch, sampling = chosen.batch, chosen.sampling
    if batch is None or sampling.at_once == batch.sequences:
        return []
    wait = f"{batch.sequences - sampling.at_once:,} wait"
    counts = f"{sampling.at_once:,} of {batch.sequences:,} sequences of {batch.tokens:,} tokens at once, {wait}"
    if "max_num_seqs" not in config.rollout:
        return [f"the engine samples {counts} (of shorter ones fewer)"]
    if config.rollout.max_num_seqs is not None:
        return [f"the engine decodes {counts}"]
    return [f"chosen: rollout.max_num_seqs={sampling.at_once}: {counts}"]


def notes(module: HapoModule, found: UpdateMemory) -> list[str]:
    """What else the dry runs have found."""
    is_on = module.policy.is_gradient_checkpointing
    return [
        f"logits: at most {size(found.backward.peak_logits)} at a time, for one tile of a micro-batch's tokens",
        f"model.gradient_checkpointing={str(not is_on).lower()} would make "
        f"{size(found.other_checkpointing)} of the {size(found.backward.peak.total())} that a backward pass "
        f"holds beside weights and gradients",
    ]


def host_and_disk(
    config: DictConfig, memory: RunMemory, processes: int, checkpointer: Checkpointer | None
) -> list[str]:
    """What the host and the disk hold."""
    weights = memory.weights
    local = processes // config.fabric.num_nodes or 1
    checkpoint = checkpoint_bytes(weights, memory.optimizer_state)
    loading = "1 process loads" if local == 1 else f"{local} processes load"
    lines = [f"host: {size(weights.loading_bytes * local)} on a machine while {loading} the model"]
    if config.fabric.strategy == "fsdp":
        part = bytes_of([max(weights.policy, key=lambda weight: weight.nbytes)], processes // config.fabric.replicas)
        lines = [
            f"host: {size(part * local)} on a machine while {loading} the model, a weight at a time from safetensors"
        ]
    if keeps_shards(config.fabric.strategy, processes, config.fabric.sharded_checkpoints):
        copied = checkpoint * local * config.fabric.replicas // processes
        lines[0] += f", {size(copied)} on each for the copy from which a checkpoint is written, "
        lines[0] += f"{size(weights.export_bytes)} on the first while the policy is exported at the end"
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

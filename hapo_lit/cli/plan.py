"""``hapo plan``: what a run would do and hold, from its configuration alone; no weights, data or devices."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from math import ceil
from typing import Any

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
from hapo_lit.planning import plan
from hapo_lit.planning.memory_dry_run import DryRun, Footprint
from hapo_lit.policy.loading import has_adapter, load_policy, meta_model
from hapo_lit.protocols import HasOpenProbability
from hapo_lit.rollout.heads import served_config
from hapo_lit.rollout.hf import HFEngine
from hapo_lit.rollout.vllm import VLLMEngine, cache_bytes
from hapo_lit.rollout.vllm_server import VLLMServerEngine
from hapo_lit.training.fabric_setup import check_settings

GIB = 2**30
RATES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Rates of success at which the gate's law is printed."""
REMEDIES = {
    plan.SAMPLING: "more processes, or a smaller group_size or max_response_tokens",
    plan.GRADIENT: "model.gradient_checkpointing=true, a smaller module.micro_batch_size, or fabric.strategy=fsdp",
    plan.STEP: "fabric.strategy=fsdp, more processes with it, or model.lora.rank=16",
}
"""Moment of a step -> what makes it need less."""
NOT_COUNTED = "not counted: the device's context, buffers of NCCL, what the allocator cannot use; keep a tenth free"


def main(config: DictConfig) -> None:
    """Compose, check, count, print."""
    with setting_up():
        processes = processes_of(config)
        check_settings(config.fabric.strategy, config.fabric.precision, config.fabric.sharded_checkpoints)
        without_contents(config)
    module, data, loggers, callbacks = build(config, "module", "data", "logger", "callbacks")
    require_records(config, processes, loggers, callbacks)
    check_lengths(module, config)
    with setting_up():
        lengths = (config.max_prompt_tokens, config.max_response_tokens)
        phases = plan.phase_plans(module, data.prompts_per_step, processes, *lengths)
    console = Console(highlight=False)
    console.width = max(console.width, 110)
    weights = plan.weights_of(module)
    show_model(console, config, module, weights)
    for (phase, _), each in zip(module.phases.with_steps(), phases, strict=True):
        show_batch(console, config, phase, each, checkpointer_in(callbacks))
    passing, notes = transient_memory(module, phases, config.fabric.precision == "bf16-mixed")
    several = {"ddp": False, "fsdp": True} if processes > 1 else {"one process": False}
    memories = {name: plan.memory(weights, passing, processes, sharded) for name, sharded in several.items()}
    chosen = "one process" if processes == 1 else "fsdp" if config.fabric.strategy == "fsdp" else "ddp"
    show_memory(console, memories, chosen, processes)
    for line in [*notes, *host_and_disk(config, weights, passing, processes, checkpointer_in(callbacks)), NOT_COUNTED]:
        console.print(line, soft_wrap=True)
    warn(config.memory_gib, memories, chosen)


def processes_of(config: DictConfig) -> int:
    """How many the run has.

    Raises:
        ValueError: the settings leave that to the machine.
    """
    devices, nodes = config.fabric.devices, config.fabric.num_nodes
    count = config.processes
    if count is None:
        each = len(devices) if isinstance(devices, ListConfig) else devices
        if type(each) is not int or each < 1:
            raise ValueError(f"fabric.devices={devices} depends on the machine: set processes, such as processes=8")
        count = each * nodes
    if type(count) is not int or count < 1:
        raise ValueError(f"processes must be a whole number of at least 1, or null, got {count!r}")
    if config.memory_gib is not None and not (type(config.memory_gib) in (int, float) and config.memory_gib > 0):
        raise ValueError(f"memory_gib must be a number above 0, or null, got {config.memory_gib!r}")
    return count


def without_contents(config: DictConfig) -> None:
    """Change the configuration so that its policy is on the meta device; nothing here needs the tokenizer."""
    model = config.model
    loaded = get_object(model.policy._target_) is load_policy
    settings = {"path": model.path, **(model.policy if loaded else {}), "shape": model.get("shape")}
    if not loaded or model.path is None:  # a policy that is made and not loaded
        with torch.device("meta"):
            made = instantiate(compose("pretrain").model.policy if loaded else model.policy, _convert_="all")
        settings |= {"shape": made.config.to_dict(), "path": "a policy of our own making"}
    OmegaConf.set_struct(config, False)
    model.policy = {**settings, "_target_": f"{meta_model.__module__}.{meta_model.__name__}"}
    model.tokenizer = None
    OmegaConf.set_struct(config, True)


def transient_memory(module: Any, phases: list[plan.PhasePlan], mixed: bool) -> tuple[plan.TransientMemory, list[str]]:
    """What is held for a moment, in the phase where it is most, and what else there is to say."""
    dry = DryRun(module, mixed)
    starts = [steps.start for _, steps in module.phases.with_steps()]

    def gradients() -> Iterator[Footprint]:
        for module.step, each in zip(starts, phases, strict=True):
            yield dry.gradient(each.micro_batch, each.prompt, each.response)

    worst = max(gradients(), key=lambda each: each.peak.total())
    notes = [f"logits: at most {size(worst.most_logits)} at a time, for one chunk of a micro-batch's tokens"]
    engines = [getattr(phase.algorithm, "engine", None) for phase, _ in module.phases.with_steps()]
    sampling = [sampled(dry, *pair) for pair in zip(engines, phases, strict=True) if not pair[1].supervised]
    if module.policy.is_gradient_checkpointing:
        module.policy.gradient_checkpointing_disable()
        kept = max(each.peak.total() for each in gradients())
        now = f"{size(worst.peak.total())} held in a backward pass would be {size(kept)}"
        notes.append(f"model.gradient_checkpointing: without it the {now}")
    moments, step = dry.optimizer()
    most = max(sampling, key=lambda each: sum(each.values()), default={})
    return plan.TransientMemory(most, dict(worst.peak), step, moments), notes


def sampled(dry: DryRun, engine: Any, phase: plan.PhasePlan) -> dict[str, int]:
    """What the engine holds when all responses are at their full length."""
    config = dry.module.policy.config
    batch = plan.rollout_batch(phase.prompts, phase.processes, phase.rollouts, phase.prompt, phase.response)
    if isinstance(engine, HFEngine):
        cache, found = dry.decoding(engine, batch.sequences, phase.prompt, phase.response)
        return {"keys and values": cache, **found.peak}
    if isinstance(engine, VLLMServerEngine):
        return {}  # others hold it
    dtype = torch.bfloat16 if dry.mixed else dry.module.policy.dtype
    cache = batch.sequences * batch.tokens * plan.kv_bytes_per_token(config, dtype)
    if isinstance(engine, VLLMEngine):
        dtype = getattr(torch, engine.dtype) if engine.dtype else dry.module.policy.dtype
        cache = cache_bytes(served_config(config), str(dtype).removeprefix("torch."), batch)
    return {"keys and values": cache, "the engine's weights": dry.module.policy.num_parameters() * dtype.itemsize}


# -- what is printed --------------------------------------------------------------------------------------------------


def size(count: float) -> str:
    """Bytes for people to read."""
    return f"{count / GIB:,.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:,.2f} MiB"


def show_model(console: Console, config: DictConfig, module: Any, weights: plan.Weights) -> None:
    trained = sum(each.numel() for each in weights.trained)
    count = f"{weights.count:,} parameters in {module.policy.dtype}".replace("torch.", "")
    part = f", {trained:,} of them trained" if has_adapter(module.policy) else ""
    reach = getattr(module.policy.config, "max_position_embeddings", None)
    kind = f"{module.policy.config.model_type}, {count}{part}, {config.fabric.precision}"
    console.print(f"{config.model.policy.path}: {kind}{f', {reach:,} positions' if reach else ''}", soft_wrap=True)


def show_batch(console: Console, config: DictConfig, phase: Any, each: plan.PhasePlan, keeper: Any) -> None:
    """A phase's steps as a table."""
    title = f"{each.steps:,} steps{', supervised' if each.supervised else ''}"
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    updates = each.steps * each.updates
    rows = f"{each.micro_batch:,} row{'s' if each.micro_batch > 1 else ''}"
    facts = {
        "processes": f"{each.processes}",
        "prompts in a step": f"{each.prompts:,}, {each.prompts_each:,} of each process",
        "rollouts of a prompt": f"{each.rollouts}",
        "rows of a prompt": f"{each.rows}, of the teacher {'at most ' if each.teachers else ''}{each.teachers}",
        "the gate": law(phase.algorithm, each),
        "passes of a process for an update": f"at most {each.micro_batches:,}, of {rows} at most",
        "updates on a batch": f"{each.updates}, {updates:,} in all",
        "tokens sampled in a step": f"at most {each.sampled:,}, {each.sampled * each.steps:,} in all",
        "tokens trained on in a step": f"at most {each.trained:,}, {each.trained * each.steps:,} in all",
        "evaluations": f"{evaluations(config)}, each {' and '.join(config.evaluators)}",
        "states": states(keeper),
    }
    for name, fact in facts.items():
        if fact and not (each.supervised and name in ("rollouts of a prompt", "tokens sampled in a step")):
            table.add_row(name, fact)
    console.print(table)


def law(algorithm: Any, each: plan.PhasePlan) -> str:
    """When the gate opens, by its law, in the first step."""
    gate = getattr(algorithm, "gate", None)
    found = gate.open_probability(np.array(RATES), each.rollouts, 0) if isinstance(gate, HasOpenProbability) else None
    if found is None:
        return "" if gate is None else type(gate).__name__
    rates = ", ".join(f"{100 * rate:.0f}" for rate in RATES)
    return f"opens with P = {', '.join(f'{value:.2f}' for value in found)} at {rates} % right answers"


def evaluations(config: DictConfig) -> int:
    """Before the first step, when they are due, and after the last."""
    due: int = ceil(config.steps / config.eval_every)
    return 1 + due


def states(keeper: Any) -> str:
    """When, and how many stay."""
    if keeper is None:
        return "none"
    clock = f" and {keeper.minutes:g} minutes" if keeper.minutes is not None else ""
    keep = keeper.folder.keep
    stay = "all" if keep < 0 else f"the last {keep}{' and the best' if keeper.best else ''}"
    return f"every {keeper.every:,} steps{clock}; {stay} stay"


def show_memory(console: Console, memories: dict[str, plan.Memory], chosen: str, processes: int) -> None:
    """Components by strategy."""
    title = f"memory of each of {processes} processes (* = fabric.strategy)" if processes > 1 else "memory"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in memories:
        table.add_column(name + ("*" if name == chosen and processes > 1 else ""), justify="right")
    every = list(memories.values())

    def row(name: str, counts: list[int | None]) -> None:
        table.add_row(name, *("" if count is None else size(count) for count in counts))

    for name in dict.fromkeys(name for each in every for name in each.lasting):
        row(name, [each.lasting.get(name) for each in every])
    for moment in every[0].moments:
        table.add_section()
        for name in dict.fromkeys(name for each in every for name in each.moments[moment]):
            counts = [each.moments[moment].get(name) for each in every]
            if any(counts):
                row(f"{moment}: {name}", counts)
        row(f"{moment}, in all", [each.at(moment) for each in every])
    table.add_section()
    table.add_row("at most", *(size(each.peak) for each in every), style="bold")
    console.print(table)


def host_and_disk(
    config: DictConfig, weights: plan.Weights, passing: plan.TransientMemory, processes: int, keeper: Any
) -> list[str]:
    """What the host and the disk hold."""
    loaded = plan.size_of(weights.policy) + plan.size_of(weights.reference)
    each = processes // config.fabric.num_nodes or 1
    state = plan.state_bytes(weights, passing.kept)
    lines = [f"host: {size(loaded * each)} on a machine while {each} processes load the model"]
    if not config.fabric.sharded_checkpoints:
        lines[0] += f", {size(state)} on the first while a state is written"
    if keeper is None:
        return lines
    keep = keeper.folder.keep
    count = f"at most {keep + bool(keeper.best) + 1} at once" if keep > 0 else "all stay"
    return [*lines, f"disk: {size(state)} a state, {count}; {size(weights.exported)} for the policy at the end"]


def warn(memory_gib: float | None, memories: dict[str, plan.Memory], chosen: str) -> None:
    """Say so if a process needs more than there is."""
    found = memories[chosen]
    if memory_gib is None or found.peak <= memory_gib * GIB:
        return
    print(
        f"warning: a process holds {size(found.peak)} {found.worst}, and memory_gib={memory_gib:g}: take "
        f"{REMEDIES[found.worst]}",
        file=sys.stderr,
    )

"""What makes a process need less memory at the moment when it needs most, and about how much less."""

from __future__ import annotations

from typing import NamedTuple

from hapo_lit.planning.memory_plan import GRADIENT, SAMPLING
from hapo_lit.planning.phase_plan import PhasePlan
from hapo_lit.planning.run_memory import RunMemory
from hapo_lit.policy.memory_tracker import ACTIVATIONS

FEW = 4
"""How many remedies are named, at most."""
ADAPTER = 0.98
"""Share of gradients and moments that an adapter saves, about."""
SHARDED = ("weights", "optimiser", "reference", "gradients", "temporaries")
"""What FSDP2 cuts into as many parts as there are processes."""


class Remedy(NamedTuple):
    """A setting that makes a process need less."""

    setting: str
    saves: int
    """Bytes, about."""


def remedies(memory: RunMemory, strategy: str, phase: PhasePlan, checkpointing: bool, adapter: bool) -> list[Remedy]:
    """The remedies for the peak moment, that which saves most first.

    Args:
        memory: of the run.
        strategy: that of the run.
        phase: the phase with the longest micro-batch.
        checkpointing: whether gradient checkpointing is on.
        adapter: whether an adapter is trained and not all weights.
    """
    chosen = memory.strategies[strategy]
    plan, sampling = chosen.plan, chosen.sampling
    moment = plan.peak_moment
    held = plan.held_at(moment)
    cut = sum(held[name] for name in SHARDED)
    found = [Remedy("half of max_response_tokens", (held[ACTIVATIONS] + held["keys and values"]) // 2)]
    if strategy == "fsdp":
        found.append(Remedy("twice as many processes", cut // 2))
    elif "fsdp" in memory.strategies:
        found.append(Remedy("fabric.strategy=fsdp", plan.peak - memory.strategies["fsdp"].plan.at(moment)))
    else:
        found.append(Remedy("fabric.strategy=fsdp with two processes", cut // 2))
    if not adapter:
        trained = ("optimiser", "gradients", "temporaries", "buckets of ddp")
        found.append(Remedy("model.lora.rank=16", int(ADAPTER * sum(held[name] for name in trained))))
    if sampling.held and (moment == SAMPLING or sampling.stays):
        found.append(Remedy("rollout=vllm_server on other devices", sampling.total))
        if moment == SAMPLING and sampling.at_once > 1 and not sampling.stays:
            found.append(Remedy("rollout.max_num_seqs=1", sampling.total * (sampling.at_once - 1) // sampling.at_once))
    if sampling.stays and moment != SAMPLING:
        found.append(Remedy("rollout.sleep=true", sampling.total))
    if moment == GRADIENT:
        now = chosen.update.backward.peak.total()
        if not checkpointing:
            found.append(Remedy("model.gradient_checkpointing=true", now - chosen.update.other_checkpointing))
        if (rows := phase.micro_batch) > 1:
            found.append(Remedy("module.micro_batch_size=1", held[ACTIVATIONS] * (rows - 1) // rows))
    found = [remedy for remedy in found if remedy.saves > 0.01 * plan.peak]
    return sorted(found, key=lambda remedy: remedy.saves, reverse=True)[:FEW]

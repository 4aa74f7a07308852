"""What a run says of its learning rate at its start, and when it warns of it."""

from __future__ import annotations

from hapo_lit.policy.adapters import has_adapter
from hapo_lit.training.module import HapoModule
from hapo_lit.training.phases import Phases

USUAL = [(100_000_000, 5e-5, 2e-3), (10_000_000, 1e-3, 1e-2)]
"""``(parameters, all weights, adapter)``: models with as many parameters are seldom trained at a higher rate.  Reports
on post-training with rewards take 1e-6 to 5e-6 for all weights of 0.5 to 70 billion (GRPO, DAPO, LUFFY; TRL's default
is 1e-6) and up to 2e-4 for an adapter; these bounds are ten times as wide."""


def learning_rates(phases: Phases) -> str:
    """The learning rate of each phase, for people: its first value, its highest if that is another, and its last."""
    return ", then ".join(_course(phases, steps) for _, steps in phases.with_steps())


def training_line(module: HapoModule, device: str, processes: int) -> str:
    """What is trained, where, and at which rate."""
    trained, every = module.policy.num_parameters(only_trainable=True), module.policy.num_parameters()
    part = f"{trained:,} of {every:,}" if trained < every else f"{trained:,}"
    count = f"{processes} process{'es' if processes > 1 else ''}"
    return f"training: {part} parameters on {device}, {count}; learning rate {learning_rates(module.phases)}"


def rate_warning(module: HapoModule) -> str | None:
    """A warning if the learning rate is out of proportion to the model, which it would ruin in a few steps."""
    highest = max(_highest(module.phases, steps) for _, steps in module.phases.with_steps())
    count = module.policy.num_parameters()
    adapter = has_adapter(module.policy)
    for parameters, full, low_rank in USUAL:
        usual = low_rank if adapter else full
        if count >= parameters:
            if highest <= usual:
                return None
            what = "an adapter of" if adapter else "all weights of"
            return (
                f"warning: a learning rate of {highest:g} is far above what {what} a model of {count:,} parameters are "
                f"usually trained with: see experiment=finetune, or set learning_rate.start and learning_rate.end"
            )
    return None


def _course(phases: Phases, steps: range) -> str:
    first, last, highest = phases.learning_rate(steps[0]), phases.learning_rate(steps[-1]), _highest(phases, steps)
    values = [first, *([highest] if highest > max(first, last) else []), last]
    return f"{first:g}" if len(set(values)) == 1 else " to ".join(f"{value:.3g}" for value in values)


def _highest(phases: Phases, steps: range) -> float:
    return max(phases.learning_rate(step) for step in (*steps[:: max(1, len(steps) // 1000)], steps[-1]))

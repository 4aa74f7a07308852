"""All claims, in the order of the table."""

from __future__ import annotations

from functools import partial

from benchmarks import grpo_step
from benchmarks.measuring import Case, Claim, alone, ratio


def step_case(name: str, goal: float, *more: Claim) -> Case:
    """A step of GRPO beside TRL's."""
    what = f"a step of GRPO: {grpo_step.SETTINGS[name]}"
    return Case(
        name=f"S1{name}",
        claims=[Claim(f"S1{name}", what, "ours / TRL", ratio(), goal), *more],
        ours=partial(grpo_step.ours, name),
        peer=partial(grpo_step.trl, name),
        beside="GRPOTrainer",
        packages=["trl"],
    )


MEMORY = Claim("S1B-memory", "peak memory of the run of S1B", "GB", alone("peak"), 1.2, quantity="peak", unit="GB")

CASES = [
    step_case("A", 0.75),
    step_case("B", 0.33, MEMORY),
    step_case("C", 0.6),
]

"""All claims, in the order of the table.

What a side imports, it imports when it is called, in a process of its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial

from benchmarks import commands, grpo_step, results
from benchmarks.measuring import Case, Claim, Compared, Side, alone, excess, ratio, times_faster
from benchmarks.processes_apart import GIVES_BACK, Numbers, apart

SIZES = ("G", "P", "T", "V", "layers")
"""Of a step, by which its time may grow no faster than in proportion."""


def side(module: str, function: str, *arguments: object, variables: dict[str, str] | None = None) -> Side:
    """A function of a module here, called in a process of its own with these arguments and ``quick``."""

    def measure(quick: bool) -> Numbers:
        found = importlib.import_module(f"benchmarks.{module}")
        return apart(getattr(found, function), *arguments, quick, variables=variables)

    return measure


def joined(*sides: Side) -> Side:
    """The numbers of several processes; of two with the same name, the first's."""

    def measure(quick: bool) -> Numbers:
        found: Numbers = {}
        for one in sides:
            found = {**one(quick), **found}
        return found

    return measure


# -- S1: a step, and its sampling --------------------------------------------------------------------------------------


def steps() -> list[Case]:
    """A step of GRPO beside TRL's."""
    memory = Claim("S1B-memory", "peak memory of the run of S1B", "GB", alone("peak"), 1.2, quantity="peak", unit="GB")
    return [
        Case(
            name=f"S1{name}",
            claims=[Claim(f"S1{name}", f"a step: {grpo_step.SETTINGS[name]}", "ours / TRL", ratio(), goal), *more],
            ours=partial(grpo_step.ours, name),
            peer=partial(grpo_step.trl, name),
            beside="GRPOTrainer",
            packages=["trl"],
            most=most,
        )
        for name, goal, more, most in (("A", 0.75, [], None), ("B", 0.33, [memory], 1), ("C", 0.6, [], 2))
    ]


def sampling() -> list[Case]:
    """The responses of a step beside ``generate``; and what vLLM's weights add."""
    cases = []
    for name, goal in (("A", 1.5), ("C", 1.5), ("B", 5.0)):
        setting = grpo_step.SETTINGS[name]
        label = f"S1g-{setting.vocabulary}"
        what = f"the responses of a step: {setting}"
        cases.append(
            Case(
                name=label,
                claims=[Claim(label, what, "times faster", times_faster(), goal, at_least=True)],
                ours=side("sampling", "sample", "hf", name),
                peer=side("sampling", "sample", "generate", name),
                beside="generate",
                packages=["transformers"],
                most=1 if name == "B" else None,
            )
        )
    share = Claim(
        "S1v",
        "weights to vLLM after a step, 5 million parameters",
        "share of the step",
        lambda ours, _: ours["sync"] / ours["step"],
        0.02,
        quantity="sync",
    )
    return [*cases, Case("S1v", [share], apart_rollout, packages=["vllm"], most=1)]


def apart_rollout(quick: bool) -> Numbers:
    """A cell of the table of ``rollout.py``."""
    from benchmarks import rollout

    return apart(rollout.cell, "5M", "vllm", "equal", 1 if quick else 2)


# -- S3 to S6: parts ---------------------------------------------------------------------------------------------------


def head() -> Case:
    what = "log-probabilities and entropies, forward and backward, 1,024 tokens x 151,665 x h 64"

    def both(way: str) -> Side:
        held = side("head_pass", "memory", way, variables=GIVES_BACK)
        return joined(side("head_pass", "time", way), held)

    return Case(
        name="S3",
        claims=[
            Claim("S3-time", what, "ours / plain", ratio(), 1.0),
            Claim("S3-memory", what, "ours / plain", ratio("held"), 0.1, quantity="held", unit="GB"),
        ],
        ours=both("ours"),
        peer=both("plain"),
        beside="log_softmax of all logits",
        packages=["torch"],
    )


def imports() -> Case:
    claim = Claim("S4", "import hapo_lit", "CPU s more than import torch", excess(), 0.3)
    torch = partial(commands.importing, "torch")
    return Case("S4", [claim], partial(commands.importing, "hapo_lit"), torch, "import torch", ["torch"])


def verifier() -> list[Case]:
    speed = alone("speed")
    claims = [
        Claim("S5", "10,000 answers, two workers", "answers/s", speed, 1500, True, "speed", "answers/s"),
        Claim("S5-cpu", "the same", "ours / math-verify", ratio("ms"), 1.0, False, "ms", "CPU ms an answer"),
        Claim(
            "S5-cheap", "those decided without a worker", "µs", alone("cheap"), 15, False, "cheap", "CPU µs an answer"
        ),
    ]
    hostile = "1,000 answers, 10 of them hostile, limit 10 s"
    late = Claim("S5-hostile", hostile, "wall s", alone("wall"), 13, False, "wall", "s wall")
    same = Claim("S5-neighbours", hostile, "other verdicts changed", alone("changed"), 0, False, "changed", "")
    ours, peer = side("verifier_speed", "realistic"), side("verifier_speed", "math_verify")
    return [
        Case("S5", claims, ours, peer, "math-verify", ["math-verify"]),
        Case("S5-hostile", [late, same], side("verifier_speed", "hostile"), most=1),
    ]


def gate() -> Case:
    def claim(name: str, what: str, quantity: str, goal: float, unit: str) -> Claim:
        return Claim(f"S6-{name}", what, unit, alone(quantity), goal, quantity=quantity, unit=unit)

    million = "a million prompts"
    claims = [
        claim("step", "observe and decide 128 prompts of a million, slowest rule and memory", "step", 1, "CPU ms"),
        claim("memory", f"{million} in memory", "held", 64, "bytes a prompt"),
        claim("disk", f"{million} in a checkpoint", "on disk", 64, "bytes a prompt"),
        claim("save", f"{million} saved and loaded", "saved and loaded", 2, "CPU s"),
    ]
    return Case("S6", claims, side("gate", "cost"), most=2)


# -- S7 to S9: what a step depends on ----------------------------------------------------------------------------------


def teacher_cost() -> Case:
    def beyond_its_share(ours: Numbers, closed: Numbers) -> float:
        return ours["cpu"] / closed["cpu"] - ours["teacher"]

    what = "a step with a teacher in every group, beside one whose gate is closed"
    claim = Claim("S7", what, "ours / closed, less the teacher's share of the tokens,", beyond_its_share, 1.05)
    open_, closed = side("step_parts", "step", True), side("step_parts", "step", False)
    return Case("S7", [claim], open_, closed, "gate=never")


def signal() -> Case:
    what = "an update with 75, 50 and 25 % of its rows, the others without a signal"
    claim = Claim("S8", what, "furthest from in proportion", alone("off"), 0.1)
    return Case("S8", [claim], side("step_parts", "rows_without_signal"), most=2)


def scaling() -> Case:
    """A process for each size."""

    def measure(quick: bool) -> Numbers:
        found: Numbers = {}
        for size in SIZES:
            numbers = side("step_parts", "growth", size)(quick)
            found |= {f"{size} {name}": value for name, value in numbers.items()}
        return found

    def draw(rounds: Sequence[Numbers], path: object) -> None:
        from benchmarks import step_parts

        step_parts.draw(rounds, path)  # type: ignore[arg-type]

    claims = [scaling_claim(size, alone(f"{size} growth")) for size in SIZES]
    return Case("S9", claims, measure, most=1, drawn=(results.FIGURE, draw))


def scaling_claim(size: str, compared: Compared) -> Claim:
    what = f"a step while {size} grows eightfold"
    return Claim(f"S9-{size}", what, "growth / growth in proportion", compared, 1.0, quantity=f"{size} largest")


# -- S10, S11: the commands --------------------------------------------------------------------------------------------


def whole_commands() -> list[Case]:
    before = 145  # with the head in recomputed chunks, draws in float64, and decoding by transformers
    run = Claim("S10", "hapo train, all of it: 600 steps, 21 evaluations; 145 s before", "CPU s", alone(), before)
    start = Claim("S11", "hapo train --cfg job", "CPU s", alone(), 1.5)
    return [Case("S10", [run], commands.default_run, most=1), Case("S11", [start], commands.shown_settings)]


CASES: list[Case] = [
    *steps(),
    *sampling(),
    head(),
    imports(),
    *verifier(),
    gate(),
    teacher_cost(),
    signal(),
    scaling(),
    *whole_commands(),
]

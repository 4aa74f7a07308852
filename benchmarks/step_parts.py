"""Steps of the module alone, without data and records: what a teacher costs, rows without a signal, and growth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.measuring import seconds
from benchmarks.processes_apart import Numbers
from benchmarks.random_qwen2 import random_qwen2
from hapo_lit.advantages import GroupNormalised
from hapo_lit.algorithm import Hapo
from hapo_lit.gates import BetaGate, Memory
from hapo_lit.gates.simple import NeverGate
from hapo_lit.injectors import NoInjection, ReplaceWorst
from hapo_lit.losses import Surrogate
from hapo_lit.protocols import ALONE
from hapo_lit.rollout.hf import HFEngine
from hapo_lit.rows import UncastRows
from hapo_lit.schedules import Constant
from hapo_lit.teacher import UnitRatio
from hapo_lit.training.fabric_setup import open_fabric, set_up
from hapo_lit.training.module import HapoModule
from hapo_lit.training.phases import Phase, Phases
from hapo_lit.types import Experience, PromptBatch
from hapo_lit.weighting import TokenMean

PROMPT = 16
"""Tokens."""
SHARES = (1.0, 0.75, 0.5, 0.25)
"""Of the prompts that have a signal."""


@dataclass(frozen=True)
class Sizes:
    """A batch and a model; the letters are those of CONTRIBUTING's notation."""

    P: int = 8
    G: int = 4
    T: int = 64
    V: int = 4_096
    layers: int = 2
    hidden: int = 64


GROWTH: dict[str, Sequence[int]] = {
    "G": (2, 4, 8, 16),
    "P": (4, 8, 16, 32),
    "T": (32, 64, 128, 256),
    "V": (8_192, 16_384, 32_768, 65_536),
    "layers": (1, 2, 4, 8),
}
"""The values of each size while the others stay as they are."""


class Ranked:
    """A verifier by whose rewards all rows of some prompts differ, and those of the other prompts do not.

    Args:
        flat: rows at the start of the batch that all get the same reward.
    """

    def __init__(self, flat: int = 0) -> None:
        self.flat = flat

    def __call__(self, responses: Sequence[str], answers: Sequence[str]) -> torch.Tensor:
        rewards = -1 - torch.arange(len(responses)) / len(responses)
        rewards[: self.flat] = -1
        return rewards

    def metrics(self) -> dict[str, float]:
        return {}


class Step:
    """A module that trains on one batch, again and again.

    Args:
        sizes: of batch and model.
        with_teacher: a posterior gate, which opens since no response is right, and replaces the worst response;
            False = a gate that never opens.
    """

    def __init__(self, sizes: Sizes, with_teacher: bool = False) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.sizes = sizes
        engine = HFEngine(sizes.T, stop_ids=[sizes.V])  # no id that can be drawn
        gate: Any = BetaGate(0.5, memory=Memory(0.0)) if with_teacher else NeverGate()
        injector: Any = ReplaceWorst() if with_teacher else NoInjection()
        algorithm = Hapo(sizes.G, engine, Ranked(), gate, injector, GroupNormalised(), TokenMean())
        phase = Phase(algorithm, Surrogate(UnitRatio()), Constant(1e-6))
        optimizer = partial(torch.optim.AdamW, lr=1e-6)
        policy = random_qwen2(sizes.V, sizes.hidden, sizes.layers, positions=1024).train()
        self.module = HapoModule(policy, None, Phases(1000, {"one": phase}), optimizer, {})  # type: ignore[arg-type]
        self.fabric = open_fabric("cpu", 1, 1, "auto", "32-true")
        self.wrapped = set_up(self.fabric, self.module, None)
        self.prompts = prompts(sizes)

    def collect(self) -> Experience:
        """Sample and credit."""
        algorithm = self.module.phase.algorithm
        algorithm.sync(self.module.policy)
        rows = [""] * (self.sizes.P * self.sizes.G)
        experience = algorithm.collect(self.prompts, self.module.step, lambda _: rows, ALONE)
        assert int(experience.group.mask.sum()) == len(rows) * self.sizes.T
        return experience

    def optimise(self, experience: Experience) -> float:
        """Update; returns the share of the rows that were trained on."""
        tallies = self.module.optimise(experience, lambda rows: self.wrapped.uncast_loss(UncastRows(rows)))
        self.module.step += 1
        total, count = tallies["update/row_share"].tolist()
        return total / count

    def whole(self) -> None:
        """Both."""
        assert self.optimise(self.collect()) == 1


def prompts(sizes: Sizes) -> PromptBatch:
    """Random prompts, each with a teacher as long as the responses."""
    return PromptBatch(
        prompt_ids=torch.arange(sizes.P),
        tokens=torch.randint(sizes.V, (sizes.P, PROMPT)),
        mask=torch.ones(sizes.P, PROMPT, dtype=torch.bool),
        answers=("",) * sizes.P,
        teacher_tokens=torch.randint(sizes.V, (sizes.P, sizes.T)),
        teacher_mask=torch.ones(sizes.P, sizes.T, dtype=torch.bool),
        teacher_rewards=torch.ones(sizes.P),
    )


def middle(found: Sequence[Numbers]) -> Numbers:
    """The median of each quantity."""
    return {name: median(numbers[name] for numbers in found) for name in found[0]}


def step(with_teacher: bool, quick: bool) -> Numbers:
    """CPU seconds of a step, and the teacher's share of the tokens that are trained on."""
    made = Step(Sizes(T=16) if quick else Sizes(), with_teacher)
    group = made.collect().group
    teacher = float(group.mask[group.is_teacher].sum() / group.mask.sum())
    assert (teacher > 0) == with_teacher
    made.whole()
    return {**middle([seconds(made.whole) for _ in range(2 if quick else 9)]), "teacher": teacher}


def rows_without_signal(quick: bool) -> Numbers:
    """How far the time of an update is from its share of the rows, at worst; its CPU seconds with all rows and half."""
    made = Step(Sizes(T=16) if quick else Sizes(P=16, T=128))
    experiences = {}
    for share in SHARES:
        flat = made.sizes.P - round(share * made.sizes.P)
        made.module.phase.algorithm.verifier = Ranked(flat * made.sizes.G)  # type: ignore[attr-defined]
        experiences[share] = made.collect()
    taken: dict[float, list[float]] = {share: [] for share in SHARES}
    for index in range(2 if quick else 8):
        for share, times in taken.items():
            given = experiences[share]
            used = seconds(lambda batch=given, wanted=share: check_share(made.optimise(batch), wanted))
            if index:  # the first of each warms up
                times.append(used["cpu"])
    times = {share: median(found) for share, found in taken.items()}
    off = max(abs(times[share] / times[1.0] / share - 1) for share in SHARES)
    return {"off": off, "cpu": times[1.0], "half": times[0.5]}


def check_share(found: float, wanted: float) -> None:
    assert found == wanted, f"{found} of the rows were trained on, not {wanted}"


def growth(size: str, quick: bool) -> Numbers:
    """CPU seconds of a step at each value of a size, as ``at VALUE``; ``growth``: by how much they grow for each time
    that the size does, from the least to the largest value."""
    values = GROWTH[size][:2] if quick else GROWTH[size]
    times: list[float] = []
    for value in values:
        made = Step(replace(Sizes(T=16) if quick and size != "T" else Sizes(), **{size: value}))
        made.whole()
        times.append(median(seconds(made.whole)["cpu"] for _ in range(1 if quick else 3)))
    found = {f"at {value}": cpu for value, cpu in zip(values, times, strict=True)}
    return {**found, "growth": times[-1] / times[0] / (values[-1] / values[0]), "largest": times[-1]}


def draw(rounds: Sequence[Numbers], path: Path) -> None:
    """The time of a step against each size, on axes where a straight line of slope 1 is proportional."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.4), dpi=80, layout="constrained")
    panels = figure.subplots(1, len(GROWTH), sharey=True)
    for panel, size in zip(panels, GROWTH, strict=True):
        start = f"{size} at "
        found = {int(name.removeprefix(start)): 0.0 for name in rounds[0] if name.startswith(start)}
        times = {value: median(numbers[f"{start}{value}"] for numbers in rounds) for value in found}
        values = list(times)
        panel.loglog(values, list(times.values()), marker="o", label="measured")
        panel.loglog(values, [times[values[0]] * value / values[0] for value in values], ":", label="in proportion")
        panel.set_xlabel(size)
        panel.set_xticks(values, [f"{value:,}" for value in values], fontsize=6)
        panel.minorticks_off()
    panels[0].set_ylabel("CPU s of a step")
    panels[0].legend(fontsize=6)
    figure.savefig(path)

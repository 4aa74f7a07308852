"""The cost of a gate: a step's decisions, and a million prompts remembered, saved and loaded."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

import torch

from benchmarks.measuring import seconds
from benchmarks.processes_apart import Numbers
from hapo_lit.gates import BetaGate, CredibleBound, Memory, PosteriorMean, ThompsonSample

PROMPTS, BATCH, TRIALS = 1_000_000, 128, 8
RULES = (PosteriorMean(), CredibleBound(0.5), ThompsonSample())
DISCOUNTS = (0.0, 0.9, 1.0)


def cost(quick: bool) -> Numbers:
    """Milliseconds to observe and decide, with the slowest rule and memory; bytes a prompt; seconds to save and load.

    Times are CPU time; bytes are what the arrays hold, spare room included, and what a checkpoint takes.
    """
    torch.set_num_threads(1)
    count = 10_000 if quick else PROMPTS
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 2**63 - 1, (count,), generator=draw)
    wins = torch.randint(0, TRIALS + 1, (count,), generator=draw)
    trials = torch.full_like(wins, TRIALS)
    successes = (torch.arange(TRIALS) < wins[:, None]).float()
    steps = []
    for rule in RULES:
        for discount in DISCOUNTS:
            gate = BetaGate(0.5, rule, Memory(discount))
            gate.observe(ids, wins, trials)

            def step(start: int, gate: BetaGate = gate) -> None:
                batch = slice(start, start + BATCH)
                gate.observe(ids[batch], wins[batch], trials[batch])
                gate(ids[batch], successes[batch])

            starts = range(0, (20 if quick else 200) * BATCH, BATCH)
            steps.append(median(seconds(lambda at=start, run=step: run(at))["cpu"] for start in starts))
    gate = BetaGate(0.5, memory=Memory(1.0))
    for start in range(0, count, BATCH):
        gate.observe(*(values[start : start + BATCH] for values in (ids, wins, trials)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gate.ckpt"
        copy = BetaGate(0.5, memory=Memory(1.0))
        saved = seconds(lambda: torch.save(gate.state_dict(), path))["cpu"]
        loaded = seconds(lambda: copy.load_state_dict(torch.load(path)))["cpu"]
        on_disk = path.stat().st_size
    assert torch.equal(gate(ids, successes).open, copy(ids, successes).open)
    held = {"held": gate.memory.nbytes / count, "on disk": on_disk / count}
    return {"step": 1000 * max(steps), "saved and loaded": saved + loaded, **held}

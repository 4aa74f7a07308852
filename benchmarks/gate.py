"""The cost of a gate: a step's decisions, and a million prompts remembered, saved and loaded.

    python benchmarks/gate.py

Times are medians of CPU time; bytes are what the arrays hold, spare room included, and what a checkpoint takes.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from hapo_lit.gates import BetaGate, CredibleBound, Memory, PosteriorMean, ThompsonSample

PROMPTS, BATCH, TRIALS = 1_000_000, 128, 8


def main() -> None:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 2**63 - 1, (PROMPTS,), generator=draw)
    wins = torch.randint(0, TRIALS + 1, (PROMPTS,), generator=draw)
    trials = torch.full_like(wins, TRIALS)
    rewards = (torch.arange(TRIALS) < wins[:, None]).float()

    print(f"observe + decide, {BATCH} prompts of a memory of {PROMPTS:,} (limit 1 ms):")
    for rule in (PosteriorMean(), CredibleBound(0.5), ThompsonSample()):
        for discount in (0.0, 0.9, 1.0):
            gate = BetaGate(0.5, rule, Memory(discount))
            gate.observe(ids, wins, trials)

            def step(gate: BetaGate, start: int) -> None:
                batch = slice(start, start + BATCH)
                gate.observe(ids[batch], wins[batch], trials[batch])
                gate(ids[batch], rewards[batch])

            times = [seconds(lambda gate=gate, at=at: step(gate, at)) for at in range(0, 200 * BATCH, BATCH)]
            print(f"  {type(rule).__name__:14s} discount {discount:3.1f}: {1e3 * median(times):.3f} ms")

    gate = BetaGate(0.5, memory=Memory(1.0))
    grown = [
        seconds(lambda at=at: gate.observe(ids[at : at + BATCH], wins[at : at + BATCH], trials[at : at + BATCH]))
        for at in range(0, PROMPTS, BATCH)
    ]
    print(f"{PROMPTS:,} new prompts, {BATCH} at a time: {sum(grown):.2f} s, worst {max(grown):.3f} s")
    print(f"held: {gate.memory.nbytes / PROMPTS:.1f} bytes a prompt (limit 64)")
    whole = seconds(lambda: gate.observe(ids, wins, trials))
    print(f"all of them updated in one call: {whole:.2f} s")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gate.ckpt"
        copy = BetaGate(0.5, memory=Memory(1.0))
        saved = seconds(lambda: torch.save(gate.state_dict(), path))
        loaded = seconds(lambda: copy.load_state_dict(torch.load(path)))
        print(f"saved in {saved:.2f} s and loaded in {loaded:.2f} s (limit 2 s together)")
        print(f"on disk: {path.stat().st_size / PROMPTS:.1f} bytes a prompt (limit 64)")
    assert torch.equal(gate(ids, rewards).open, copy(ids, rewards).open)


def seconds(work: object) -> float:
    """CPU time of a call."""
    started = time.process_time()
    work()  # type: ignore[operator]
    return time.process_time() - started


if __name__ == "__main__":
    main()

"""The speedup of a second process: rows per second of training steps under ``hapo fabric``, by devices.

    python benchmarks/processes.py              # the default experiment, 5 rounds of 30 steps
    python benchmarks/processes.py --rounds 9 --steps 60

Every process has one thread.  Strong: two processes share the batch of one; weak: both have as large a batch as one
alone.  A ratio is of runs that followed one another.  Other work on the machine slows two processes on two cores down;
the line of a round says how much there was.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from hapo_lit.analysis import read_metrics

PROMPTS, GROUP = 32, 4
RUNS = {"one": (1, PROMPTS), "strong": (2, PROMPTS), "weak": (2, 2 * PROMPTS)}
"""Name -> processes, prompts a step."""
WARM = 3
"""Steps at the start that are left out."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    hapo("pretrain")
    speeds: dict[str, list[float]] = {name: [] for name in RUNS}
    print(f"{os.cpu_count()} cores; rows a second of training steps (one process: {PROMPTS} prompts of {GROUP} rows)")
    for number in range(1, options.rounds + 1):
        started, total, before = time.monotonic(), busy(), own()
        for name, (processes, prompts) in RUNS.items():
            speeds[name].append(rows_a_second(processes, prompts, options.steps))
        figures = ", ".join(f"{name} {found[-1]:,.0f}" for name, found in speeds.items())
        others = (busy() - total - (own() - before)) / (time.monotonic() - started)
        print(f"round {number}: {figures}; others kept {others:.2f} cores busy", flush=True)
    for name in ("strong", "weak"):
        ratios = [two / one for two, one in zip(speeds[name], speeds["one"], strict=True)]
        spread = f"min {min(ratios):.2f}, median {median(ratios):.2f}, max {max(ratios):.2f}"
        print(f"{name} scaling, two processes against one: {spread} (goal 1.5)")


def hapo(*arguments: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "hapo_lit", *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)


def rows_a_second(processes: int, prompts: int, steps: int) -> float:
    """Of a run in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"fabric.devices={processes}", f"prompts_per_step={prompts}", f"group_size={GROUP}"]
        run = Path(folder) / "run"
        hapo("fabric", *settings, f"steps={steps}", f"eval_every={steps}", f"hydra.run.dir={run}")
        seconds = read_metrics(run)["time/step"].loc[1 + WARM :]
    assert len(seconds) == steps - WARM
    return float(prompts * GROUP * len(seconds) / seconds.sum())


def busy() -> float:
    """CPU seconds of the whole machine since it started, those that a host took from it included."""
    user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def own() -> float:
    """CPU seconds of the runs so far."""
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


if __name__ == "__main__":
    main()

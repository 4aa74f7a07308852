"""The `hapo` command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

SMALL = [
    "steps=4",
    "eval_every=2",
    "save_every=2",
    "data.source.train_size=12",
    "data.source.heldout_size=6",
    "data.source.levels.0.digits=2",
    "data.source.levels.1.digits=3",
    "prompts_per_step=4",
    "callbacks.checkpointer.keep=-1",
    "max_response_tokens=40",
]

ARGUMENTS = ["model.path=./base", "gate=always", "teacher_check=trusted", *SMALL]


def hapo(folder, *arguments, check=True):
    """The command in a process of its own, as a user runs it."""
    environment = {**os.environ, "HAPO_CACHE": str(folder / "cache"), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "hapo_lit", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=check,
    )

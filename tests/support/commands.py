"""The `hapo` command in a process of its own, and settings for short runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.forked_runs import VLLM, Done, forked_runs

SMALL = [
    "steps=4",
    "eval_every=2",
    "save_every=2",
    "data.source.train_size=12",
    "data.source.heldout_size=6",
    *(f"data.source.levels.{level}.{field}" for level in (0, 1) for field in ("digits=1", "operation=+")),
    "prompts_per_step=4",
    "callbacks.checkpointer.keep=-1",
    "max_response_tokens=16",
]

ARGUMENTS = ["model.path=./base", "gate=always", "teacher_check=trusted", *SMALL]


def hapo(folder: Path, *arguments: str, check: bool = True) -> Done:
    """The command, in a process that has imported everything already: see :mod:`support.forked_runs`."""
    return _checked(forked_runs().run(folder, *arguments, environment=_variables(folder)), check)


def vllm_hapo(folder: Path, *arguments: str, check: bool = True) -> Done:
    """The same where vLLM is imported too, which a run with it needs."""
    return _checked(forked_runs(*VLLM).run(folder, *arguments, environment=_variables(folder)), check)


def cold_hapo(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The command as a user starts it, which costs five to six CPU seconds more: where that start is the point."""
    command = [sys.executable, "-m", "hapo_lit", *arguments]
    environment = os.environ | _variables(folder) | {"COLUMNS": "100"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 or not check, done.stderr
    return done


def _variables(folder: Path) -> dict[str, str]:
    return {"HAPO_CACHE": str(folder / "cache")}


def _checked(done: Done, check: bool) -> Done:
    assert done.returncode == 0 or not check, done.stderr
    return done

"""``run.json`` in a run's folder: from what each of its starts can be repeated.

Reading it needs neither torch nor Hydra.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hapo_lit import __version__
from hapo_lit.errors import SetupError
from hapo_lit.storage.atomic import appearing

RECORD = "run.json"
PACKAGE = Path(__file__).resolve().parent.parent
LIBRARIES = (
    *("torch", "numpy", "scipy", "sympy", "transformers", "tokenizers", "safetensors", "lightning", "hydra-core"),
    *("omegaconf", "datasets", "peft", "vllm", "flash-attn", "triton"),
)
"""Distributions whose versions are recorded, where they are installed."""
VARIABLES = re.compile(
    r"(HAPO|PYTORCH|TORCH|NCCL|HF|TRANSFORMERS|VLLM|CUDA|CUBLAS|OMP|MKL|OPENBLAS|ACCELERATE)_\w+|PYTHONHASHSEED"
)
"""Environment variables that matter to a run."""
SECRET = re.compile(r"TOKEN|KEY|SECRET|PASS|CREDENTIAL|AUTH|COOKIE", re.IGNORECASE)
"""In the name of a variable whose value is nobody's business."""
INTERNAL = {"HAPO_RUN", "PYTORCH_NVML_BASED_CUDA_CHECK"}
"""Set by a run for its own processes, and by Lightning."""


def environment() -> dict[str, str]:
    """The environment variables that matter, without those that hold secrets; passwords in addresses are left out."""
    return {
        name: re.sub(r"(?<=://)[^/@\s]+@", "", value)
        for name, value in sorted(os.environ.items())
        if VARIABLES.fullmatch(name) and not SECRET.search(name) and name not in INTERNAL
    }


def revision(package: Path = PACKAGE) -> dict[str, Any]:
    """The version of a package, and if it lies in a git tree that has it: the commit, and whether files differ from it.

    An installed package in a folder that git ignores is no part of the tree around it.
    """
    found: dict[str, Any] = {"version": __version__}
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return found
    status = _git(package, "status", "--porcelain=v2", "--branch", "--untracked-files=no")
    commit = re.search(r"^# branch\.oid (\w+)$", status or "", re.MULTILINE)
    if status is None or commit is None:
        return found
    return found | {"commit": commit[1], "dirty": any(not line.startswith("#") for line in status.splitlines())}


def _git(folder: Path, *words: str) -> str | None:
    """What git says in a folder; None = there is no git, or it refuses."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def versions() -> dict[str, str]:
    """The versions of Python and of :data:`LIBRARIES`."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware(device: str, processes: int) -> dict[str, Any]:
    """The machine of rank 0, as far as numbers and speed depend on it.

    Args:
        device: that trains, ``cuda`` or ``cpu``.
        processes: of the run.
    """
    import torch  # reading a record does not need it

    found: dict[str, Any] = {
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": _cpu(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "threads": torch.get_num_threads(),
        "device": device,
        "processes": processes,
    }
    if device == "cuda":
        found["devices"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return found


def _cpu() -> str:
    """Its model, as Linux names it."""
    try:
        named = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:  # another system
        named = None
    return named[1] if named else platform.processor() or platform.machine()


def record_start(
    run: Path, command: Sequence[str], variables: Mapping[str, str], data: Mapping[str, Any], **facts: Any
) -> None:
    """Append a start to the record of a run; what cannot be read of it is begun anew.

    Args:
        run: its folder.
        command: verb and settings; empty if the run was not started by the command.
        variables: of the environment, as the run found them.
        data: what the order and contents of its problems depend on.
        facts: anything else, such as the step at which it starts.
    """
    start = {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "folder": os.getcwd(),
        "command": list(command),
        **facts,
        "revision": revision(),
        "versions": versions(),
        "data": dict(data),
        "environment": dict(variables),
    }
    try:
        starts = read_starts(run)
    except SetupError:
        starts = []
    with appearing(run / RECORD) as draft:
        draft.write_text(json.dumps({"starts": [*starts, start]}, indent=1, default=str) + "\n")


def read_starts(run: Path) -> list[dict[str, Any]]:
    """The starts of a run, from its first.

    Raises:
        SetupError: there is no record, or it is none.
    """
    file = run / RECORD
    try:
        starts = json.loads(file.read_text())["starts"]
        if starts and all(_is_start(start) for start in starts):
            return list(starts)
    except FileNotFoundError:
        raise SetupError(
            f"{file} does not exist: {run} is no run's folder, or of a version that kept no record"
        ) from None
    except (ValueError, TypeError, KeyError, OSError, RecursionError) as error:
        raise SetupError(f"{file} cannot be read: {error!r:.200}") from error
    raise SetupError(f"{file} is no record of a run")


def _is_start(start: Any) -> bool:
    return (
        isinstance(start["folder"], str)
        and isinstance(start["command"], list)
        and all(isinstance(word, str) for word in start["command"])
        and all(isinstance(start.get(part, {}), dict) for part in ("revision", "versions", "environment"))
    )

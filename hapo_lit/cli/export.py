"""``hapo export RUN OUT``: the policy in a checkpoint of a run as a Hugging Face folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hapo_lit.cli.bootstrap import one_line_errors
from hapo_lit.cli.run_config import read_run_config
from hapo_lit.cli.setup import quieten
from hapo_lit.errors import SetupError
from hapo_lit.training.checkpoint_faults import check
from hapo_lit.training.checkpoint_folder import CheckpointFolder, link_target
from hapo_lit.training.export import export, policy_weights


def main(arguments: list[str]) -> None:
    """Entry point of ``hapo export``; ends with status 2 and one line if it cannot be done."""
    parser = argparse.ArgumentParser(
        prog="hapo export",
        description="Write the policy of a run as a Hugging Face folder, for from_pretrained and vLLM.",
    )
    parser.add_argument("run", type=Path, help="folder of a run, finished or not")
    parser.add_argument("out", type=Path, help="folder to write; must not exist, or be empty")
    parser.add_argument(
        "--checkpoint",
        default="newest",
        help="newest (the default), best, or a file such as RUN/checkpoints/step-40.ckpt",
    )
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="NAME",
        help="a module or class of your own that the run's config.yaml names; may be repeated",
    )
    chosen = parser.parse_args(arguments)
    quieten()
    with one_line_errors(SetupError, ValueError, OSError):
        path = checkpoint_of(chosen.run, chosen.checkpoint)
        config = read_run_config(chosen.run, chosen.trust)
        if chosen.out.exists() and (not chosen.out.is_dir() or any(chosen.out.iterdir())):
            raise SetupError(f"{chosen.out} is there already: choose another folder")
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        otherwise = export(
            policy_weights(path), chosen.run / "model", (config.get("model") or {}).get("lora"), chosen.out
        )
    print(f"{chosen.out}: the policy of {path}")
    if otherwise:
        print(f"warning: {otherwise}", file=sys.stderr)


def checkpoint_of(run: Path, which: str) -> Path:
    """The checkpoint of a run that was asked for, whose bytes have been checked."""
    if not (run / "config.yaml").is_file():
        raise SetupError(f"{run} is not the folder of a run (no config.yaml): name that, and --checkpoint")
    folder = CheckpointFolder(run / "checkpoints")
    if which == "newest":
        path, passed_over = folder.newest()
        for line in passed_over:
            print(f"warning: {line}", file=sys.stderr)
    else:
        path = folder.folder / "best.ckpt" if which == "best" else Path(which)
    if path is None or not path.exists():
        raise SetupError(
            f"there is no checkpoint {which!r} in {folder.folder}; there are steps {folder.steps() or 'none'}"
        )
    path = link_target(path)
    if which != "newest":
        check(path)
    return path

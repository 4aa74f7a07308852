"""The entry points: one command, ``hapo VERB [key=value ...]``, and a module here for each verb.

An entry point reads the configuration, builds the parts and starts them; only this folder knows Hydra.  Its module is
imported when its job begins: ``--help`` and ``--cfg job`` compose a configuration and import no part of a run.
Whatever is wrong with a configuration is said in one line; with ``HAPO_TRACEBACK=1`` in the environment the traceback
is shown instead.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from hapo_lit.cli.bootstrap import config_folder, stop


@dataclass(frozen=True)
class Verb:
    """What ``hapo --help`` says of a verb, and how it takes its arguments."""

    meaning: str
    config: str | None = None
    """The file in ``conf/`` that Hydra composes; None = its arguments are answers, folders or options of its own."""
    word: str | None = None
    """The word that must follow."""


VERBS = {
    "train": Verb("train a policy (by default: HAPO on the embedded experiment)", "train"),
    "fabric": Verb("the same on several devices and machines, under Lightning Fabric", "fabric"),
    "export": Verb("`hapo export RUN OUT`: a checkpoint of a run as a Hugging Face folder"),
    "report": Verb("`hapo report FOLDER`: a run, or all runs of a sweep, as a page with figures and tables"),
    "rerun": Verb("`hapo rerun RUN`: the command that repeats a run, and what is different here"),
    "serve": Verb("start the vLLM server of a run with rollout=vllm_server", "train"),
    "prepare": Verb("`hapo prepare smollm_gsm`: make the model and the data of that experiment, unless they are there"),
    "pretrain": Verb("build the base policy of the embedded experiment, unless it is there", "pretrain"),
    "data": Verb(
        "`hapo data inspect`: what becomes of the training data, and what it looks like",
        "inspect",
        word="inspect",
    ),
    "plan": Verb("what a run would do and hold: batch plan, memory, and what is wrong with its settings", "plan"),
    "verify": Verb("`hapo verify GOLD COMPLETION`: is this the right answer, and why; or score a file"),
}
HELP = {"-h", "--help"}
OPTIONS = {"--help", "--hydra-help", "--cfg", "--resolve", "--package", "--multirun", "--info", "--shell-completion"}
OPTIONS |= {"-h", "-c", "-p", "-m", "-i", "-sc"}
"""Hydra's options that a verb passes on."""


def main(arguments: list[str] | None = None) -> None:
    """The ``hapo`` command.  Modules of one's own are found in the present folder, as with ``python -m hapo_lit``."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in HELP:
        print_help()
        return
    if name not in VERBS:
        stop(f"there is no verb {name!r}; the verbs are: {', '.join(VERBS)}")
    verb = VERBS[name]
    if verb.config is None:
        importlib.import_module(f"hapo_lit.cli.{name}").main(rest)
        return
    from hapo_lit.cli.invocation import Invocation

    if verb.word is not None and rest[:1] != [verb.word]:
        stop(f"`hapo {name}` needs the word {verb.word!r} next: hapo {name} {verb.word} [key=value ...]")
    words = (name,) if verb.word is None else (name, verb.word)
    settings = rest[len(words) - 1 :]
    for argument in settings:
        if argument.startswith("-") and argument.split("=")[0] not in OPTIONS:
            stop(f"there is no option {argument!r}: settings are key=value, such as experiment=grpo")
    if not HELP.isdisjoint(settings):
        print_groups(words)
        settings = ["--cfg", "job", *(setting for setting in settings if setting not in HELP)]
    Invocation(words, verb.config).run(settings)


def print_help() -> None:
    """What ``hapo --help`` prints."""
    print("usage: hapo VERB [key=value ...]\n\nverbs:")
    print("\n".join(f"  {name:<10}{verb.meaning}" for name, verb in VERBS.items()))
    print("\n`hapo VERB --help` lists the configuration groups and prints the configuration.")
    print("`--help` after verify, export, report, rerun or prepare lists the options of that verb.")


def print_groups(words: tuple[str, ...]) -> None:
    """The part of ``hapo VERB --help`` before the configuration; Hydra's own takes a second to list as much."""
    print(f"usage: hapo {' '.join(words)} [group=option ...] [key=value ...]\n\n== Groups (group=option) ==\n")
    for group in sorted(Path(config_folder()).iterdir()):
        if group.is_dir() and group.name != "hydra":
            print(f"{group.name}: {', '.join(sorted(option.stem for option in group.glob('*.yaml')))}")
    print("\n== Configuration (key=value) ==\n", flush=True)

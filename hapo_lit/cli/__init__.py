"""The doors: one command, ``hapo VERB [overrides]``.

A door reads the configuration, builds the parts and starts them; nothing below a door knows Hydra.  Whatever is wrong
with a configuration is said in one line; with ``HAPO_TRACEBACK=1`` in the environment the frames are shown instead.
"""

from __future__ import annotations

import importlib
import os
import sys

from hapo_lit.cli.bootstrap import stop

VERBS = {
    "train": "train a policy (by default: HAPO on the embedded experiment)",
    "fabric": "the same on several devices and machines, under Lightning Fabric",
    "export": "`hapo export RUN OUT`: a state of a run as a Hugging Face folder",
    "report": "`hapo report FOLDER`: a run, or all runs of a sweep, as a page with figures and tables",
    "serve": "start the vLLM server of a run with rollout=vllm_server",
    "prepare": "`hapo prepare smollm_gsm`: make the model and the data of that experiment, unless they are there",
    "pretrain": "build the base policy of the embedded experiment, unless it is there",
    "data": "`hapo data inspect`: what becomes of the training data, and what it looks like",
    "plan": "what a run would do and hold: batch plan, memory, and what is wrong with its settings",
    "verify": "`hapo verify GOLD COMPLETION`: is this the right answer, and why; or score a file",
}
WORDS = {"data": "inspect"}
"""The word that must follow a verb."""
PLAIN = {"verify", "export", "report", "prepare"}
"""Verbs whose arguments are answers, folders or options, and none of them Hydra's."""
OPTIONS = {"--help", "--hydra-help", "--cfg", "--resolve", "--package", "--multirun", "--info", "--shell-completion"}
"""Hydra's options that a door passes on."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the ``hapo`` command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help"):
        print("usage: hapo VERB [key=value ...]\n\nverbs:")
        print("\n".join(f"  {name:<10}{meaning}" for name, meaning in VERBS.items()))
        print("\n`hapo VERB --help` lists the configuration groups; `hapo VERB --cfg job` prints the configuration.")
        print("`--help` after verify, export, report or prepare lists the options of that verb.")
        return
    if verb not in VERBS:
        stop(f"there is no verb {verb!r}; the verbs are: {', '.join(VERBS)}")
    if verb in PLAIN:
        importlib.import_module(f"hapo_lit.cli.{verb}").main(arguments[1:])
        return
    from hapo_lit.cli.setup import CONFIGURATION_ERRORS, ENTERED, give_up
    from hapo_lit.cli.sweeps import report_failures

    spoken, settings = verb, arguments[1:]
    if word := WORDS.get(verb):
        if settings[:1] != [word]:
            stop(f"`hapo {verb}` needs the word {word!r} next: hapo {verb} {word} [key=value ...]")
        spoken, settings = f"{verb} {word}", settings[1:]
    for argument in settings:
        if argument.startswith("--") and argument.split("=")[0] not in OPTIONS:
            stop(f"there is no option {argument!r}: settings are key=value, such as experiment=grpo")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and what is printed is ours
    ENTERED.clear()
    settings.sort(key=lambda each: each not in ("-m", "--multirun"))  # which Hydra takes before all settings only
    sys.argv = [f"hapo {spoken}", *settings]
    try:
        importlib.import_module(f"hapo_lit.cli.{verb}").main()
    except (*CONFIGURATION_ERRORS, ValueError, OSError) as error:
        report_failures()
        if ENTERED and not isinstance(error, CONFIGURATION_ERRORS):
            raise
        give_up(error)
    report_failures()

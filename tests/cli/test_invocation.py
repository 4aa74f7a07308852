"""The ``hapo`` command before and around a job: what it imports, what it passes to Hydra, how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from hapo_lit import cli
from hapo_lit.cli.bootstrap import one_line_errors, stop_with
from hapo_lit.cli.invocation import command_line, run_job
from hapo_lit.errors import SetupError, VerifierError

HEAVY = ["torch", "transformers", "lightning", "vllm", "datasets", "pandas", "matplotlib", "scipy", "optuna"]
IMPORTED = f"""
import json, sys
from hapo_lit.cli import main
try:
    main(sys.argv[1:])
finally:
    parts = [name for name in sys.modules if name.startswith("hapo_lit.") and not name.startswith("hapo_lit.cli")]
    print(json.dumps([name for name in {HEAVY} if name in sys.modules] + parts), file=sys.stderr)
"""
LIGHT = {"hapo_lit.errors", "hapo_lit.numerics", "hapo_lit.numerics.hashing", "hapo_lit.numerics.ranges"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--cfg", "job"],
        ["fabric", "--help"],
        ["plan", "--cfg", "job", "experiment=smoke"],
        ["pretrain", "--help"],
        ["data", "inspect", "--cfg", "job"],
        ["serve", "--help"],
        ["train", "--cfg", "job", "sweep=gate_optuna"],
        ["train", "gat.threshold=0.3"],
    ],
    ids=" ".join,
)
def test_a_configuration_is_composed_without_importing_any_part(tmp_path, arguments):
    done = subprocess.run([sys.executable, "-c", IMPORTED, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert set(json.loads(done.stderr.splitlines()[-1])) <= LIGHT
    if "gat.threshold=0.3" in arguments:
        assert done.returncode == 2
    else:
        assert done.returncode == 0, done.stderr
        assert "gate:\n  _target_: hapo_lit.gates" in done.stdout
    assert not list(tmp_path.iterdir())


def test_help_of_a_verb_lists_the_groups_and_the_configuration(capsys):
    cli.main(["train", "--help", "gate=never"])
    shown = capsys.readouterr().out
    assert shown.startswith("usage: hapo train [group=option ...] [key=value ...]\n")
    groups, _, configuration = shown.partition("== Configuration")
    assert "\ngate: always, beta, credible, failure, never, scheduled, thompson\n" in groups
    assert "hydra" not in groups
    assert OmegaConf.create(configuration.partition("\n")[2]).gate._target_ == "hapo_lit.gates.NeverGate"


def test_unknown_verbs_are_named(says):
    line = "there is no verb 'tarin'; the verbs are: train, fabric, export, "
    line += "report, rerun, serve, prepare, pretrain, data, plan, verify"
    assert says("tarin") == line


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_the_verbs(capsys, arguments):
    cli.main(arguments)
    shown = capsys.readouterr().out
    assert all(f"\n  {verb} " in shown for verb in cli.VERBS)


def test_a_verb_says_which_word_must_follow(says):
    assert says("data", "inspct") == "`hapo data` needs the word 'inspect' next: hapo data inspect [key=value ...]"


def test_shell_completion_knows_groups_and_options(tmp_path):
    environment = os.environ | {"COMP_LINE": "hapo gate=", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-m", "hapo_lit", "train", "--shell-completion", "query=bash"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert {"gate=beta", "gate=never"} <= set(done.stdout.split()), done.stderr


# -- how a job ends


def test_an_error_of_a_run_is_one_line(capsys):
    def main(config):
        raise VerifierError("31 of the last 1,000 answers met a limit of the verifier")

    with pytest.raises(SystemExit):
        run_job(main, OmegaConf.create())
    assert capsys.readouterr().err == "hapo: error: 31 of the last 1,000 answers met a limit of the verifier\n"


def test_an_error_that_nobody_foresaw_keeps_its_traceback():
    def main(config):
        raise KeyError("rewards")

    with pytest.raises(KeyError):
        run_job(main, OmegaConf.create())


def test_the_value_of_a_job_is_that_of_its_entry_point():
    assert run_job(lambda config: 2 * config.seed, OmegaConf.create({"seed": 3})) == 6


def test_a_traceback_is_shown_on_demand(monkeypatch, capsys):
    error = SetupError("set\n  gate")
    with pytest.raises(SystemExit) as stopped, one_line_errors(SetupError):
        raise error
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "hapo: error: set gate\n"
    monkeypatch.setenv("HAPO_TRACEBACK", "1")
    with pytest.raises(SetupError), one_line_errors(SetupError):
        raise error
    with pytest.raises(SetupError):
        stop_with(error, "set gate")


def test_the_command_line_is_put_back():
    before = sys.argv
    with command_line("hapo train", "gate=never"):
        assert sys.argv == ["hapo train", "gate=never"]
    assert sys.argv is before

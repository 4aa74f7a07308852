"""The entry points end to end, on a tiny random policy: what a run leaves behind, and resuming from a checkpoint."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from support.accounts import must_account_for_its_seconds
from support.builders import write_base
from support.commands import ARGUMENTS, SMALL, hapo
from support.configs import composed

from hapo_lit.analysis import read_metrics
from hapo_lit.cli import pretrain
from hapo_lit.policy.loading import load_policy, load_tokenizer
from hapo_lit.storage import cache_key
from hapo_lit.training.metric_names import CLOCKED


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a random base policy and one finished run."""
    folder = tmp_path_factory.mktemp("work")
    write_base(folder / "base")
    done = hapo(folder, "train", *ARGUMENTS, "hydra.run.dir=run")
    return folder, done


@pytest.mark.slow
def test_a_run_leaves_what_the_readme_promises(trained):
    folder, done = trained
    run = folder / "run"
    for name in (
        "config.yaml",
        "metrics.csv",
        "summary.json",
        "anneal.png",
        "completions.jsonl",
        "policy/config.json",
        "checkpoints/last.ckpt",
        "checkpoints/step-4.ckpt",
    ):
        assert (run / name).is_file(), name
    assert list(run.glob("tensorboard/events*"))
    assert "held-out accuracy, sampled, after" in done.stdout
    assert "data: 12 problems, 6 held out, 0 prompts too long; teachers: 12 usable, 0 rejected" in done.stdout
    assert f"curves: {run / 'anneal.png'}" in done.stdout.replace("\n", "")
    assert "Traceback" not in done.stderr
    table = pd.read_csv(run / "metrics.csv")
    assert sorted(table["step"].unique()) == [0, 1, 2, 3, 4]
    assert table.dropna(subset=["heldout/greedy"])["step"].tolist() == [0, 2, 4]
    config = OmegaConf.load(run / "config.yaml")
    assert config.gate._target_ == "hapo_lit.gates.AlwaysGate"
    assert json.loads((run / "summary.json").read_text())["demonstrations"] == 16  # 4 steps of 4, gate always open


@pytest.mark.slow
def test_a_run_says_where_its_seconds_went(trained):
    folder, done = trained
    must_account_for_its_seconds(folder / "run", done.stdout)


@pytest.mark.slow
def test_completions_show_who_wrote_what(trained):
    records = [json.loads(line) for line in (trained[0] / "run/completions.jsonl").read_text().splitlines()]
    assert {record["step"] for record in records} == {1, 3}
    assert all(record["prompt"].startswith("Compute ") for record in records)
    for record in records:
        by = [response["by"] for response in record["responses"]]
        assert by.count("teacher") == 1
        assert len(by) == 4
        teacher = next(response for response in record["responses"] if response["by"] == "teacher")
        assert teacher["text"].count(r"\boxed{") == 1
        assert teacher["reward"] == 1.0


@pytest.mark.slow
def test_the_trained_policy_loads_as_a_hugging_face_folder(trained):
    policy, tokenizer = load_policy(str(trained[0] / "run/policy")), load_tokenizer(str(trained[0] / "run/policy"))
    checkpoint = torch.load(trained[0] / "run/checkpoints/last.ckpt", weights_only=False)
    weights = checkpoint["module"]
    assert all(torch.equal(value, weights[f"policy.{name}"]) for name, value in policy.state_dict().items())
    assert tokenizer(r"\boxed{5}", add_special_tokens=False)["input_ids"] == [23, 9, 19]


@pytest.mark.slow
def test_going_on_from_a_checkpoint_ends_in_the_same_place(trained):
    folder, _ = trained
    hapo(folder, "train", *ARGUMENTS, "hydra.run.dir=resumed", "resume=run/checkpoints/step-2.ckpt")
    through = load_policy(str(folder / "run/policy")).state_dict()
    resumed = load_policy(str(folder / "resumed/policy")).state_dict()
    assert all(torch.equal(through[name], resumed[name]) for name in through)
    whole, again = read_metrics(folder / "run"), read_metrics(folder / "resumed")
    timeless = [column for column in whole if not column.startswith(CLOCKED)]
    pd.testing.assert_frame_equal(again[timeless], whole[timeless])
    counts = [json.loads((folder / run / "summary.json").read_text())["demonstrations"] for run in ("run", "resumed")]
    assert counts == [16, 16]


@pytest.mark.slow
def test_the_last_step_is_evaluated_even_if_it_was_not_due(trained):
    folder, _ = trained
    hapo(folder, "train", *ARGUMENTS, "eval_every=3", "hydra.run.dir=odd")
    table = read_metrics(folder / "odd")
    assert table["heldout/greedy"].dropna().index.tolist() == [0, 3, 4]
    assert json.loads((folder / "odd/summary.json").read_text())["seconds_evaluate"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["gate=beta"], "it had another gate"),
        (["seed=1"], "training data changed since the checkpoint was written"),
        (
            ["steps=9"],
            "over which the learning rate runs: at step 2 it was 0.000775 and would have been 0.0009; resume",
        ),
        (["steps=1"], "the checkpoint is at step 2, beyond steps=1"),
        (["resume=run/checkpoints/last.ckpt"], "that run is finished (step 4 of 4)"),
        (["resume=run/config.yaml"], "is damaged (File is not a zip file): try an older checkpoint"),
        (["hydra.run.dir=run"], "already holds a run; choose another folder with hydra.run.dir"),
        (["group_size=8", "loss.kl_coefficient=0.1"], "(group_size: 4 -> 8; loss.kl_coefficient: 0.0 -> 0.1): resume"),
    ],
)
def test_a_resume_that_does_not_fit_says_what_differs(trained, change, message):
    folder, _ = trained
    arguments = [*ARGUMENTS, "hydra.run.dir=other", "resume=run/checkpoints/step-2.ckpt", *change]
    last = dict(item.split("=", 1) for item in arguments)  # of two values for one key the later one
    done = hapo(folder, "train", *(f"{key}={value}" for key, value in last.items()), check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (folder / "other" / "policy").exists()


@pytest.mark.slow
def test_a_sweep_runs_every_job(trained):
    folder, _ = trained
    hapo(folder, "train", "-m", "model.path=./base", *SMALL, "hydra.sweep.dir=sweep", "gate=never,failure")
    runs = sorted(path.parent.name for path in (folder / "sweep").glob("*/summary.json"))
    assert len(runs) == 2
    gates = [OmegaConf.load(folder / "sweep" / run / "config.yaml").gate._target_ for run in runs]
    assert gates == ["hapo_lit.gates.NeverGate", "hapo_lit.gates.FailureGate"]


@pytest.mark.slow
def test_own_problems_from_a_file(trained):
    folder, _ = trained
    row = '{"problem": "Compute %d-1.", "solution": "\\\\boxed{%d}", "answer": "%d"}\n'
    (folder / "train.jsonl").write_text("".join(row % (n, n - 1, n - 1) for n in range(2, 12)))
    (folder / "heldout.jsonl").write_text(row % (20, 19, 19))
    small = [item for item in SMALL if not item.startswith("data.")]
    done = hapo(
        folder,
        "train",
        "experiment=finetune",
        "model.path=./base",
        "template=plain",
        "max_prompt_tokens=64",
        "data.path=train.jsonl",
        "data.heldout_path=heldout.jsonl",
        *small,
        "hydra.run.dir=own",
    )
    assert (folder / "own/summary.json").is_file()
    said = " ".join(done.stdout.split())
    assert "parameters on cpu, 1 process; learning rate 0 to" in said
    assert "problems whose teacher may be used │ 100.0%" in " ".join(done.stdout.split())


@pytest.mark.slow
def test_data_without_a_usable_teacher_is_said_out_loud(trained):
    folder, _ = trained
    short = [item if not item.startswith("max_response") else "max_response_tokens=5" for item in ARGUMENTS]
    done = hapo(folder, "train", *short, "steps=1", "hydra.run.dir=alone")
    assert "0 usable, 0 rejected, 12 too long, 0 absent" in done.stdout
    assert "warning: no teacher can be used (12 are longer than max_response_tokens)" in done.stderr
    assert "a step: " in done.stdout


# -- the base policy


def little(cache, *overrides):
    return composed(
        "pretrain",
        "steps=2",
        "prompts_per_step=4",
        "data.source.train_size=16",
        "data.source.heldout_size=2",
        f"paths.cache={cache}",
        *overrides,
    )


def test_a_base_policy_is_built_once_and_named_by_its_recipe(tmp_path, capsys, monkeypatch):
    first = pretrain.base_policy(little(tmp_path))
    assert "building the base policy" in capsys.readouterr().out
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert pretrain.base_policy(little(tmp_path)) == first
    assert "building" not in capsys.readouterr().out
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    for change in ("seed=1", "module.max_grad_norm=0.5", "steps=1"):
        assert pretrain.base_policy(little(tmp_path, change)) != first
    monkeypatch.setattr(cache_key, "_version", lambda name: f"another {name}")
    assert pretrain.base_policy(little(tmp_path)) != first
    monkeypatch.undo()
    again = pretrain.base_policy(little(tmp_path / "elsewhere"))
    assert again.name == first.name
    assert all(
        torch.equal(a, b)
        for a, b in zip(load_policy(str(first)).parameters(), load_policy(str(again)).parameters(), strict=True)
    )

    weights = (again / "model.safetensors").read_bytes()
    (again / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert pretrain.base_policy(little(tmp_path / "elsewhere")) == again
    assert f"{again} is damaged (checksum of model.safetensors) and is made again" in capsys.readouterr().err
    assert (again / "model.safetensors").read_bytes() == weights


def test_a_base_policy_that_fails_leaves_nothing_under_its_name(tmp_path, monkeypatch):
    from lightning import Trainer

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", fail)
    with pytest.raises(KeyboardInterrupt):
        pretrain.base_policy(little(tmp_path))
    assert not list(tmp_path.glob("base-*"))


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "hapo_lit", "--help"], capture_output=True, text=True, check=True)
    assert "usage: hapo VERB" in done.stdout


@pytest.mark.slow
def test_a_run_stopped_for_its_health_goes_on_under_the_other_command(trained):
    folder, _ = trained
    settings = [*ARGUMENTS, "hydra.run.dir=unwell", "callbacks.health.steps=1", "callbacks.health.entropy=100"]
    settings += ["callbacks.health.stop=[entropy]", "callbacks.health.truncated=null"]
    stopped = hapo(folder, "train", *settings, check=False)
    assert stopped.returncode == 2
    warning, error = (line for line in stopped.stderr.splitlines() if line.startswith(("warning", "hapo")))
    assert "(callbacks.health.entropy=100)" in warning
    assert "stopped after step 1 by callbacks.health.stop=[entropy], the checkpoint is" in error
    assert "callbacks.health.entropy" not in hapo(folder, "fabric", *settings, "resume=auto").stderr
    assert (folder / "unwell/summary.json").is_file()


@pytest.mark.slow
def test_rerun_prints_the_command_that_repeats_a_run(trained):
    folder, _ = trained
    (start,) = json.loads((folder / "run/run.json").read_text())["starts"]
    assert start["data"]["fingerprint"]
    assert start["hardware"]["processes"] == 1
    command = shlex.split(hapo(folder, "rerun", "run").stdout)
    assert command[:4] == ["cd", str(folder), "&&", "hapo"]
    hapo(folder, *command[4:], "hydra.run.dir=again")
    first, again = ((folder / name / "policy/model.safetensors").read_bytes() for name in ("run", "again"))
    assert first == again


@pytest.mark.slow
def test_a_deterministic_run_of_the_other_command_repeats_a_run_to_the_bit(trained):
    folder, _ = trained
    hapo(folder, "fabric", *ARGUMENTS, "deterministic=true", "hydra.run.dir=same")
    first, same = ((folder / name / "policy/model.safetensors").read_bytes() for name in ("run", "same"))
    assert first == same

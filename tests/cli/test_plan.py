"""``hapo plan``: what it prints, what it refuses in one line, and that its large preset trains in small."""

from __future__ import annotations

import copy

import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from support.builders import write_base
from support.configs import composed, rows_of, words
from support.shapes import SHAPE, shapes_of_policy
from transformers import AutoConfig, AutoModelForCausalLM

from hapo_lit import cli
from hapo_lit.cli.bootstrap import config_folder
from hapo_lit.cli.invocation import run_job
from hapo_lit.cli.plan import main

SHORT = ["model.shape.num_hidden_layers=2", "max_response_tokens=256"]


@pytest.fixture
def plan(monkeypatch, capsys, tmp_path):
    """Runs the command: what it prints to stdout and stderr, or with another status than 0 to stderr."""

    def run(*arguments, status=0):
        monkeypatch.chdir(tmp_path)
        GlobalHydra.instance().clear()
        if status:
            with pytest.raises(SystemExit) as stop:
                cli.main(["plan", *arguments])
            assert stop.value.code == status
        else:
            cli.main(["plan", *arguments])
        assert not list(tmp_path.iterdir())
        out, err = capsys.readouterr()
        return err.strip() if status else (out, err.strip())

    return run


def numbers(out, name):
    (line,) = (line for line in out.splitlines() if line.strip().startswith(name))
    return [float(word.replace(",", "")) for word in line.split(name)[1].split() if word not in ("GiB", "MiB")]


def test_the_plan_of_a_preset_in_print(plan):
    out, err = plan("experiment=qwen_math_numina_7b", "processes=8", "fabric.strategy=fsdp", "memory_gib=4", *SHORT)
    for fact in (
        "128, 16 of each process",
        "at most 6, of 16 rows and 16,384 tokens",
        "16,384 positions",
        "fsdp*",
        "11, each greedy",
        "load the model, a weight at a time from safetensors",
        "from which a checkpoint",
    ):
        assert fact in out
    weights = numbers(out, "weights")
    assert weights[0] == pytest.approx(8 * weights[1], rel=0.02)
    ddp, fsdp = numbers(out, "at most  ")
    assert ddp > fsdp > 4
    assert err.startswith(f"warning: a process holds {fsdp:.2f} GiB")
    assert "memory_gib=4" in err


@pytest.mark.slow
def test_the_default_is_planned_without_its_base_policy(plan):
    out, err = plan("memory_gib=1")
    assert err == ""  # no warning: it fits
    assert "GiB of 1.00 GiB, with" in out
    assert "102,592 parameters" in out
    assert "600 steps" in out
    assert "one process" in out
    with_adapter, _ = plan("model.lora.rank=4", "loss.kl_coefficient=0.1")
    assert "of them trained" in with_adapter
    assert "reference" not in with_adapter


def test_a_local_folders_configuration_counts_and_not_the_presets_shape(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    AutoConfig.for_model(**SHAPE).save_pretrained(folder)
    out, _ = plan("experiment=qwen_math_numina", f"model.path={folder}", "max_response_tokens=64")
    assert f"{sum(parameter.numel() for parameter in shapes_of_policy().parameters()):,} parameters" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["processes=7"], "prompts_per_step=128 is not divisible by 7 processes: set prompts_per_step=133, or take 4"),
        (["model=hf", "model.path=some/model"], "the shape of 'some/model' is not known here"),
        (["trainer.devices=8"], "there is no key 'trainer'"),
    ],
)
def test_what_can_be_seen_before_a_run_is_refused_in_one_line(plan, arguments, message):
    error = plan("experiment=qwen_math_numina", *arguments, status=2)
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.fixture(scope="module")
def preset():
    return composed("plan", "experiment=qwen_math_numina", "paths.run=run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["model.positions=null"],
            "9216 tokens, and the model has 4096 positions: lower one of them, or set model.positions",
        ),
        (["model.shape.num_key_value_heads=5"], "num_attention_heads=12 is not divisible by num_key_value_heads=5"),
        (["gate.threshold=0.95"], "gate.threshold=0.95 with 8 rollouts per group could never close"),
        (["gate.threshold=0.05"], "gate.threshold=0.05 with 8 rollouts per group could never open"),
        (["module.micro_batch_size=0"], "module.micro_batch_size must be a whole number of at least 1, got 0"),
        (["fabric.devices=0"], "fabric.devices=0 depends on the machine: set processes, such as processes=8"),
        (["processes=0"], "processes must be a whole number of at least 1, or null, got 0"),
        (["memory_gib=0"], "memory_gib must be a number above 0, or null, got 0"),
        (["precision=16-mixed"], "fabric.precision=16-mixed is not supported: set 32-true or bf16-mixed"),
        (
            ["precision=32-true", "model.attention=flash_attention_2"],
            "model.attention=flash_attention_2 does not compute in float32: set precision=bf16-mixed",
        ),
        (["model.compile=fast"], "model.compile must be true, false or a backend of"),
        (["fabric.strategy=zero"], "fabric.strategy=zero is not supported: set auto, ddp or fsdp"),
        (
            ["processes=6", "fabric.strategy=fsdp", "fabric.replicas=4"],
            "fabric.replicas=4 does not divide processes=6: set one of 1, 2, 3, 6",
        ),
        (["data.path=gone.parquet"], "data file 'gone.parquet' does not exist"),
        (["callbacks.checkpointer.best=heldout/other"], "callbacks.checkpointer.best=heldout/other is not measured"),
        (["processes=2", "consistency_every=5"], "consistency_every measures the gradient of one process"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(preset, capsys, settings, message):
    """By the entry point alone: to compose the configuration anew would take most of the time."""
    config = copy.deepcopy(preset)
    for setting in settings:
        key, _, value = setting.partition("=")
        OmegaConf.update(config, key, yaml.safe_load(value))
    with pytest.raises(SystemExit) as stop:
        run_job(main, config)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_both_commands_refuse_more_tokens_than_the_model_has_positions(tmp_path, monkeypatch, capsys):
    write_base(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    for command in ("train", "fabric"):
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit):
            cli.main([command, "model.path=base", "max_response_tokens=200"])
        assert "are 264 tokens, and the model has 256 positions" in capsys.readouterr().err


def test_plan_composes_what_fabric_composes():
    with initialize_config_dir(config_folder(), version_base="1.3"):
        fabric, planned = (compose(name, ["experiment=qwen_math_numina"]) for name in ("fabric", "plan"))
    assert {key: value for key, value in planned.items() if key not in ("processes", "memory_gib")} == fabric


@pytest.mark.slow
def test_the_large_preset_trains_a_small_model_from_local_files(tmp_path, monkeypatch):
    """All of it but its sizes: the data's columns, the prompt, the widened positions, bf16-mixed, checkpoints."""
    pd.DataFrame(rows_of("luffy46k")).to_parquet(tmp_path / "rows.parquet")
    tokenizer = words("")
    sizes = {**SHAPE, "vocab_size": len(tokenizer), "eos_token_id": 0, "max_position_embeddings": 4096}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**sizes)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    GlobalHydra.instance().clear()
    small = ["steps=1", "prompts_per_step=2", "group_size=8", "max_response_tokens=40", "max_prompt_tokens=2000"]
    small += ["data.workers=0", "data.source.heldout_share=0.3", "data.source.heldout_size=2"]
    small += [f"paths.cache={tmp_path}", "hydra.run.dir=run", "rollout=hf"]
    cli.main(["train", "experiment=qwen_math_numina", "model.path=base", "data.path=rows.parquet", *small])
    config = AutoConfig.from_pretrained(tmp_path / "run" / "policy")
    assert (config.max_position_embeddings, config.rope_parameters["rope_theta"]) == (16384, 40000.0)
    prompt = pd.read_json(tmp_path / "run" / "completions.jsonl", lines=True).prompt[0]
    assert prompt.startswith("Your task is to follow")
    assert prompt.endswith("Assistant: <think>\n")

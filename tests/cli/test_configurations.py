"""Every option in ``conf/`` composes, and names only parameters that exist; what is built from it fits together."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from omegaconf import OmegaConf
from support.configs import CONF, ELSEWHERE, composed, rows_of, targets, train, wrong_names

from hapo_lit.cli.settings import lasting_settings
from hapo_lit.cli.setup import PRESET_GROUPS, build, known_keys
from hapo_lit.training.run_state import changed

GROUPS = sorted(
    path.name for path in CONF.iterdir() if path.is_dir() and path.name not in (*PRESET_GROUPS, "fabric", "hydra")
)
OPTIONS = {group: sorted(path.stem for path in (CONF / group).glob("*.yaml")) for group in GROUPS}
DEBUG = sorted(path.stem for path in (CONF / "debug").glob("*.yaml"))


@pytest.mark.parametrize("number", range(max(map(len, OPTIONS.values()))))
def test_every_option_of_every_group_names_real_parameters(number):
    """The options of a number are composed at once: the third one of every group that has three, for example."""
    chosen = {group: options[number] for group, options in OPTIONS.items() if number < len(options)}
    config = composed("train", *(f"{group}={option}" for group, option in chosen.items()))
    OmegaConf.set_struct(config, False)
    if chosen.get("data") == "files":
        config.data.path = "train.jsonl"
    config.model.path, config.paths.run = "somewhere", "runs"
    OmegaConf.resolve(config)
    for group in chosen:
        assert list(targets(config[group])), group
        assert wrong_names(config[group]) == [], group


def test_known_keys_are_those_of_the_entry_points():
    planned = {"processes", "memory_gib"}
    assert set(composed("train")) == known_keys() - {"fabric"} - planned
    assert set(composed("pretrain")) == known_keys() - {"fabric"} - planned
    assert set(composed("fabric")) == known_keys() - {"trainer"} - planned
    assert set(composed("plan")) == known_keys() - {"trainer"}


def test_every_yaml_is_short():
    for path in CONF.rglob("*.yaml"):
        assert len(path.read_text().splitlines()) <= 75, path


def test_fabric_builds(base, tmp_path):
    config = composed("fabric", f"model.path={base}", f"paths.run={tmp_path}", "data.source.train_size=40")
    assert wrong_names(config) == []
    fabric, _, module, loggers, callbacks = build(config, "fabric", "data", "module", "logger", "callbacks")
    assert (fabric.world_size, len(loggers), module.phases.steps) == (1, 2, config.steps)
    assert [type(callback).__name__ for callback in callbacks][-2:] == ["Checkpointer", "ProgressBar"]


def test_pretrain_builds():
    config = composed("pretrain", "data.source.train_size=8", "data.source.heldout_size=4")
    assert wrong_names(config) == []
    _, module, trainer = build(config, "data", "module", "trainer")
    assert trainer.max_epochs == 1
    assert sum(parameter.numel() for parameter in module.policy.parameters()) == 102_592


@pytest.mark.parametrize("option", DEBUG)
@pytest.mark.parametrize("verb", ["train", "fabric"])
def test_debug_configurations_build_without_network_or_base_policy(tmp_path, verb, option):
    config = composed(verb, f"debug={option}", f"paths.run={tmp_path}")
    data, module = build(config, "data", "module")
    assert config.model.path == "none"
    assert data.training_set.size == 8
    assert {phase.algorithm.group_size for phase in module.phases} == {4}


def test_overfitting_sees_the_same_problems_in_every_step():
    config = composed("train", "debug=overfit")
    assert config.prompts_per_step == config.data.source.train_size


@pytest.mark.parametrize("preset", [*ELSEWHERE, "smoke", "chord"])
def test_a_debug_configuration_replaces_model_and_data_of_any_preset_and_keeps_its_method(preset):
    config, quick = (
        OmegaConf.to_container(composed("train", f"experiment={preset}", *debug), resolve=False)
        for debug in ([], ["debug=fast"])
    )
    assert quick["data"]["source"]["_target_"] == "hapo_lit.data.arithmetic.Arithmetic"
    assert quick["rollout"]["_target_"] == "hapo_lit.rollout.hf.HFEngine"
    for key in ("gate", "injector", "advantage", "weighting", "teacher", "loss", "algorithm", "group_size"):
        assert quick[key] == config[key]


@pytest.mark.parametrize("shape", ["numina", "numina_cot", "openr1", "luffy46k"])
def test_every_data_set_reaches_the_policy_from_local_files(base, tmp_path, shape):
    file = tmp_path / "rows.parquet"
    pd.DataFrame(rows_of(shape)).to_parquet(file)
    (tmp_path / "evaluation.jsonl").write_text(json.dumps({"problem": "what is  4-1 in the list?"}) + "\n")
    config = train(
        base,
        tmp_path,
        f"data={shape}",
        f"data.path={file}",
        f"data.evaluation_path={tmp_path / 'evaluation.jsonl'}",
        f"paths.cache={tmp_path / 'cache'}",
        "data.source.heldout_share=0.2",
        "data.buffer=16",
        "prompts_per_step=8",
        "verifier=math",
        "data.workers=0",
        "model.tokenizer._target_=support.configs.words",
    )
    (data,) = build(config, "data")
    batch = next(iter(data.train_dataloader()))
    assert batch.teacher_usable.all()
    assert len(set(batch.answers)) == 8
    assert "overlaps_evaluation" in data.dropped()
    facts = data.describe()
    assert facts["teacher_accuracy"] == 1.0
    assert facts["heldout_problems"] > 2
    if shape == "numina":
        assert "proof" in data.dropped()
        assert "marked_invalid" in data.dropped()
    if shape == "openr1":  # the longer of two right solutions
        assert data.sample()[1].count("twice") == 1


def test_the_same_data_may_lie_elsewhere_when_a_run_resumes():
    """Their contents are compared, and not their paths."""
    here, there = (
        composed("train", "data=files", f"data.path={folder}/a.jsonl", f"data.heldout_path={folder}/b.jsonl")
        for folder in ("here", "there")
    )
    assert not changed(lasting_settings(here), lasting_settings(there))

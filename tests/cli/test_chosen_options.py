"""Options on the command line that lack settings of the preset."""

from __future__ import annotations

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from support.configs import composed

from hapo_lit.cli.chosen_options import leave_out_settings_of_others


@pytest.mark.parametrize("preset", ["finetune", "grpo", "sft_then_grpo", "smoke", "smollm_gsm"])
def test_a_constant_learning_rate_is_what_the_preset_starts_at(capsys, preset):
    overrides = [f"experiment={preset}", "learning_rate=constant"]
    config = composed("train", *overrides)
    start = config.learning_rate.start
    leave_out_settings_of_others(config, overrides)
    assert instantiate(config.learning_rate)(0.5) == start
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hapo: the learning_rate that was chosen has no start, end")
    assert line.endswith(f"which the preset sets: left out (value={start})")


@pytest.mark.parametrize(
    ("overrides", "key", "left"),
    [
        (["experiment=finetune", "learning_rate=linear"], "learning_rate", {"start": 1e-6, "end": 1e-7}),
        (["experiment=hapo_annealed", "gate=never"], "gate", {}),
        (["experiment=chord", "weighting=token_mean"], "weighting", {}),
        (["experiment=finetune", "verifier=exact"], "verifier", {}),
        (["experiment=hapo", "gate=beta"], "gate", None),
        (["experiment=grpo"], "learning_rate", None),
        (["learning_rate=constant", "learning_rate.value=3e-3"], "learning_rate", {"value": 3e-3}),
    ],
)
def test_what_an_option_lacks_is_left_out_and_nothing_else(capsys, overrides, key, left):
    config, before = (composed("train", *overrides) for _ in range(2))
    leave_out_settings_of_others(config, overrides)
    said = capsys.readouterr().err
    if left is None:
        assert config == before
        assert said == ""
    else:
        assert {name: value for name, value in config[key].items() if name != "_target_"} == left
    after, before = (OmegaConf.to_container(settings, resolve=False) for settings in (config, before))
    assert {**after, key: None} == {**before, key: None}


def test_what_the_command_line_sets_stays_to_be_refused(capsys):
    overrides = ["experiment=grpo", "learning_rate=constant", "learning_rate.end=0.5"]
    config = composed("train", *overrides)
    leave_out_settings_of_others(config, overrides)
    assert config.learning_rate.end == 0.5
    assert "start" not in config.learning_rate

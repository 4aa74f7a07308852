"""Values are checked by the types of the parameters that get them, and settings that say the same must agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf
from support.configs import composed

from hapo_lit.cli.checks import check_devices, check_settings_agree
from hapo_lit.cli.kinds_of_values import check_values
from hapo_lit.errors import SetupError


class Annotated:
    """A part of one's own."""

    def __init__(
        self,
        count: int = 1,
        share: float = 0.5,
        on: bool = False,
        mode: Literal["low", "high"] = "low",
        limit: float | None = None,
        ids: Sequence[int] = (),
        pair: tuple[float, float] = (0.0, 1.0),
        weights: Mapping[str, float] | None = None,
        word: str = "",
        anything: Any = None,
        **others: int,
    ) -> None: ...


def unannotated(word, on=False): ...


def function(target: str = "Annotated", **values: object):
    return OmegaConf.create({"paths": {"cache": "x"}, "part": {"_target_": f"{__name__}.{target}", **values}})


def says(config):
    with pytest.raises(SetupError) as error:
        check_values(config)
    return str(error.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"count": 1.5}, "part.count must be a whole number, got 1.5"),
        ({"count": 1e3}, "part.count must be a whole number, got 1000.0 (a whole number has no point and no e: 1000)"),
        ({"count": True}, "part.count must be a whole number, got True"),
        ({"count": 2**63}, "part.count must be a whole number below 2^63, got 9223372036854775808"),
        ({"count": None}, "part.count must be a whole number, got null"),
        ({"share": float("nan")}, "part.share must be a number, got nan"),
        ({"share": "0.5"}, "part.share must be a number, got '0.5'"),
        ({"on": "no"}, "part.on must be true or false, got 'no'"),
        ({"on": 1}, "part.on must be true or false, got 1"),
        ({"on": None}, "part.on must be true or false, got null"),
        ({"mode": "hgih"}, "part.mode must be low or high, got 'hgih'"),
        ({"limit": "off"}, "part.limit must be a number or null, got 'off'"),
        ({"ids": 5}, "part.ids must be a list, such as [a, b], got 5"),
        ({"ids": ["a"]}, "part.ids must be a list, each of which is a whole number, got ['a']"),
        ({"pair": [0.5]}, "part.pair must be a list of 2, got [0.5]"),
        ({"weights": {"a": "high"}}, "part.weights must be a number or null, got {'a': 'high'}"),
        ({"more": "x"}, "part.more must be a whole number, got 'x'"),
        ({"_partial_": None}, "part._partial_ must be true or false, got None"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_key(value, message):
    assert says(function(**value)) == message


@pytest.mark.parametrize(
    "value",
    [
        {"count": 3, "share": 1, "on": True, "mode": "high", "limit": None, "ids": [1, 2], "pair": [0, 1.5]},
        {"share": float("inf"), "limit": 2, "weights": {"a": 1}, "anything": "no", "more": 3},
        {"word": 7},  # what a part of one's own makes of a number is its own business
        {"count": {"_target_": "builtins.int"}},  # what that makes is not known yet
    ],
)
def test_values_of_these_types_pass_and_so_does_anything_without_an_annotation(value):
    check_values(function(**value))
    check_values(function("unannotated", word=5, on="no"))
    check_values(OmegaConf.create({"paths": {"cache": "x"}, "part": {"_target_": "no_such_module.Part", "on": "no"}}))


@pytest.fixture(scope="module")
def config():
    return composed("train", "experiment=smoke", "paths.run=run", "weighting=separate", "verifier=math")


@pytest.fixture
def changed(config):
    def change(settings):
        other = config.copy()
        for setting in settings.split(" "):
            key, _, value = setting.partition("=")
            OmegaConf.update(other, key, OmegaConf.create(f"value: {value}").value, force_add=True)
        return other

    return change


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("allow_changes='no'", "allow_changes must be true or false, got 'no'"),
        ("gate.allow_degenerate='off'", "gate.allow_degenerate must be true or false, got 'off'"),
        ("verifier.workers=1.5", "verifier.workers must be a whole number, got 1.5"),
        ("steps=true", "steps must be a whole number, got True"),
        ("group_size=abc", "group_size must be a whole number, got 'abc'"),
        ("loss.kl_coefficient=null", "loss.kl_coefficient must be a number, got null"),
        ("optim.betas=0.9", "optim.betas must be a list of 2, such as [a, b], got 0.9"),
        ("optim.weight_decay=abc", "optim.weight_decay must be a number, got 'abc'"),
        ("callbacks.progress=5", "callbacks.progress must be a callback (an object with a _target_) or null, got 5"),
        ("logger.0.name=.nan", "logger.0.name must be a text or null, got nan"),
        ("data.source.levels.0.digits=1.5", "data.source.levels.0.digits must be a whole number, got 1.5"),
    ],
)
def test_the_key_is_the_one_that_a_user_sets(changed, setting, message):
    assert says(changed(setting)) == message


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("trainer.val_check_interval=7", "trainer.val_check_interval=7 contradicts eval_every=20"),
        ("trainer.max_steps=1", "trainer.max_steps=1 contradicts the run's own settings"),
        ("trainer.max_time=00:00:01:00", "trainer.max_time="),
        ("trainer.gradient_clip_val=1.0", "trainer.gradient_clip_val=1.0 contradicts"),
        (
            "callbacks.checkpointer.evaluate_every=3",
            "callbacks.checkpointer.evaluate_every=3 contradicts",
        ),
        ("rollout.max_new_tokens=1000", "rollout.max_new_tokens=1000 is more than max_response_tokens=32"),
        ("module.temperature=2.0", "module.temperature=2.0 contradicts rollout.temperature=1.0"),
    ],
)
def test_settings_that_contradict_those_of_the_run_are_refused(changed, setting, message):
    with pytest.raises(SetupError) as error:
        check_settings_agree(changed(setting))
    assert message in str(error.value)


def test_a_slip_of_the_finger_does_not_start_a_million_processes():
    check_devices(OmegaConf.create({"accelerator": "auto", "devices": 2}))
    check_devices(OmegaConf.create({"accelerator": "cuda", "devices": "auto"}))
    for devices in (1_000_000, "1000000"):
        with pytest.raises(SetupError, match="devices=1000000 would start so many processes"):
            check_devices(OmegaConf.create({"accelerator": "auto", "devices": devices}))


def test_settings_that_agree_pass(config, changed):
    check_settings_agree(config)
    check_settings_agree(changed("trainer.log_every_n_steps=5 rollout.max_new_tokens=8"))

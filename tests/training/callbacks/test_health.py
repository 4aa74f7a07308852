"""What the metrics of a run say of its health: said once, and again when it has come back; or the run stops."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from support.training import data, fit, hapo, module, phase

from hapo_lit.errors import UnhealthyError
from hapo_lit.numerics.ranges import SettingError
from hapo_lit.training.callbacks.checkpointer import Checkpointer
from hapo_lit.training.callbacks.health import KINDS, Health

RANK_0, RANK_1 = (SimpleNamespace(loggers=[], is_global_zero=first, limit_val_batches=None) for first in (True, False))
GOOD = {
    "success/rate": 0.02,
    "signal/flat_before": 0.98,
    "response/truncated": 0.3,
    "loss/entropy": 0.1,
    "loss/kl": 0.02,
    "loss/ratio_above_2": 0.01,
    "verify/timeout": 0.0,
    "verify/worker_died": 0.0,
    "time/data": 0.01,
    "time/step": 1.0,
}
"""Metrics of a step of plain GRPO on the default task."""
BAD = {
    "truncated": {"response/truncated": 0.6},
    "dead_reward": {"success/rate": 0.0, "signal/flat_before": 1.0},
    "entropy": {"loss/entropy": 0.001},
    "kl": {"loss/kl": 1.5},
    "ratio": {"loss/ratio_above_2": 0.2},
    "verifier": {"verify/timeout": 0.004, "verify/worker_died": 0.004},
    "data": {"time/data": 2.0},
}


@pytest.fixture
def built(make_policy, tokenizer):
    return module(make_policy(), tokenizer, phase(hapo()))


@pytest.fixture
def said(built, tmp_path, capsys):
    """Runs steps with these metrics through a callback; gives the lines that are printed."""

    def run(health, *steps, trainer=RANK_0):
        health.on_fit_start(trainer, built)
        for metrics in steps:
            built.step += 1
            built.metrics = GOOD | metrics
            health.on_train_batch_end(trainer, built)
        return capsys.readouterr().err.splitlines()

    return run


def watching(folder, **settings):
    return Health(str(folder), **{"steps": 2, "dead_reward": 2, **settings})


@pytest.mark.parametrize("kind", BAD)
def test_each_kind_is_said_once_with_its_key_after_so_many_steps_in_a_row(said, tmp_path, kind):
    bad = BAD[kind]
    assert not said(watching(tmp_path), bad, {}, bad, {}, bad)
    (line,) = said(watching(tmp_path), bad, bad, bad, bad)
    assert line.startswith("warning: step ")
    assert f"(callbacks.health.{kind}=" in line
    assert not said(watching(tmp_path, **{kind: None}), bad, bad, bad)


def test_trouble_is_said_again_only_when_it_has_gone_away_and_come_back(said, tmp_path):
    bad = BAD["truncated"]
    lines = said(watching(tmp_path), *[bad] * 5, {}, *[bad] * 5, {}, {}, *[bad] * 5)
    assert [line.split(",")[0] for line in lines] == ["warning: step 2", "warning: step 15"]


def test_a_full_disk_is_said_at_once_and_counts_the_next_checkpoint(said, built, tmp_path):
    (line,) = said(Health(str(tmp_path), disk=1e9), {})
    assert "callbacks.health.disk=1e+09" in line
    health = Health(str(tmp_path))
    health.on_fit_start(RANK_0, built)
    weights = sum(weight.nbytes for weight in built.policy.parameters())
    assert health._checkpoint_gib * 2**30 == pytest.approx(3 * weights)


def test_all_responses_right_is_another_cause_than_all_wrong(said, tmp_path):
    right = {"success/rate": 1.0, "signal/flat_before": 1.0}
    assert "take harder ones" in said(watching(tmp_path), right, right)[0]


def test_numbers_that_a_step_does_not_have_count_neither_way(said, built, tmp_path):
    """A supervised phase has no rollouts, a batch of flat groups no entropy."""
    health, bad = watching(tmp_path, disk=None), BAD["entropy"]
    assert not said(health, bad)
    built.metrics = {}
    health.on_train_batch_end(RANK_0, built)
    assert len(said(health, bad)) == 1


def test_a_run_that_resumes_says_what_it_would_have_said(said, built, tmp_path):
    bad = BAD["truncated"]
    assert not said(watching(tmp_path), bad)
    built.load_run_state(built.run_state())
    assert len(said(watching(tmp_path), bad)) == 1
    built.load_run_state(built.run_state())
    assert not said(watching(tmp_path), bad, bad)
    earlier = built.run_state()
    del earlier["callbacks"]  # as versions without this memory wrote it
    built.load_run_state(earlier)
    assert len(said(watching(tmp_path), bad, bad)) == 1


def test_the_state_of_a_run_does_not_depend_on_its_machine(said, built, tmp_path):
    health = watching(tmp_path, disk=1e9)
    assert len(said(health, BAD["data"], BAD["data"])) == 2
    assert not built.callback_memory["health"].keys() & {"data", "disk"}


def test_rank_0_alone_prints_and_all_ranks_count(said, built, tmp_path):
    bad = BAD["kl"]
    assert not said(watching(tmp_path, stop=["kl"]), bad, bad, trainer=RANK_1)
    assert built.stop_reason == "callbacks.health.stop=[kl]"


def test_a_kind_that_stops_the_run_leaves_a_checkpoint(make_policy, tokenizer, tmp_path, capsys):
    built = module(make_policy(), tokenizer, phase(hapo()))
    checkpointer = Checkpointer(str(tmp_path), every=100, evaluate_every=100, best=None)
    health = Health(str(tmp_path), steps=2, entropy=100.0, stop=["entropy"])
    with pytest.raises(UnhealthyError, match=r"after step 2 by callbacks.health.stop=\[entropy\], .*step-2.ckpt"):
        fit(built, data(tokenizer), watch=[health, checkpointer])
    assert checkpointer.folder.steps() == [2]
    assert "callbacks.health.entropy=100" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"truncated": 2.0}, "truncated must be in"),
        ({"dead_reward": 0}, "dead_reward must be a whole number of at least 1"),
        ({"kl": 0.0}, "kl must be a number above 0"),
        ({"steps": 0}, "steps must be"),
        ({"stop": ["gap"]}, "stop must be a list of truncated, dead_reward"),
        ({"stop": ["kl"], "kl": None}, "stop names kl, which is not looked at"),
    ],
)
def test_bounds_that_cannot_be_are_refused(tmp_path, settings, message):
    with pytest.raises(SettingError, match=message):
        Health(str(tmp_path), **settings)


def test_every_kind_has_a_key_that_is_null_or_a_number(tmp_path):
    assert not Health(str(tmp_path), **dict.fromkeys(KINDS)).bounds

"""The list of what a run logs, compared with runs and README."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import Callback
from support.configs import train

from hapo_lit.cli.setup import build
from hapo_lit.training.metric_names import CONDITIONAL, PERIODIC, STEPWISE, listed, page

ROOT = Path(__file__).parents[2]
SMALL = [
    "steps=3",
    "eval_every=3",
    "data.source.train_size=8",
    "data.source.heldout_size=2",
    *(f"data.source.levels.{level}.{field}" for level in (0, 1) for field in ("digits=1", "operation=+")),
    "teacher_errors=none",
    "prompts_per_step=4",
    "max_response_tokens=16",
    "callbacks=bare",
]
RUNS = {
    "hapo": ["experiment=hapo"],
    "grpo": ["experiment=grpo"],
    "sft_then_hapo": ["experiment=sft_then_hapo", "phases.sequence.warmup.steps=2"],
    "others": ["gate=scheduled", "verifier=weighted", "loss.kl_coefficient=0.1"],
}
NOT_RUN = {"loss/correction", "loss/engine_gap", "time/engine"}
"""They need an engine that is not the trainer; ``test_losses.py`` has them."""


class Recorder(Callback):
    def __init__(self):
        self.steps, self.heldout = [], {}

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.steps.append(dict(pl_module.metrics))

    def on_validation_end(self, trainer, pl_module):
        self.heldout |= pl_module.heldout


@pytest.fixture(scope="module")
def logged(base, tmp_path_factory):
    """Run -> what its steps and evaluations logged."""
    kept = {}
    for name, settings in RUNS.items():
        small = [*SMALL, "trainer.logger=false", "+trainer.enable_progress_bar=false", "trainer.callbacks=null"]
        config = train(base, tmp_path_factory.mktemp(name), *small, *settings)
        data, module, trainer = build(config, "data", "module", "trainer")
        kept[name] = Recorder()
        trainer.callbacks.append(kept[name])
        trainer.fit(module, datamodule=data)
    return kept


def names(keep):
    return {listed(name) for step in keep.steps for name in step}


def test_everything_that_is_logged_is_listed(logged):
    for keep in logged.values():
        assert names(keep) <= set(STEPWISE)
        assert {listed(name) for name in keep.heldout} == {"heldout/<name>", "time/evaluate"}
        assert all(math.isfinite(value) for step in keep.steps for value in step.values())


def test_everything_that_is_listed_is_logged_by_a_run(logged):
    assert set.union(*map(names, logged.values())) == set(STEPWISE) - NOT_RUN


def test_what_is_not_conditional_is_logged_at_every_step_with_rollouts(logged):
    for run in ("hapo", "grpo", "others"):
        for step in logged[run].steps:
            assert {listed(name) for name in step} >= set(STEPWISE) - set(CONDITIONAL), run


def test_a_supervised_step_logs_no_rollouts(logged):
    first, *_, last = logged["sft_then_hapo"].steps
    assert {listed(name).split("/")[0] for name in first} == {"teacher", "loss", "update", "time"}
    assert "reward/mean" in last


def test_conditions_are_of_names_that_are_listed():
    assert set(CONDITIONAL) <= set(STEPWISE)
    assert not set(STEPWISE) & set(PERIODIC)


def test_a_name_is_listed_as_itself_or_as_its_family():
    assert listed("reward/mean") == "reward/mean"
    assert listed("reward/4-digit") == "reward/<label>"
    assert listed("verify/from_box") == "verify/from_<route>"
    assert listed("verify/no_answer") == "verify/<reason>"
    assert listed("heldout/greedy") == "heldout/<name>"
    with pytest.raises(KeyError):
        listed("loss/unheard_of")


def test_the_readme_has_the_list():
    assert page() in (ROOT / "README.md").read_text()

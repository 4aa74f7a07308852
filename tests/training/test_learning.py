"""The claim: HAPO pulls the base policy out of the collapse that GRPO cannot leave.

With problems of three digits, of which the base policy costs a fifth of the default's: seed 0 of HAPO was after 110
steps at 48 % greedy and 30 % sampled, with the teacher in 72 % of the groups of the first tenth and in 21 % of the
last.  After 30 steps of GRPO seed 0 was at 0 % and 0.5 %, with 95 % of its groups flat.  A better base policy leaves
the collapse on its own now and then (of 600 steps: 11 % after 40 steps of GRPO); one of 400 steps learns too slowly.
The default experiment is exhaustive.
"""

from __future__ import annotations

import pytest
from filelock import FileLock
from hydra.core.global_hydra import GlobalHydra
from support.configs import composed
from support.once import few_of

from hapo_lit import analysis
from hapo_lit.cli import pretrain
from hapo_lit.cli.setup import build

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def levels(*digits_of):
    """The setting for problems of these operations and numbers of digits."""
    level = "{_target_: hapo_lit.data.arithmetic.Level, operation: '%s', digits: %d, weight: %g}"
    return f"data.source.levels=[{','.join(level % of for of in digits_of)}]"


EASY = levels(("+", 1, 0.06), ("+", 2, 0.1), ("+", 3, 0.54), ("-", 1, 0.1), ("-", 2, 0.2))
SETTINGS = {"default": ([], []), "short": ([EASY, "steps=500", "prompts_per_step=32"], [levels(("-", 3, 1))])}
"""Of the base policy, and of the runs that start from it."""


@pytest.fixture(scope="module", params=few_of(list(SETTINGS), ["short"]))
def start(request):
    """Settings of runs from a base policy, which is built once per machine; a lock, as two test processes may ask."""
    easy, hard = SETTINGS[request.param]
    config = composed("pretrain", *easy)
    with FileLock(config.paths.cache + ".lock"):
        return [f"model.path={pretrain.base_policy(config)}", *hard]


def trained(folder, steps, *overrides):
    config = composed("train", f"paths.run={folder}", f"steps={steps}", f"eval_every={steps}", *overrides)
    data, module, trainer = build(config, "data", "module", "trainer")
    trainer.validate(module, datamodule=data, verbose=False)
    trainer.fit(module, datamodule=data)
    GlobalHydra.instance().clear()
    return analysis.summarise(folder, data.describe()), analysis.read_metrics(folder)


def test_hapo_leaves_the_collapse_and_its_teacher(start, tmp_path):
    summary, steps = trained(tmp_path, 110, *start)
    assert summary["greedy_before"] < 0.08
    assert summary["sampled_before"] < 0.08
    assert summary["greedy_after"] > 0.35
    assert summary["sampled_after"] > 0.2
    assert summary["teacher_use_first"] > 0.4
    assert summary["teacher_use_last"] < 0.3
    assert (steps["teacher/beside_success"].dropna() == 0).all()  # this gate opens on all-wrong groups only


def test_grpo_stays_collapsed(start, tmp_path):
    summary, _ = trained(tmp_path, 30, *start, "experiment=grpo")
    assert summary["greedy_after"] < 0.08
    assert summary["sampled_after"] < 0.08
    assert summary["flat_before_last"] > 0.9
    assert summary["demonstrations"] == 0

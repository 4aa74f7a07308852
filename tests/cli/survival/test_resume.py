"""A run that resumes from a checkpoint ends exactly where an undisturbed one does."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
import pytest
import torch
from support.once import few_of
from support.survival import RUN, STEPS, VERBS, assert_same_end, checkpoints

from hapo_lit.analysis import read_metrics
from hapo_lit.training.checkpoint_format import load

pytestmark = pytest.mark.slow


def test_these_runs_have_something_to_lose(work):
    """The policy changes at most steps, groups differ, the gate opens sometimes and remembers, one checkpoint is
    best."""
    table = read_metrics(work / "train").loc[1:]
    assert (table["update/gradient_norm"] > 0).mean() > 0.8
    assert table["reward/mean"].between(0.1, 0.9).mean() > 0.8
    assert table["gate/open_rate"].nunique() > 2
    visits = pd.read_csv(work / "train/groups.csv")["prompt"].value_counts()
    assert visits.min() > 2
    weights = [load(checkpoints(work / "train") / f"step-{step}.ckpt")["module"] for step in range(1, STEPS + 1)]
    assert sum(any(not torch.equal(a[name], b[name]) for name in a) for a, b in pairwise(weights)) >= 9
    assert (checkpoints(work / "train") / "best.ckpt").resolve().name == "step-8.ckpt"


def test_both_entry_points_end_in_the_same_place(work):
    assert_same_end(work / "fabric", work / "train")


EVERY_STEP = [(verb, step) for verb in VERBS for step in range(1, STEPS)]


@pytest.mark.parametrize(("verb", "step"), few_of(EVERY_STEP, [("train", 1), ("fabric", 4), ("train", 11)]))
def test_a_run_goes_on_from_any_step(runs, work, verb, step):
    run = f"{verb}-{step}"
    checkpoint = checkpoints(work / verb) / f"step-{step}.ckpt"
    done = runs.run(work, verb, *RUN, f"hydra.run.dir={run}", f"resume={checkpoint}")
    assert done.returncode == 0, done.stderr
    assert f"resuming after step {step} of {STEPS} from {checkpoint}" in done.stdout.replace("\n", "")
    assert_same_end(work / run, work / verb)


CHANGES = [(*verbs, step) for verbs in (VERBS, VERBS[::-1]) for step in (3, 8, 11)]


@pytest.mark.parametrize(("verb", "other", "step"), few_of(CHANGES, [("train", "fabric", 3), ("fabric", "train", 8)]))
def test_each_entry_point_goes_on_from_the_others_checkpoint(runs, work, verb, other, step):
    run = f"{verb}-after-{other}-{step}"
    checkpoint = checkpoints(work / other) / f"step-{step}.ckpt"
    done = runs.run(work, verb, *RUN, f"hydra.run.dir={run}", f"resume={checkpoint}")
    assert done.returncode == 0, done.stderr
    assert_same_end(work / run, work / verb)


@pytest.mark.parametrize("verb", few_of(VERBS, ["train"]))
def test_a_finished_run_may_be_made_longer_where_its_learning_rate_allows_it(runs, work, verb):
    """It then ends where a run of that length ends, whose learning rates were the same."""
    settings = [*RUN, "learning_rate=constant", "learning_rate.value=1e-3", "callbacks.checkpointer.keep=1"]
    for folder, steps in (("short", 8), ("long", STEPS)):
        done = runs.run(work, verb, *settings, f"steps={steps}", f"hydra.run.dir={folder}-{verb}")
        assert done.returncode == 0, done.stderr
    done = runs.run(work, verb, *settings, "resume=auto", f"hydra.run.dir=short-{verb}")
    assert done.returncode == 0, done.stderr
    assert f"resuming after step 8 of {STEPS}" in done.stdout
    assert_same_end(work / f"short-{verb}", work / f"long-{verb}")

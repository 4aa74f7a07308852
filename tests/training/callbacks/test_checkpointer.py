"""When checkpoints are saved."""

from __future__ import annotations

import pytest
from support.training import data, fit, hapo, module, phase

from hapo_lit.training.callbacks.checkpointer import Checkpointer


@pytest.mark.parametrize(("minutes", "saved"), [(1e-9, [1, 2, 3, 4]), (60.0, [3, 4]), (None, [3, 4])])
def test_checkpoints_are_saved_by_steps_by_the_clock_and_at_the_end(make_policy, tokenizer, tmp_path, minutes, saved):
    checkpointer = Checkpointer(str(tmp_path), every=3, evaluate_every=100, minutes=minutes, keep=-1, best=None)
    fit(module(make_policy(), tokenizer, phase(hapo())), data(tokenizer), watch=checkpointer)
    assert checkpointer.folder.steps() == saved


def test_a_checkpoint_that_was_found_best_after_it_was_written_stays_the_best(tmp_path):
    checkpointer = Checkpointer(str(tmp_path), every=3, evaluate_every=100, keep=2)
    for step in (3, 6):
        checkpointer.folder.write(step, {}, best=True)
    state = {"best": (0.5, 3), "run": {"step": 6}}  # of step 6, whose evaluation came later
    checkpointer.resume(state, is_rank_0=True)
    assert checkpointer.folder.best() == 6
    checkpointer.folder.path(6).unlink()  # a mark without its checkpoint gives way
    checkpointer.resume(state, is_rank_0=True)
    assert checkpointer.folder.best() == 3

"""A run's folder is written without following links out of it."""

from __future__ import annotations

import os

import pytest

from hapo_lit.analysis.runs import LOCK
from hapo_lit.analysis.summary import summarise
from hapo_lit.cli.run_folder import lock_folder
from hapo_lit.errors import SetupError


def test_a_lock_that_links_elsewhere_empties_nothing(tmp_path):
    (tmp_path / "thesis.txt").write_text("chapter one")
    run = tmp_path / "run"
    run.mkdir()
    (run / LOCK).symlink_to(tmp_path / "thesis.txt")
    with pytest.raises(SetupError, match=r"run/.lock cannot be opened .*: remove it"):
        lock_folder(run)
    assert (tmp_path / "thesis.txt").read_text() == "chapter one"


def test_a_pipe_in_the_place_of_the_lock_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / LOCK)
    with lock_folder(tmp_path) as lock:
        assert not lock.closed


def test_a_folder_is_locked_again_once_it_is_free(tmp_path):
    for _ in range(2):
        lock_folder(tmp_path / "run").close()
        assert (tmp_path / "run" / LOCK).is_file()


def test_a_summary_that_links_elsewhere_takes_the_links_place(tmp_path):
    (tmp_path / "thesis.json").write_text("{}")
    run = tmp_path / "run"
    (run / "logs").mkdir(parents=True)
    (run / "metrics.csv").write_text("step,time/step,teacher/use,teacher/rows\n1,0.5,0.0,0\n")
    (run / "summary.json").symlink_to(tmp_path / "thesis.json")
    facts = {"heldout_problems": 1.0, "teacher_accuracy": 1.0, "teacher_accepted": 1.0}
    summarise(run, facts)
    assert (tmp_path / "thesis.json").read_text() == "{}"
    assert not (run / "summary.json").is_symlink()

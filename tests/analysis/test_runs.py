"""Run folders in any state become values; what cannot be read is named."""

from __future__ import annotations

import pytest
from support.made_runs import write_run

from hapo_lit.analysis import Sweep, find_runs, load_run, write_report
from hapo_lit.analysis.runs import LOCK


def test_runs_are_found_at_any_depth_and_in_the_order_of_their_numbers(tmp_path):
    for name in ("10", "9", "a/2", "a/b/1"):
        write_run(tmp_path / name, steps=6)
    assert [run.name for run in find_runs(tmp_path)] == ["9", "10", "a/2", "a/b/1"]


def test_a_run_that_has_just_begun_is_unfinished(tmp_path):
    run = write_run(tmp_path / "run", until=20)
    (run / "metrics.csv").unlink()
    (run / "groups.csv").unlink()
    assert load_run(run).note == "0 of 60 steps, no summary.json"


DAMAGED = [
    ("metrics.csv", b"", "there is no metrics.csv"),
    ("metrics.csv", b"loss,reward\n1,2\n", "does not name columns, among them step"),
    ("metrics.csv", b"step,reward\n1,2\n1.5,3\n", "1 broken of 2 lines, the first is line 3"),
    ("metrics.csv", b"step,reward\n1,2\n2,high\n", "1 broken of 2 lines, the first is line 3"),
    ("metrics.csv", b"step,reward\n1,2,9\n2\n", "2 broken of 2 lines, the first is line 2"),
    ("metrics.csv", b"step,reward\n1,2\n\xff\xfe,3\n", "1 broken of 2 lines"),
    ("groups.csv", b"step,prompt\n1,2\n", "groups.csv cannot be read: it lacks open"),
    ("groups.csv", b"step,prompt,successes,trials,open,teacher\n1,2,3,x,0,0\n", "is no whole number"),
    ("summary.json", b"{", "summary.json cannot be read"),
    ("summary.json", b"[1]", "summary.json cannot be read: it is no mapping"),
    ("config.yaml", b"just text", "config.yaml cannot be read: it is no mapping"),
]


@pytest.mark.parametrize(("name", "content", "fault"), DAMAGED)
def test_a_damaged_file_is_named(tmp_path, name, content, fault):
    run = write_run(tmp_path / "run", steps=6)
    (run / name).write_bytes(content)
    read = load_run(run)
    assert read.state == "damaged"
    assert fault in read.note


def test_a_folder_that_a_refused_command_left_is_no_run(tmp_path):
    write_run(tmp_path / "good", steps=6)
    (tmp_path / "refused").mkdir()
    (tmp_path / "refused" / LOCK).touch()
    assert [run.name for run in find_runs(tmp_path)] == ["good"]


def test_a_report_of_damaged_runs_is_written_and_names_every_fault(tmp_path):
    for number, (name, content, _) in enumerate(DAMAGED):
        (write_run(tmp_path / str(number), steps=6) / name).write_bytes(content)
    assert len(Sweep(find_runs(tmp_path)).grouped) > 1
    text = write_report(tmp_path).page.read_text()
    assert all(fault in text for _, _, fault in DAMAGED)

import pandas as pd
import pytest
from support.made_runs import write_run

from hapo_lit.analysis import carry_over, load_run, read_metrics


def test_metrics_have_one_row_per_step(run_folder):
    table = read_metrics(run_folder)
    assert table.index.tolist() == list(range(21))
    assert table.loc[10, "heldout/greedy"] == 0.4
    assert table.loc[10, "teacher/use"] == 0.5


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        read_metrics(tmp_path)


def test_a_resumed_run_reads_like_one_that_ran_through(run_folder, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    carry_over(run_folder, new, step=12)
    rows = pd.read_csv(run_folder / "metrics.csv")
    rows[rows["step"] > 12].to_csv(new / "metrics.csv", index=False)
    pd.testing.assert_frame_equal(read_metrics(new), read_metrics(run_folder), check_like=True)
    third = tmp_path / "third"
    third.mkdir()
    carry_over(new, third, step=15)
    assert pd.read_csv(third / "metrics_before.csv")["step"].tolist() == list(range(16))


def test_groups_and_completions_are_carried_over_up_to_the_step(tmp_path):
    old, new = write_run(tmp_path / "old", steps=6), tmp_path / "new"
    new.mkdir()
    lines = [f'{{"step": {step}, "text": "a\\u2028b"}}\n' for step in (1, 2, 3)]
    (old / "completions.jsonl").write_text("".join(lines) + '{"step": 3, "te')
    carry_over(old, new, 2)
    assert pd.read_csv(new / "groups.csv")["step"].unique().tolist() == [1, 2]
    assert (new / "completions.jsonl").read_text() == "".join(lines[:2])


def test_a_run_that_resumes_in_its_own_folder_leaves_no_metrics_of_later_steps_and_no_drafts(tmp_path):
    run = write_run(tmp_path / "run", steps=6)
    (run / ".groups.csv.unfinished").write_text("step,pro")
    carry_over(run, run, 4)
    assert not (run / "metrics.csv").exists()
    assert not list(run.glob(".*"))
    assert read_metrics(run).index.tolist() == list(range(5))
    carry_over(run, run, 0)
    assert not [name for name in ("metrics_before.csv", "metrics.csv", "groups.csv") if (run / name).exists()]


def test_complete_lines_of_a_damaged_file_are_kept(tmp_path):
    damaged, whole = write_run(tmp_path / "damaged", beta=4), write_run(tmp_path / "whole", beta=4)
    lines = (damaged / "metrics.csv").read_text().splitlines(keepends=True)
    lines[10] = lines[10].replace(",", ";", 3)
    lines[20] = lines[20][:25] + "\n"
    (damaged / "metrics.csv").write_text("".join(lines))
    found, expected = load_run(damaged).metrics, load_run(whole).metrics
    assert len(found) == len(expected) - 2
    pd.testing.assert_frame_equal(found, expected.loc[found.index], check_dtype=False)
    with pytest.raises(ValueError, match=r"metrics\.csv: 2 broken of 67 lines, the first is line 11"):
        read_metrics(damaged)


def test_half_a_last_line_is_left_by_a_kill_and_is_no_damage(tmp_path):
    run = write_run(tmp_path / "run", until=20)
    with (run / "metrics.csv").open("a") as file:
        file.write("0.5,0.3")
    read = load_run(run)
    assert (read.state, read.steps, read.faults) == ("unfinished", 20, ())

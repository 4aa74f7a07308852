import json

import pandas as pd
import pytest

from hapo_lit.analysis import LABELS, carry_over, plot_anneal, read_run, show, summarise


@pytest.fixture
def run(tmp_path):
    """Twenty steps as a run writes them: held-out rows stand beside training rows of the same step."""
    rows = [{"step": 0, "heldout/greedy": 0.1, "heldout/sampled": 0.05}]
    for step in range(1, 21):
        rows.append(
            {
                "step": step,
                "teacher/use": 1 - step / 20,
                "teacher/rows": 2.0,
                "signal/flat_before": 0.5,
                "signal/flat": 0.25,
                "rollout/tokens": 100.0,
                "time/rollout": 0.5,
                "time/verify": 0.1,
                "time/update": 0.2,
                "time/step": 1.0,
            }
        )
        if step % 10 == 0:
            rows.append({"step": step, "heldout/greedy": step / 25, "heldout/sampled": step / 40})
    pd.DataFrame(rows).to_csv(tmp_path / "metrics.csv", index=False)
    return tmp_path


def test_summary_by_hand(run, capsys):
    summary = summarise(run, {"teacher_accuracy": 0.7, "teacher_accepted": 0.6})
    assert summary == json.loads((run / "summary.json").read_text())
    assert summary == {
        "greedy_before": 0.1,
        "greedy_after": 0.8,
        "sampled_before": 0.05,
        "sampled_after": 0.5,
        "teacher_accuracy": 0.7,
        "teacher_accepted": 0.6,
        "teacher_use_first": pytest.approx((0.95 + 0.9) / 2),
        "teacher_use_last": pytest.approx(0.025),
        "demonstrations": 40.0,
        "flat_before_last": 0.5,
        "flat_last": 0.25,
        "tokens_per_second": 200.0,
        "seconds_rollout": 10.0,
        "seconds_verify": pytest.approx(2.0),
        "seconds_update": pytest.approx(4.0),
        "seconds_step": 20.0,
        "steps": 20.0,
    }
    assert set(summary) == set(LABELS) - {"seconds_evaluate"}
    show(summary)
    assert "80.0%" in capsys.readouterr().out


def test_one_row_per_step(run):
    table = read_run(run)
    assert table.index.tolist() == list(range(21))
    assert table.loc[10, "heldout/greedy"] == 0.4
    assert table.loc[10, "teacher/use"] == 0.5


def test_the_figure_is_written(run):
    path = plot_anneal(run)
    assert path == run / "anneal.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000


def test_a_resumed_run_reads_whole(run, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    carry_over(run, new, step=12)
    rows = pd.read_csv(run / "metrics.csv")
    rows[rows["step"] > 12].to_csv(new / "metrics.csv", index=False)
    pd.testing.assert_frame_equal(read_run(new), read_run(run), check_like=True)
    third = tmp_path / "third"
    third.mkdir()
    carry_over(new, third, step=15)
    assert pd.read_csv(third / "metrics_before.csv")["step"].tolist() == list(range(16))


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        read_run(tmp_path)

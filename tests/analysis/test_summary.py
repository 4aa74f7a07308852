import json
import re

import pandas as pd
import pytest

from hapo_lit.analysis import SUMMARY_LABELS, plot_anneal, print_summary, summarise, wilson
from hapo_lit.analysis.summary import times


def test_summary_by_hand(run_folder, capsys):
    summary = summarise(run_folder, {"heldout_problems": 50, "teacher_accuracy": 0.7, "teacher_accepted": 0.6})
    assert summary == json.loads((run_folder / "summary.json").read_text())
    assert summary == {
        "greedy_before": 0.1,
        "greedy_after": 0.8,
        "sampled_before": 0.05,
        "sampled_after": 0.5,
        "heldout_problems": 50.0,
        "teacher_accuracy": 0.7,
        "teacher_accepted": 0.6,
        "teacher_use_first": pytest.approx((0.95 + 0.9) / 2),
        "teacher_use_last": pytest.approx(0.025),
        "demonstrations": 40.0,
        "last_injection": 20.0,
        "flat_before_last": 0.5,
        "flat_last": 0.25,
        "generated_tokens": 2000.0,
        "tokens_per_second": 200.0,
        "seconds_rollout": 10.0,
        "seconds_verify": pytest.approx(2.0),
        "seconds_update": pytest.approx(4.0),
        "seconds_step": 20.0,
        "seconds_sync": pytest.approx(1.0),
        "seconds_data": pytest.approx(5.0),
        "seconds_evaluate": 3.0,
        "seconds_checkpoint": 1.0,
        "seconds_rest": pytest.approx(20 * (1 - 0.5 - 0.1 - 0.2 - 0.05 + 0.15)),
        "seconds_run": pytest.approx(20 * (1 + 0.25 + 0.15) + 3 + 1),
        "tokens_per_second_of_run": pytest.approx(2000 / 32),
        "waiting_share": pytest.approx(5 / 32),
        "steps": 20.0,
    }
    assert set(summary) == set(SUMMARY_LABELS) - {"seconds_score"}
    print_summary(summary)
    printed = capsys.readouterr().out
    assert "80.0%" in printed
    shares = [float(share) for share in re.findall(r" \((\d+\.\d)%\)", printed)]
    assert len(shares) == 8
    assert sum(shares) == pytest.approx(100, abs=0.5)


def test_logs_without_the_newer_times_have_a_summary_too_and_an_engine_elsewhere_is_waited_for():
    seconds = {"time/step": 4.0, "time/rollout": 3.0, "time/engine": 3.0, "time/update": 0.5}
    found = times(pd.DataFrame([seconds, seconds]))
    assert found == {
        "seconds_step": 8,
        "seconds_rollout": 6,
        "seconds_update": 1,
        "seconds_rest": 1,
        "seconds_run": 8,
        "waiting_share": 0.75,
    }
    assert times(pd.DataFrame([{"time/step": 1.0}]))["seconds_rest"] == 1


def test_wilson_by_hand():
    low, high = wilson(0.9, 100)  # (0.9 + 1.9207/100 ± 1.96 √(0.09/100 + 3.8415/40000)) / (1 + 3.8415/100)
    assert (low, high) == (pytest.approx(0.8256, abs=1e-4), pytest.approx(0.9448, abs=1e-4))
    assert wilson(0.0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert wilson(1.0, 10)[0] == pytest.approx(1 - 0.2775, abs=1e-4)
    assert wilson(0.5, 0) == (0.0, 1.0)


def test_the_anneal_figure_is_written(run_folder):
    path = plot_anneal(run_folder)
    assert path == run_folder / "anneal.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000

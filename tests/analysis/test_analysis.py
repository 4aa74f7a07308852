import json

import numpy as np
import pandas as pd
import pytest
import torch

from hapo_lit import analysis
from hapo_lit.analysis import SUMMARY_LABELS, carry_over, plot_anneal, print_summary, read_metrics, summarise
from hapo_lit.gates import BetaGate, FailureGate, Memory, ThompsonSample
from hapo_lit.schedules import Linear


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
    summary = summarise(run, {"heldout_problems": 50, "teacher_accuracy": 0.7, "teacher_accepted": 0.6})
    assert summary == json.loads((run / "summary.json").read_text())
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
        "steps": 20.0,
    }
    assert set(summary) == set(SUMMARY_LABELS) - {"seconds_evaluate"}
    print_summary(summary)
    assert "80.0%" in capsys.readouterr().out


def test_one_row_per_step(run):
    table = read_metrics(run)
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
    pd.testing.assert_frame_equal(read_metrics(new), read_metrics(run), check_like=True)
    third = tmp_path / "third"
    third.mkdir()
    carry_over(new, third, step=15)
    assert pd.read_csv(third / "metrics_before.csv")["step"].tolist() == list(range(16))


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        read_metrics(tmp_path)


# -- the gate against its law


def groups_of_still_prompts(folder, gate, trials=4, prompts=400, visits=40, rates=None):
    """Prompts whose pass rates never change (spread evenly unless given), through a gate, as a run would write them."""
    draw = np.random.default_rng(0)
    rates, ids = draw.random(prompts) if rates is None else np.resize(rates, prompts), torch.arange(prompts)
    rows = []
    for visit in range(visits):
        won = torch.from_numpy(draw.binomial(trials, rates))
        gate.observe(ids, won, torch.full_like(won, trials))
        opened = gate(ids, (torch.arange(trials) < won[:, None]).float()).open.int()
        rows += [
            (visit + 1, *row, 0)
            for row in zip(ids.tolist(), won.tolist(), [trials] * prompts, opened.tolist(), strict=True)
        ]
    columns = ["step", "prompt", "successes", "trials", "open", "teacher"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "groups.csv", index=False)


@pytest.mark.parametrize(
    "gate",
    [BetaGate(0.4), BetaGate(0.8, ThompsonSample()), BetaGate(Linear(0.9, 0.0), horizon=40), FailureGate(1)],
    ids=["mean", "thompson", "annealed", "failure"],
)
def test_where_rates_stand_still_a_gate_opens_as_its_law_predicts(tmp_path, gate):
    groups_of_still_prompts(tmp_path, gate)
    report = analysis.write_injection(tmp_path, gate.open_probability)
    assert len(report) == 10
    assert report["groups"].sum() == 400 * 40
    assert report["pass_rate"].is_monotonic_increasing
    assert (report["observed"] - report["predicted"]).abs().max() < 0.05
    assert report["observed"].max() - report["observed"].min() > 0.3
    assert pd.read_csv(tmp_path / "injection.csv").equals(report)


@pytest.mark.parametrize("rates", [[0.0], [1.0], [0.01], [0.0, 1.0], [0.0, 0.02, 0.5, 0.97, 1.0]], ids=str)
@pytest.mark.parametrize(
    "gate", [BetaGate(0.2), BetaGate(0.8), FailureGate(0), BetaGate(0.8, ThompsonSample())], ids=["02", "08", "f", "t"]
)
def test_the_prediction_holds_at_the_ends_too_where_runs_begin_and_end(tmp_path, gate, rates):
    groups_of_still_prompts(tmp_path, gate, rates=rates)
    report = analysis.write_injection(tmp_path, gate.open_probability)
    large = report[report["groups"] > 1000]
    assert len(large)
    assert (large["observed"] - large["predicted"]).abs().max() < 0.05


def test_a_gate_with_a_memory_has_a_report_without_a_prediction(tmp_path):
    gate = BetaGate(0.4, memory=Memory(1.0))
    groups_of_still_prompts(tmp_path, gate)
    report = analysis.write_injection(tmp_path, gate.open_probability)
    assert report["predicted"].isna().all()
    assert report["observed"].iloc[0] > 0.9
    analysis.print_injection(report)


def test_prompts_seen_once_tell_nothing(tmp_path):
    groups_of_still_prompts(tmp_path, BetaGate(0.4), visits=1)
    assert analysis.write_injection(tmp_path, BetaGate(0.4).open_probability).empty
    assert not (tmp_path / "injection.csv").exists()


def test_groups_are_carried_over_up_to_the_step(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    groups_of_still_prompts(old, BetaGate(0.4), prompts=3, visits=5)
    analysis.carry_over(old, new, 2)
    assert pd.read_csv(new / "groups.csv")["step"].tolist() == [1, 1, 1, 2, 2, 2]

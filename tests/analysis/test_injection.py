"""How often a gate opened, beside what the injection law predicts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml
from support.made_runs import config_of, write_run

from hapo_lit import analysis
from hapo_lit.analysis import injection_of_run, load_run
from hapo_lit.gates import BetaGate, FailureGate, Memory, ThompsonSample
from hapo_lit.gates.simulation import simulate
from hapo_lit.schedules import Linear


def write_groups(folder, gate, prompts=400, visits=40, rates=None):
    """``groups.csv`` of prompts whose success rates never change, spread evenly unless they are given."""
    rates = np.random.default_rng(0).random(prompts) if rates is None else np.resize(rates, prompts)
    simulate(gate, np.tile(rates, (visits, 1)), 4).to_csv(folder / "groups.csv", index=False)


@pytest.mark.parametrize(
    "gate",
    [BetaGate(0.4), BetaGate(0.8, ThompsonSample()), BetaGate(Linear(0.9, 0.0), horizon=40), FailureGate(1)],
    ids=["mean", "thompson", "annealed", "failure"],
)
def test_where_rates_do_not_change_a_gate_opens_as_predicted(tmp_path, gate):
    write_groups(tmp_path, gate)
    table = analysis.write_injection(tmp_path, gate.open_probability)
    assert len(table) == 10
    assert table["groups"].sum() == 400 * 40
    assert table["pass_rate"].is_monotonic_increasing
    assert (table["observed"] - table["predicted"]).abs().max() < 0.05
    assert table["observed"].max() - table["observed"].min() > 0.3
    assert pd.read_csv(tmp_path / "injection.csv").equals(table)


@pytest.mark.parametrize("rates", [[0.0], [1.0], [0.01], [0.0, 1.0], [0.0, 0.02, 0.5, 0.97, 1.0]], ids=str)
@pytest.mark.parametrize(
    "gate", [BetaGate(0.2), BetaGate(0.8), FailureGate(0), BetaGate(0.8, ThompsonSample())], ids=["02", "08", "f", "t"]
)
def test_the_prediction_holds_at_the_ends_too_where_runs_begin_and_end(tmp_path, gate, rates):
    write_groups(tmp_path, gate, rates=rates)
    table = analysis.write_injection(tmp_path, gate.open_probability)
    large = table[table["groups"] > 1000]
    assert len(large)
    assert (large["observed"] - large["predicted"]).abs().max() < 0.05


def test_neighbouring_visits_are_those_of_the_prompt_in_the_order_of_steps():
    """Prompt 1 succeeds at steps 1 and 2 of 4, prompt 2 never; rows in no order."""
    groups = pd.DataFrame(
        {
            "step": [3, 1, 2, 4, 1, 2],
            "prompt": [1, 1, 1, 1, 2, 2],
            "successes": [0, 4, 4, 0, 0, 0],
            "trials": 4,
            "open": 1,
        }
    )
    table = analysis.injection_by_pass_rate(groups, lambda rates, *_: np.ones_like(rates), neighbours=1, bins=2)
    # of prompt 1 at steps 1..4: 4/4, 4/8, 4/8, 0/4; of prompt 2: 0/4, 0/4
    assert table["pass_rate"].tolist() == pytest.approx([0, 2 / 3])
    assert table["groups"].tolist() == [3, 3]
    assert table["predicted"].tolist() == pytest.approx([1, 1])


def test_a_gate_with_a_memory_has_a_table_without_a_prediction(tmp_path, capsys):
    gate = BetaGate(0.4, memory=Memory(1.0))
    write_groups(tmp_path, gate)
    table = analysis.write_injection(tmp_path, gate.open_probability)
    assert table["predicted"].isna().all()
    assert table["observed"].iloc[0] > 0.9
    analysis.print_injection(table)
    assert "observed" in capsys.readouterr().out


def test_prompts_visited_once_have_no_pass_rate(tmp_path):
    write_groups(tmp_path, BetaGate(0.4), visits=1)
    assert analysis.write_injection(tmp_path, BetaGate(0.4).open_probability).empty
    assert not (tmp_path / "injection.csv").exists()


# -- of a run folder


@pytest.mark.parametrize(
    ("gate", "remark"),
    [
        ({"memory": {"discount": 0.9}}, "the gate remembers earlier visits"),
        ({"_target_": "my.CoinGate"}, "the open probability of CoinGate is not known"),
        ({"rule": {"_target_": "my.Rule"}}, "the open probability of the rule Rule is not known"),
    ],
)
def test_a_gate_without_a_known_open_probability_has_a_remark(tmp_path, gate, remark):
    run = write_run(tmp_path / "run")
    config = config_of(run, 0, 60, 1.0)
    config["gate"] |= gate
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    table, found = injection_of_run(load_run(run))
    assert remark in found
    assert table["predicted"].isna().all()
    assert table["observed"].max() > 0.5


def test_a_scheduled_threshold_is_taken_as_it_was_logged(tmp_path):
    run = write_run(tmp_path / "run")
    known, _ = injection_of_run(load_run(run))
    config = config_of(run, 0, 60, 1.0)
    config["gate"]["threshold"] = {"_target_": "hapo_lit.schedules.Linear", "start": 0.2, "end": 0.2}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    pd.testing.assert_frame_equal(injection_of_run(load_run(run))[0], known)
    metrics = pd.read_csv(run / "metrics.csv")
    metrics["gate/threshold"] = metrics["gate/threshold"] / 2  # below 1/6 the gate is off
    metrics.to_csv(run / "metrics.csv", index=False)
    assert injection_of_run(load_run(run))[0]["predicted"].max() == 0


def test_a_table_that_the_run_wrote_is_not_computed_again(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "injection.csv").write_text("pass_rate,groups,observed,predicted\n0.25,8,0.5,0.75\n")
    table, remark = injection_of_run(load_run(run))
    assert table.to_numpy().tolist() == [[0.25, 8, 0.5, 0.75]]
    assert not remark

"""The tables of a sweep; numbers are compared with those counted from the files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support.made_runs import GROUP, HELDOUT, PROMPTS, write_run

from hapo_lit.analysis import (
    Sweep,
    differing_settings,
    find_runs,
    injection_by_setting,
    long_table,
    run_table,
    setting_table,
    wilson,
)


@pytest.fixture(scope="module")
def sweep(sweep_folder):
    return Sweep(find_runs(sweep_folder))


@pytest.fixture(scope="module")
def runs(sweep):
    return run_table(sweep)


def test_runs_are_told_apart_by_the_one_setting_that_differs(sweep, runs):
    assert runs["gate.prior_beta"].tolist() == ["1", "1", "8", "8"]
    assert runs["seed"].tolist() == [0, 1, 0, 1]
    assert [setting.label for setting in sweep.grouped] == ["prior_beta=1", "prior_beta=8"]
    assert not {"steps_x", "algorithm.gate.prior_beta", "gate.seed", "paths.run"} & set(runs)


def test_the_row_of_a_run_is_what_its_files_say(sweep_folder, runs):
    row = runs.iloc[2]
    metrics = pd.read_csv(sweep_folder / "2" / "metrics.csv")
    steps, groups = metrics[metrics["time/step"].notna()], pd.read_csv(sweep_folder / "2" / "groups.csv")
    assert (row["run"], row["state"], row["steps"], row["steps_planned"]) == ("2", "finished", 60, 60)
    assert row["sampled"] == metrics["heldout/sampled"].dropna().iloc[-1]
    assert row["measured_at"] == 60
    assert row["heldout_problems"] == HELDOUT
    assert row["last_injection"] == groups[groups["teacher"] == 1]["step"].max()
    assert row["demonstrations"] == groups["teacher"].sum()
    assert row["generated_tokens"] == sum(5000 + step for step in range(1, 61))
    assert row["seconds"] == pytest.approx(60 * 0.2)
    assert row["teacher_use_last"] == pytest.approx(groups[groups["step"] > 54]["teacher"].mean())
    assert row["teacher_token_share"] == pytest.approx(groups["teacher"].mean() / GROUP)
    flat = groups["successes"].isin([0, GROUP])
    assert row["flat_before_last"] == pytest.approx(flat[groups["step"] > 54].mean())
    assert row["flat_last"] == pytest.approx((flat & (groups["teacher"] == 0))[groups["step"] > 54].mean())
    assert len(steps) * PROMPTS == len(groups)


def test_the_interval_is_that_of_the_heldout_problems(runs):
    for row in runs.to_dict("records"):
        assert (row["sampled_low"], row["sampled_high"]) == wilson(row["sampled"], HELDOUT)


def test_seeds_are_averaged_by_setting(sweep_folder, sweep):
    settings = setting_table(sweep)
    folders = [sweep_folder / name for name in "0123"]
    last = [pd.read_csv(folder / "metrics.csv")["heldout/sampled"].dropna().iloc[-1] for folder in folders]
    assert settings["setting"].tolist() == ["prior_beta=1", "prior_beta=8"]
    assert settings["sampled"].tolist() == pytest.approx([np.mean(last[:2]), np.mean(last[2:])])
    assert settings["sampled_low"].tolist() == pytest.approx([min(last[:2]), min(last[2:])])
    assert settings["sampled_high"].tolist() == pytest.approx([max(last[:2]), max(last[2:])])
    assert settings["finished"].tolist() == [2, 2]
    assert settings["demonstrations"].is_monotonic_increasing  # a larger b0 keeps the gate open for longer


def test_the_long_table_holds_every_logged_number(sweep_folder, sweep):
    table, folders = long_table(sweep), [sweep_folder / name for name in "0123"]
    assert list(table) == ["run", "gate.prior_beta", "seed", "step", "metric", "value"]
    logged = sum(pd.read_csv(folder / "metrics.csv").drop(columns="step").notna().sum().sum() for folder in folders)
    assert len(table) == logged
    metrics = pd.read_csv(sweep_folder / "3" / "metrics.csv")
    one = table[(table["run"] == "3") & (table["metric"] == "teacher/use") & (table["step"] == 17)]
    assert one[["gate.prior_beta", "seed"]].to_numpy().tolist() == [["8", 1]]
    assert one["value"].item() == metrics[metrics["step"] == 17]["teacher/use"].dropna().item()


def test_injection_is_pooled_over_seeds_and_near_its_prediction(sweep_folder, sweep):
    table, remarks = injection_by_setting(sweep)
    groups = pd.concat(pd.read_csv(sweep_folder / name / "groups.csv") for name in "23")
    own = table[table["setting"] == "prior_beta=8"]
    assert own["groups"].sum() == len(groups)
    assert np.average(own["observed"], weights=own["groups"]) == pytest.approx(groups["open"].mean())
    assert np.average(own["predicted"], weights=own["groups"]) == pytest.approx(groups["open"].mean(), abs=0.03)
    assert set(remarks.values()) == {"computed for this report from groups.csv and config.yaml"}
    assert not (sweep_folder / "2" / "injection.csv").exists()  # a report writes nothing into a run


def test_overrides_in_names_are_the_settings_unless_more_differs(tmp_path):
    for number, seed in enumerate((0, 1)):
        write_run(
            tmp_path / f"{number}_gate.threshold=0.{2 + number},seed={seed}", seed=seed, threshold=0.2 + number / 10
        )
    assert list(differing_settings(find_runs(tmp_path))) == ["gate.threshold"]
    write_run(tmp_path / "2_gate.threshold=0.2,seed=1", seed=1, beta=4)  # its name does not say what differs
    assert set(differing_settings(find_runs(tmp_path))) == {"gate.threshold", "gate.prior_beta"}


def test_runs_on_different_files_are_not_one_setting(tmp_path):
    for name in ("mine.jsonl", "yours.jsonl"):
        file = write_run(tmp_path / name.partition(".")[0]) / "config.yaml"
        file.write_text(file.read_text() + f"model: {{path: {name}, class: hapo_lit.policy.{name[0].upper()}}}\n")
    settings = differing_settings(find_runs(tmp_path)).to_dict("list")
    assert settings == {"model.path": ["mine.jsonl", "yours.jsonl"], "model.class": ["M", "Y"]}


def test_runs_of_different_lengths_differ_in_steps_alone(tmp_path):
    write_run(tmp_path / "0", steps=12)
    write_run(tmp_path / "1", steps=24)
    assert differing_settings(find_runs(tmp_path)).to_dict("list") == {"steps": ["12", "24"]}

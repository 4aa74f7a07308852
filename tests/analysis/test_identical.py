"""Settings that make the same run are found, and no others."""

from __future__ import annotations

from copy import deepcopy

import pytest
from support.made_runs import config_of, write_run

from hapo_lit.analysis import write_report
from hapo_lit.analysis.identical import identical_runs
from hapo_lit.cli import main


def config(tmp_path, beta=1.0, alpha=1.0, seed=0, **changes):
    made = deepcopy(config_of(tmp_path, seed, 60, beta))
    made["injector"], made["teacher"] = (
        {"_target_": "hapo_lit.injectors.ReplaceWorst"},
        {"_target_": "hapo_lit.teacher.UnitRatio"},
    )
    made["gate"] |= {"prior_alpha": alpha} | changes.pop("gate", {})
    made["algorithm"]["gate"] = made["phases"]["sequence"]["whole"]["algorithm"]["gate"] = made["gate"]
    return made | changes


def names(runs):
    return [identical.names for identical in identical_runs(runs)]


def test_priors_that_open_at_the_same_successes_are_the_same_run(tmp_path):
    """γ = .2, n = 4: c = (a + S)/(a + b + 4) < .2 at S = 0 alone with b ≤ 2, at S = 1 too with b = 8."""
    runs = {f"{a} {b}": config(tmp_path, b, a) for a in (0.5, 1) for b in (1, 2, 8)}
    first, second = identical_runs(runs)
    assert str(first) == "the same run (their gates open iff S = 0 of n = 4): 0.5 1, 0.5 2, 1 1, 1 2"
    assert str(second) == "the same run (their gates open iff S ≤ 1 of n = 4): 0.5 8, 1 8"


def test_the_threshold_is_compared_in_rationals(tmp_path):
    """With γ = ½, S = 2 and a0 = 1 the mean is 3/6 at b0 = 1, which is not below one half; 3/6.1 is."""
    at = {"threshold": 0.5}
    runs = {"edge": config(tmp_path, 1.0, 1.0, gate=at), "below": config(tmp_path, 0.9, 1.0, gate=at)}
    assert names(runs) == [("edge", "below")]
    runs["above"] = config(tmp_path, 1.1, 1.0, gate=at)
    assert names(runs) == [("edge", "below")]


def test_a_gate_of_another_kind_with_the_same_rule_is_the_same_run(tmp_path):
    failure = {"_target_": "hapo_lit.gates.FailureGate", "max_successes": 0}
    other = config(tmp_path)
    other["gate"] = other["algorithm"]["gate"] = failure
    other["phases"]["sequence"]["whole"]["algorithm"]["gate"] = failure
    assert names({"beta": config(tmp_path), "failure": other}) == [("beta", "failure")]


@pytest.mark.parametrize(
    "changes",
    [
        {"gate": {"rule": {"_target_": "hapo_lit.gates.ThompsonSample"}}},
        {"gate": {"memory": {"_target_": "hapo_lit.gates.Memory", "discount": 0.9}}},
        {"gate": {"threshold": {"_target_": "hapo_lit.schedules.Linear", "start": 0.2, "end": 0.1}}},
        {"gate": {"_target_": "mine.Gate"}},
        {"teacher": {"_target_": "hapo_lit.teacher.ConfidenceWeighted"}},
        {"teacher": {"_target_": "mine.Teacher"}},
        {"injector": {"_target_": "mine.Injector"}},
    ],
)
def test_where_more_than_the_rule_may_count_runs_with_other_priors_are_others(tmp_path, changes):
    runs = {str(beta): config(tmp_path, beta, **deepcopy(changes)) for beta in (1.0, 2.0)}
    assert names(runs) == []
    runs["again"] = config(tmp_path, 1.0, **deepcopy(changes))
    assert names(runs) == [("1.0", "again")]


def test_other_seeds_and_steps_are_other_runs_and_where_a_run_is_recorded_does_not_count(tmp_path):
    runs = {"one": config(tmp_path), "two": config(tmp_path, seed=1), "none": {}, "nothing": {}}
    assert names(runs) == []
    elsewhere = config(tmp_path / "elsewhere")
    assert [str(same) for same in identical_runs(runs | {"elsewhere": elsewhere})] == ["the same run: one, elsewhere"]


@pytest.mark.slow
def test_a_report_names_them(tmp_path, capsys):
    for index, beta in enumerate((1.0, 2.0, 8.0)):
        write_run(tmp_path / f"{index}_gate.prior_beta={beta:g}", beta=beta)
    report = write_report(tmp_path, tmp_path / "report")
    line = "the same run (their gates open iff S = 0 of n = 4): 0_gate.prior_beta=1, 1_gate.prior_beta=2"
    assert [str(identical) for identical in report.identical] == [line]
    assert f"<h2>Identical runs</h2><ul><li>{line}</li></ul>" in report.page.read_text()
    main(["report", str(tmp_path)])
    assert f"these runs are {line}\n" in capsys.readouterr().out

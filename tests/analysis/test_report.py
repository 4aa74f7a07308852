"""``hapo report`` over run folders as training writes them; numbers are compared with those counted from the files."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from support.made_runs import GROUP, HELDOUT, PROMPTS, config_of, fail_run, write_run

from hapo_lit import analysis
from hapo_lit.analysis import (
    Sweep,
    differing_settings,
    find_runs,
    injection_of_run,
    load_run,
    run_table,
    wilson,
    write_report,
)
from hapo_lit.cli import main

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """A page's tags, checked for balance, and what they refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        assert all(reference.startswith("data:image/png;base64,") for reference in self.references)
        assert not re.search(r"@import|url\(|<script|<link|<iframe", text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two priors, two seeds each, by job number as a plain sweep names its folders."""
    folder = tmp_path_factory.mktemp("multirun")
    for number, (beta, seed) in enumerate((beta, seed) for beta in (1.0, 8.0) for seed in (0, 1)):
        write_run(folder / str(number), seed=seed, beta=beta, gradient_share=number == 0)
    return folder


@pytest.fixture(scope="module")
def report(sweep, tmp_path_factory):
    return write_report(sweep, tmp_path_factory.mktemp("out"))


# -- the tables, by hand


def test_runs_are_told_apart_by_the_one_setting_that_differs(sweep, report):
    assert report.runs["gate.prior_beta"].tolist() == ["1", "1", "8", "8"]
    assert report.runs["seed"].tolist() == [0, 1, 0, 1]
    assert [each.label for each in Sweep(find_runs(sweep)).grouped] == ["prior_beta=1", "prior_beta=8"]
    assert not {"steps_x", "algorithm.gate.prior_beta", "gate.seed", "paths.run"} & set(report.runs)


def test_the_row_of_a_run_is_what_its_files_say(sweep, report):
    row = pd.read_csv(report.page.parent / "runs.csv").iloc[2]
    metrics = pd.read_csv(sweep / "2" / "metrics.csv")
    steps, groups = metrics[metrics["time/step"].notna()], pd.read_csv(sweep / "2" / "groups.csv")
    assert (row["run"], row["state"], row["steps"], row["steps_planned"]) == (2, "finished", 60, 60)
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


def test_wilson_by_hand():
    low, high = wilson(0.9, 100)  # (0.9 + 1.9207/100 ± 1.96 √(0.09/100 + 3.8415/40000)) / (1 + 3.8415/100)
    assert (low, high) == (pytest.approx(0.8256, abs=1e-4), pytest.approx(0.9448, abs=1e-4))
    assert wilson(0.0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert wilson(1.0, 10)[0] == pytest.approx(1 - 0.2775, abs=1e-4)
    assert wilson(0.5, 0) == (0.0, 1.0)


def test_the_interval_is_that_of_the_heldout_problems(report):
    for row in report.runs.to_dict("records"):
        assert (row["sampled_low"], row["sampled_high"]) == wilson(row["sampled"], HELDOUT)


def test_seeds_are_averaged_by_setting(sweep, report):
    settings = pd.read_csv(report.page.parent / "settings.csv")
    last = [pd.read_csv(sweep / name / "metrics.csv")["heldout/sampled"].dropna().iloc[-1] for name in "0123"]
    assert settings["setting"].tolist() == ["prior_beta=1", "prior_beta=8"]
    assert settings["sampled"].tolist() == pytest.approx([np.mean(last[:2]), np.mean(last[2:])])
    assert settings["sampled_low"].tolist() == pytest.approx([min(last[:2]), min(last[2:])])
    assert settings["sampled_high"].tolist() == pytest.approx([max(last[:2]), max(last[2:])])
    assert settings["finished"].tolist() == [2, 2]
    assert settings["demonstrations"].is_monotonic_increasing  # a larger b0 keeps the gate open for longer


def test_the_long_table_holds_every_logged_number(sweep, report):
    table = pd.read_csv(report.page.parent / "tidy.csv")
    assert list(table) == ["run", "gate.prior_beta", "seed", "step", "metric", "value"]
    logged = sum(pd.read_csv(sweep / name / "metrics.csv").drop(columns="step").notna().sum().sum() for name in "0123")
    assert len(table) == logged
    metrics = pd.read_csv(sweep / "3" / "metrics.csv")
    one = table[(table["run"] == 3) & (table["metric"] == "teacher/use") & (table["step"] == 17)]
    assert one[["gate.prior_beta", "seed"]].to_numpy().tolist() == [[8, 1]]
    assert one["value"].item() == metrics[metrics["step"] == 17]["teacher/use"].dropna().item()


def test_injection_is_pooled_over_seeds_and_near_its_law(sweep, report):
    table = pd.read_csv(report.page.parent / "injection.csv")
    groups = pd.concat(pd.read_csv(sweep / name / "groups.csv") for name in "23")
    mine = table[table["setting"] == "prior_beta=8"]
    assert mine["groups"].sum() == len(groups)
    assert np.average(mine["observed"], weights=mine["groups"]) == pytest.approx(groups["open"].mean())
    assert np.average(mine["predicted"], weights=mine["groups"]) == pytest.approx(groups["open"].mean(), abs=0.03)
    assert not (sweep / "2" / "injection.csv").exists()  # a report writes nothing into a run


# -- the page


def test_the_page_stands_alone_and_shows_every_figure(report):
    text = report.page.read_text()
    page = Page(text)
    assert page.references
    assert not re.search(r"https?://", text)
    assert "viewport" in text
    assert "prefers-color-scheme" in text
    shown = {base64.b64decode(reference.partition(",")[2]) for reference in page.references}
    pictures = sorted(report.page.parent.glob("*.png"))
    assert {path.read_bytes() for path in pictures} == shown
    assert {path.stem for path in pictures} == {
        *("accuracy_sampled", "accuracy_greedy", "final_accuracy", "reward", "injection_rate", "last_injection"),
        *("teacher_tokens", "teacher_gradient", "injection_law", "flat_groups", "flat_groups_after"),
        *("cost_tokens", "cost_seconds"),
    }
    assert sorted(report.figures) == pictures
    assert "4 runs, 2 settings: 4 finished." in page.text
    assert "Not finished" not in page.text


def test_what_was_not_logged_is_said(tmp_path):
    report = write_report(write_run(tmp_path / "run"))
    assert "no run logged teacher/gradient_share" in report.page.read_text()
    assert not (report.page.parent / "teacher_gradient.png").exists()


def test_names_are_text_and_never_markup(tmp_path):
    write_run(tmp_path / "0")
    fail_run(tmp_path / "1", "ValueError: <b>no</b> & <script>alert(1)</script>")
    text = write_report(tmp_path).page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    Page(text)


def test_a_single_run(tmp_path):
    report = write_report(write_run(tmp_path / "run"))
    assert report.page == tmp_path / "run" / "report" / "report.html"
    page = Page(report.page.read_text())
    assert "One run: 1 finished." in page.text
    assert "By setting" not in page.text
    assert write_report(tmp_path / "run").runs["run"].tolist() == ["run"]  # again, beside its own report


# -- runs that did not end well


@pytest.fixture
def broken(tmp_path):
    """One run of each kind."""
    write_run(tmp_path / "0_gate.prior_beta=1,seed=0")
    write_run(tmp_path / "1_gate.prior_beta=1,seed=1", seed=1, until=30)
    damaged = write_run(tmp_path / "2_gate.prior_beta=4,seed=0", beta=4)
    lines = (damaged / "metrics.csv").read_text().splitlines(keepends=True)
    lines[10] = lines[10].replace(",", ";", 3)
    lines[20] = lines[20][:25] + "\n"
    (damaged / "metrics.csv").write_text("".join(lines))
    fail_run(tmp_path / "3_gate.prior_beta=4,seed=1", "ValueError: gate.threshold=0.2 could never close")
    (tmp_path / "4_gate.prior_beta=8,seed=0").mkdir()
    write_run(tmp_path / "5_gate.prior_beta=8,seed=1")
    (tmp_path / "5_gate.prior_beta=8,seed=1" / "config.yaml").write_text("a: [1")
    return tmp_path


def test_none_is_dropped_and_each_says_why(broken):
    report = write_report(broken)
    states = dict(zip(report.runs["run"], report.runs["state"], strict=True))
    notes = dict(zip(report.runs["run"], report.runs["note"], strict=True))
    assert list(states.values()) == ["finished", "unfinished", "damaged", "failed", "damaged", "damaged"]
    assert list(notes.values())[:4] == [
        "",
        "30 of 60 steps, no summary.json",
        "metrics.csv: 2 broken of 67 lines, the first is line 11",
        "ValueError: gate.threshold=0.2 could never close",
    ]
    assert "there is no config.yaml; there is no metrics.csv" in notes["4_gate.prior_beta=8,seed=0"]
    assert "config.yaml cannot be read" in notes["5_gate.prior_beta=8,seed=1"]
    page = Page(report.page.read_text())
    for run, note in notes.items():
        assert run in page.text
        assert note in page.text
    assert "Traceback" not in page.text
    assert "6 runs, 3 settings: 1 finished, 1 unfinished, 3 damaged, 1 failed." in page.text


def test_only_finished_runs_count_in_the_means(broken):
    report = write_report(broken)
    settings = pd.read_csv(report.page.parent / "settings.csv")
    assert settings["finished"].tolist() == [1, 0, 0]
    finished = report.runs[report.runs["state"] == "finished"]
    assert settings["sampled"].tolist()[0] == finished["sampled"].item()
    assert settings["sampled"].isna().tolist() == [False, True, True]


def test_whole_lines_of_a_damaged_run_are_kept(broken):
    run = load_run(broken / "2_gate.prior_beta=4,seed=0")
    whole = write_run(broken.parent / "whole", beta=4)
    expected = load_run(whole).metrics
    assert len(run.metrics) == len(expected) - 2
    pd.testing.assert_frame_equal(run.metrics, expected.loc[run.metrics.index], check_dtype=False)
    with pytest.raises(ValueError, match="2 broken of 67 lines"):
        analysis.read_metrics(broken / "2_gate.prior_beta=4,seed=0")


def test_half_a_last_line_is_a_run_that_was_killed_and_no_damage(tmp_path):
    run = write_run(tmp_path / "run", until=20)
    with (run / "metrics.csv").open("a") as file:
        file.write("0.5,0.3")
    read = load_run(run)
    assert (read.state, read.steps, read.faults) == ("unfinished", 20, ())


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("metrics.csv", "", "there is no metrics.csv"),
        ("metrics.csv", "loss,reward\n1,2\n", "does not name columns, among them step"),
        ("metrics.csv", "step,reward\n1,2\n1.5,3\n", "1 broken of 2 lines, the first is line 3"),
        ("metrics.csv", "step,reward\n1,2\n2,high\n", "1 broken of 2 lines, the first is line 3"),
        ("metrics.csv", "step,reward\n1,2,9\n2\n", "2 broken of 2 lines, the first is line 2"),
        ("metrics.csv", b"step,reward\n1,2\n\xff\xfe,3\n", "1 broken of 2 lines"),
        ("groups.csv", "step,prompt\n1,2\n", "groups.csv cannot be read: it lacks open"),
        ("groups.csv", "step,prompt,successes,trials,open,teacher\n1,2,3,x,0,0\n", "is no whole number"),
        ("summary.json", "{", "summary.json cannot be read"),
        ("summary.json", "[1]", "summary.json cannot be read: it is no mapping"),
        ("config.yaml", "just text", "config.yaml cannot be read: it is no mapping"),
    ],
)
def test_a_damaged_file_is_named_and_the_report_is_written(tmp_path, name, content, fault):
    run = write_run(tmp_path / "run")
    (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    report = write_report(tmp_path)
    assert report.runs["state"].item() == "damaged"
    assert fault in report.runs["note"].item()
    assert fault in Page(report.page.read_text()).text


def test_a_run_that_has_just_begun_is_unfinished(tmp_path):
    run = write_run(tmp_path / "run", until=20)
    (run / "metrics.csv").unlink()
    (run / "groups.csv").unlink()
    assert write_report(tmp_path).runs["note"].item() == "0 of 60 steps, no summary.json"


# -- which settings differ, and the law of a gate


def test_overrides_in_names_are_the_settings_unless_more_differs(tmp_path):
    for number, seed in enumerate((0, 1)):
        write_run(
            tmp_path / f"{number}_gate.threshold=0.{2 + number},seed={seed}", seed=seed, threshold=0.2 + number / 10
        )
    assert list(differing_settings(find_runs(tmp_path))) == ["gate.threshold"]
    write_run(tmp_path / "2_gate.threshold=0.2,seed=1", seed=1, beta=4)  # something that its name does not say
    assert set(differing_settings(find_runs(tmp_path))) == {"gate.threshold", "gate.prior_beta"}


def test_runs_of_different_lengths_differ_in_steps_alone(tmp_path):
    write_run(tmp_path / "0", steps=12)
    write_run(tmp_path / "1", steps=24)
    assert differing_settings(find_runs(tmp_path)).to_dict("list") == {"steps": ["12", "24"]}


def test_runs_are_found_at_any_depth_and_in_the_order_of_their_numbers(tmp_path):
    for name in ("10", "9", "a/2", "a/b/1"):
        write_run(tmp_path / name, steps=6)
    assert [run.name for run in find_runs(tmp_path)] == ["9", "10", "a/2", "a/b/1"]


@pytest.mark.parametrize(
    ("gate", "remark"),
    [
        ({"memory": {"discount": 0.9}}, "the gate remembers earlier visits"),
        ({"_target_": "my.CoinGate"}, "the open probability of CoinGate is not known"),
        ({"rule": {"_target_": "my.Rule"}}, "the open probability of the rule Rule is not known"),
    ],
)
def test_a_gate_without_a_known_law_says_so(tmp_path, gate, remark):
    import yaml

    run = write_run(tmp_path / "run")
    config = config_of(run, 0, 60, 1.0)
    config["gate"] |= gate
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    table, said = injection_of_run(load_run(run))
    assert remark in said
    assert table["predicted"].isna().all()
    assert table["observed"].max() > 0.5
    assert remark in Page(write_report(run).page.read_text()).text


def test_a_scheduled_threshold_is_taken_as_it_was_logged(tmp_path):
    import yaml

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


def test_a_file_of_the_run_comes_before_a_computation(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "injection.csv").write_text("pass_rate,groups,observed,predicted\n0.25,8,0.5,0.75\n")
    table, said = injection_of_run(load_run(run))
    assert table.to_numpy().tolist() == [[0.25, 8, 0.5, 0.75]]
    assert not said


# -- the command


def test_the_command(sweep, tmp_path, capsys):
    main(["report", str(sweep), "--out", str(tmp_path / "out")])
    assert "report.html: 4 runs, 4 of them finished" in capsys.readouterr().out
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize(("name", "error"), [("empty", "holds no run"), ("nowhere", "is not a folder")])
def test_a_folder_without_a_run_is_one_line(tmp_path, capsys, name, error):
    (tmp_path / "empty" / "inside").mkdir(parents=True)
    with pytest.raises(SystemExit) as left:
        main(["report", str(tmp_path / name)])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("hapo: error: ")
    assert error in said
    assert said.count("\n") == 1
    assert not (tmp_path / name / "report").exists()


def test_the_tables_of_runs_that_logged_nothing(tmp_path):
    fail_run(tmp_path / "0", "no memory")
    fail_run(tmp_path / "1", "")
    report = write_report(tmp_path)
    assert report.runs["note"].tolist() == ["no memory", "it failed, and error.txt does not say why"]
    assert run_table(Sweep(find_runs(tmp_path)))["sampled"].isna().all()
    Page(report.page.read_text())

"""``hapo report`` over run folders as training writes them."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from support.made_runs import fail_run, write_run

from hapo_lit.analysis import (
    Sweep,
    find_runs,
    injection_by_setting,
    long_table,
    run_table,
    setting_table,
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


# -- a sweep that went well


@pytest.fixture(scope="module")
def report(sweep_folder, tmp_path_factory):
    return write_report(sweep_folder, tmp_path_factory.mktemp("out"))


def test_the_files_of_tables_are_the_tables(sweep_folder, report):
    sweep = Sweep(find_runs(sweep_folder))
    tables = {
        "runs": run_table(sweep),
        "settings": setting_table(sweep),
        "injection": injection_by_setting(sweep)[0],
        "tidy": long_table(sweep),
    }
    for name, table in tables.items():
        assert (report.page.parent / f"{name}.csv").read_text() == table.to_csv(index=False)
    pd.testing.assert_frame_equal(report.runs, tables["runs"])


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


# -- one run, by the command


def test_the_command_reports_a_single_run_and_says_which_figure_is_missing(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    main(["report", str(run)])
    page = run / "report" / "report.html"
    assert f"{page}: 1 run, 1 of them finished" in " ".join(capsys.readouterr().out.split())
    text = Page(page.read_text()).text
    assert "One run: 1 finished." in text
    assert "By setting" not in text
    assert "no run logged teacher/gradient_share" in text
    assert not (page.parent / "teacher_gradient.png").exists()
    assert [found.name for found in find_runs(run)] == ["run"]  # its own report is no run


@pytest.mark.parametrize(("name", "error"), [("empty", "holds no run"), ("nowhere", "is not a folder")])
def test_a_folder_without_a_run_is_one_line(tmp_path, capsys, name, error):
    (tmp_path / "empty" / "inside").mkdir(parents=True)
    with pytest.raises(SystemExit) as left:
        main(["report", str(tmp_path / name)])
    assert left.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("hapo: error: ")
    assert error in line
    assert line.count("\n") == 1
    assert not (tmp_path / name / "report").exists()


# -- runs that did not finish


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """The report of one run of each kind: finished, unfinished, damaged, failed, empty, without a configuration, pruned
    by a sweep."""
    folder = tmp_path_factory.mktemp("broken")
    write_run(folder / "0_gate.prior_beta=1,seed=0")
    write_run(folder / "1_gate.prior_beta=1,seed=1", seed=1, until=30)
    damaged = write_run(folder / "2_gate.prior_beta=4,seed=0", beta=4)
    lines = (damaged / "metrics.csv").read_text().splitlines(keepends=True)
    lines[10] = lines[10].replace(",", ";", 3)
    (damaged / "metrics.csv").write_text("".join(lines))
    fail_run(folder / "3_gate.prior_beta=4,seed=1", "ValueError: <b>no</b> & <script>alert(1)</script>")
    (folder / "4_gate.prior_beta=8,seed=0").mkdir()
    unreadable = write_run(folder / "5_gate.prior_beta=8,seed=1")
    (unreadable / "config.yaml").write_text("a: [1")
    pruned = write_run(folder / "6_gate.prior_beta=8,seed=2", seed=2, until=30)
    (pruned / "pruned.txt").write_text("pruned after step 30 of 60: heldout/sampled was 0.100\n")
    return write_report(folder, folder.parent / "report_of_broken")


def test_no_run_is_dropped_and_the_page_says_why_each_did_not_finish(broken):
    states = dict(zip(broken.runs["run"], broken.runs["state"], strict=True))
    notes = dict(zip(broken.runs["run"], broken.runs["note"], strict=True))
    assert list(states.values()) == ["finished", "unfinished", "damaged", "failed", "damaged", "damaged", "pruned"]
    assert list(notes.values())[:4] == [
        "",
        "30 of 60 steps, no summary.json",
        "metrics.csv: 1 broken of 67 lines, the first is line 11",
        "ValueError: <b>no</b> & <script>alert(1)</script>",
    ]
    assert "there is no config.yaml; there is no metrics.csv" in notes["4_gate.prior_beta=8,seed=0"]
    assert "config.yaml cannot be read" in notes["5_gate.prior_beta=8,seed=1"]
    assert notes["6_gate.prior_beta=8,seed=2"] == "pruned after step 30 of 60: heldout/sampled was 0.100"
    page = Page(broken.page.read_text())
    for run, note in notes.items():
        assert run in page.text
        assert note in page.text
    assert "Traceback" not in page.text
    assert "7 runs, 3 settings: 1 finished, 1 pruned, 1 unfinished, 3 damaged, 1 failed." in page.text


def test_names_and_notes_are_text_and_never_markup(broken):
    text = broken.page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_only_finished_runs_count_in_the_means(broken):
    settings = pd.read_csv(broken.page.parent / "settings.csv")
    assert settings["finished"].tolist() == [1, 0, 0]
    finished = broken.runs[broken.runs["state"] == "finished"]
    assert settings["sampled"].tolist()[0] == finished["sampled"].item()
    assert settings["sampled"].isna().tolist() == [False, True, True]


def test_remarks_on_injection_are_on_the_page(broken):
    text = Page(broken.page.read_text()).text
    assert "computed for this report from groups.csv and config.yaml" in text
    assert "the open probability of a gate that config.yaml does not name is not known" in text


def test_the_command_reports_runs_that_logged_nothing_into_another_folder(tmp_path, capsys):
    fail_run(tmp_path / "runs" / "0", "no memory")
    fail_run(tmp_path / "runs" / "1", "")
    main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    notes = ["no memory", "it failed, and error.txt does not say why"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"failed: {number}: {note}" for number, note in enumerate(notes)]
    assert "report.html: 2 runs, 0 of them finished" in " ".join(lines)
    runs = pd.read_csv(tmp_path / "out" / "runs.csv")
    assert runs["note"].tolist() == notes
    assert runs["sampled"].isna().all()
    assert not list((tmp_path / "out").glob("*.png"))
    Page((tmp_path / "out" / "report.html").read_text())

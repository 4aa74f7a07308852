"""``hapo data inspect``: the numbers against rows made by hand, and what it says when there is nothing to show."""

from __future__ import annotations

import json
import re

import pyarrow
import pytest
from pyarrow import parquet

from hapo_lit import cli
from hapo_lit.data import inspection
from hapo_lit.data.corpus import Corpus
from hapo_lit.data.filters import fingerprint64

LONG = ["max_prompt_tokens=200"]
KEPT_APART = 0.02 * 2**32


@pytest.fixture
def hapo(tmp_path, monkeypatch, capsys):
    """The command in an empty folder; returns its output and its errors, and whether it failed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HAPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("HAPO_TRACEBACK", "0")

    def run(*arguments):
        try:
            cli.main(["data", *arguments])
            failed = False
        except SystemExit as stopped:
            failed = bool(stopped.code)
        out, err = capsys.readouterr()
        return out, err.strip(), failed

    return run


def questions(count, held=0):
    """So many questions that stay in training, and so many that their hash holds out."""
    every = [f"Compute {number}-1." for number in range(2, 2000)]
    out = [text for text in every if fingerprint64(text) % 2**32 < KEPT_APART]
    return [text for text in every if text not in out][:count], out[:held]


def plain(text, **change):
    answer = str(int(re.findall(r"\d+", text)[0]) - 1)
    return {"problem": text, "solution": rf"1;\boxed{{{answer}}}", "answer": answer, **change}


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def table(out):
    """Reason -> (count, share) of the printed table."""
    found = re.findall(r"^│ ([a-z_ ]+?) +│ +([\d,]+) │ +([\d.]+) % │$", out, re.MULTILINE)
    return {name: (int(count.replace(",", "")), float(share)) for name, count, share in found}


def test_the_embedded_data(hapo, tmp_path):
    out, err, failed = hapo("inspect", "data.source.train_size=40", "teacher_errors=none", "teacher_check=trusted")
    assert not failed, err
    assert err == ""
    assert table(out)["rows read"] == table(out)["kept"] == (40, 100.0)
    assert table(out)["teacher_usable"] == (40, 100.0)
    assert out.count("│ verdict │ teacher_usable") == 10
    assert "<eos>" in out
    assert not list(tmp_path.iterdir())  # no policy was built and no run's folder made


def test_own_files_row_by_row(hapo, tmp_path):
    kept, held = questions(6, held=2)
    rows = [plain(text) for text in kept[:3]]
    rows += [plain(kept[0].upper()), plain(held[0]), plain(held[1])]
    rows += [plain(kept[3], solution=r"\boxed{7777}"), plain(kept[4], solution=""), plain(kept[5], solution="1;" * 99)]
    rows += [plain(text + " Explain." * 30) for text in kept[:1]]
    rows += [plain("Compute.1", answer="", solution="no box"), {"problem": 5, "answer": "1"}, {"problem": " "}]
    lines(tmp_path / "my.jsonl", rows)
    settings = ["data=files", "data.path=my.jsonl", "data.source.corpus.on_bad_row=skip", *LONG]
    out, err, failed = hapo("inspect", *settings)
    assert not failed, err
    counts = {name: count for name, (count, _) in table(out).items()}
    assert counts == {
        "rows read": 13,
        "kept": 6,
        "held_out": 2,
        "bad_row": 2,
        "duplicate": 1,
        "no_answer": 1,
        "prompt_too_long": 1,
        "teachers looked at": 6,
        "teacher_usable": 3,
        "teacher_rejected": 1,
        "teacher_too_long": 1,
        "teacher_absent": 1,
    }
    assert table(out)["kept"][1] == pytest.approx(46.2)
    assert table(out)["teacher_usable"][1] == 50.0
    assert re.search(r"│ answer characters +│ +1 │ +1 │ +1 │ +1 │ +1 │", out)
    assert re.search(r"│ teacher tokens, of 5 +│ +6 │ +6 │ +199 │ +199 │ +199 │", out)  # 99 pairs and the end
    assert "1;1;1;" in out
    assert " ... " not in out.split("sample 1")[0]


def test_the_rows_of_a_stream_and_where_it_stops(hapo, tmp_path, monkeypatch):
    kept, _ = questions(60)
    flags = {"problem_is_valid": "Yes", "solution_is_valid": "Yes", "question_type": "math-word-problem"}
    rows = [{**plain(text), **flags, "source": "olympiads"} for text in kept]
    rows[1]["solution_is_valid"] = "No"
    rows[2]["answer"], rows[3]["question_type"] = "notfound", "proof"
    rows[4]["question_type"], rows[5]["problem"] = "MCQ", rows[5]["problem"] + " See the figure below."
    rows[6]["answer"], rows[7]["problem"] = r"\frac{1", rows[8]["problem"]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "n.parquet")
    out, err, failed = hapo("inspect", "data=numina", "data.path=n.parquet", *LONG)
    assert not failed, err
    reasons = ["marked_invalid", "no_answer", "proof", "multiple_choice", "figure", "answer_unparsable", "duplicate"]
    assert {name: table(out)[name][0] for name in reasons} == dict.fromkeys(reasons, 1)
    assert table(out)["kept"] == (53, 88.3)
    assert "│ source  │ olympiads" in out
    assert "stopped" not in out
    monkeypatch.setattr(inspection, "STREAM_ROWS", 9)
    out, _, _ = hapo("inspect", "data=numina", "data.path=n.parquet", *LONG)
    assert "stopped after 9 rows of the stream" in out
    assert table(out)["rows read"] == (9, 100.0)
    assert table(out)["kept"] == (2, 22.2)


def test_more_problems_than_are_judged_are_still_all_counted(hapo, tmp_path, monkeypatch):
    kept, held = questions(50, held=1)
    lines(tmp_path / "my.jsonl", [plain(text) for text in (*kept, *held)])
    monkeypatch.setattr(inspection, "EXAMPLES", 20)
    out, err, failed = hapo("inspect", "data=files", "data.path=my.jsonl", *LONG)
    assert not failed, err
    assert table(out)["kept"][0] == 50
    assert table(out)["teachers looked at"] == table(out)["teacher_usable"] == (20, 100.0)
    shown = re.findall(r"│ problem │ (\S.*?) +│", out)
    assert len(set(shown)) == 10
    assert not set(shown) & set(held)


def test_data_of_which_no_problem_is_held_out_are_shown_with_a_warning(hapo, tmp_path):
    kept, _ = questions(3)
    lines(tmp_path / "my.jsonl", [plain(text) for text in kept])
    out, _, failed = hapo("inspect", "data=files", "data.path=my.jsonl", *LONG)
    assert not failed
    assert "warning: no problem is held out" in out
    lines(tmp_path / "apart.jsonl", [plain(kept[0])])
    out, _, _ = hapo("inspect", "data=files", "data.path=my.jsonl", "data.heldout_path=apart.jsonl", *LONG)
    assert table(out)["held_out"][0] == 1
    assert "warning" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs the word 'inspect' next"),
        (["look"], "needs the word 'inspect' next"),
        (["inspect", "--rows"], "there is no option '--rows'"),
        (["inspect", "data=files"], "data.path"),
        (["inspect", "data=files", "data.path=none.jsonl"], "'none.jsonl' does not exist; set data.path"),
        (
            ["inspect", "data=files", "data.path=my.jsonl"],
            "my.jsonl, row 2: column 'problem': expected text, found int",
        ),
        (
            ["inspect", "data=files", "data.path=my.jsonl", "data.source.corpus.on_bad_row=skip"],
            "my.jsonl: no row is left to train on: 2 no_answer, 1 bad_row",
        ),
        (
            ["inspect", "data.source.train_size=5", "max_prompt_tokens=3"],
            "Arithmetic: no row is left to train on: 5 prompt_too_long",
        ),
    ],
)
def test_what_cannot_be_shown_is_one_line(hapo, tmp_path, arguments, message):
    lines(
        tmp_path / "my.jsonl",
        [{"problem": "a", "answer": ""}, {"problem": 1, "answer": ""}, {"problem": "b", "answer": ""}],
    )
    _, err, failed = hapo(*arguments)
    assert failed
    assert message in err
    assert err.startswith("hapo: error: ")
    assert len(err.splitlines()) == 1


def test_a_run_on_rows_that_are_all_filtered_out_shows_the_reasons(tmp_path):
    from hapo_lit.data.filters import NoAnswer
    from hapo_lit.data.reader import LocalFiles
    from hapo_lit.data.schemas import Plain

    lines(tmp_path / "my.jsonl", [{"problem": text, "answer": ""} for text in "abc"])
    corpus = Corpus(LocalFiles(str(tmp_path / "my.jsonl")), Plain(), [NoAnswer()])
    with pytest.raises(ValueError, match=r"gives no held-out problem \(3 no_answer\)"):
        corpus.heldout()

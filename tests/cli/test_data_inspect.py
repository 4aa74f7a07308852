"""``hapo data inspect``: what is printed, and what it says when there is nothing to show."""

from __future__ import annotations

import json
import re

import pytest
from support.tiny_qwen import qwen_tokenizer

from hapo_lit import cli
from hapo_lit.data import inspection

LONG = ["max_prompt_tokens=200"]


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


def plain(number, **change):
    return {"problem": f"Compute {number}-1.", "solution": rf"1;\boxed{{{number - 1}}}", "answer": "", **change}


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


def test_own_files_and_a_stream(hapo, tmp_path, monkeypatch):
    rows = [plain(number) for number in (2, 3, 4, 4, 5)]
    rows += [plain(7, solution="no box"), plain(8, solution=r"\boxed{7777}", answer="7"), plain(9, solution="1;" * 299)]
    rows[-1]["answer"] = "8"
    lines(tmp_path / "my.jsonl", rows)
    lines(tmp_path / "apart.jsonl", [plain(5)])
    settings = ["inspect", "data=files", "data.path=my.jsonl", "data.heldout_path=apart.jsonl", *LONG]
    out, err, failed = hapo(*settings)
    assert not failed, err
    assert table(out) == {
        "rows read": (8, 100.0),
        "kept": (5, 62.5),
        "duplicate": (1, 12.5),
        "no_answer": (1, 12.5),
        "held_out": (1, 12.5),
        "teachers looked at": (5, 100.0),
        "teacher_usable": (3, 60.0),
        "teacher_rejected": (1, 20.0),
        "teacher_too_long": (1, 20.0),
        "teacher_absent": (0, 0.0),
    }
    assert re.search(r"│ answer characters +│ +1 │ +1 │ +1 │ +1 │ +1 │", out)
    assert re.search(r"│ teacher tokens, of 5 +│ +6 │ +6 │ +599 │ +599 │ +599 │", out)
    shown = re.findall(r"│ problem │ (\S.*?) +│", out)
    assert sorted(shown) == ["Compute 2-1.", "Compute 3-1.", "Compute 4-1.", "Compute 8-1.", "Compute 9-1."]
    assert "1;1;1;" in out
    assert " ... " not in out.split("sample 1")[0]
    assert "stopped" not in out
    assert "held out: 1 problems of apart.jsonl" in out
    assert out.count("warning: ") == 1  # of a held-out set of one problem
    monkeypatch.setattr(inspection, "STREAM_ROWS", 3)
    lines(tmp_path / "stream.jsonl", [row | {"source": "olympiads"} for row in rows])
    out, err, failed = hapo("inspect", "data=numina_cot", "data.path=stream.jsonl", "data.source.heldout_share=1e-9")
    assert not failed, err
    assert "stopped after 3 rows of the stream" in out
    assert "│ source  │ olympiads" in out
    assert "warning: no problem is held out" in out


def test_references_that_no_spelling_but_their_own_can_match_are_counted(hapo, tmp_path):
    rows = [plain(number) for number in range(2, 8)]
    rows += [plain(8, solution=r"1;\boxed{a \oplus b}", answer=r"a \oplus b"), plain(9, answer="see below")]
    lines(tmp_path / "my.jsonl", rows)
    out, err, failed = hapo(
        "inspect", "data=files", "data.path=my.jsonl", "data.source.corpus.heldout_share=1e-9", "verifier=math", *LONG
    )
    assert not failed, err
    assert table(out)["no_answer"] == (1, 12.5)
    assert "warning: 1 of 7 reference answers cannot be read ('a \\\\oplus b')" in " ".join(out.split())


def test_tokenizer_and_limits_are_named_and_ones_own_can_be_used(hapo, tmp_path):
    text = "Natalia sold clips to her friends in April, and half as many in May. How many clips did she sell? "
    lines(
        tmp_path / "my.jsonl",
        [{"question": f"{text}{number}", "answer": f"So it is.\n#### {number}"} for number in range(60)],
    )
    settings = ["inspect", "data=files", "data.path=my.jsonl"]
    _, err, failed = hapo(*settings)
    assert failed
    assert re.search(
        r"max_prompt_tokens=64 tokens \(\d+ to \d+ with the tokenizer of the embedded experiment \(24 tokens\)\): "
        r"raise max_prompt_tokens, or name the model that reads them with model=hf model.path=FOLDER",
        err,
    )
    out, err, failed = hapo(*settings, "max_prompt_tokens=300")
    assert not failed, err
    assert "of the embedded experiment (24 tokens); limits: max_prompt_tokens=300, max_response_tokens=72" in out
    assert "another tokenizer: model=hf model.path=FOLDER" in out
    assert "warning: 100 % of the prompts hold text that the tokenizer of the embedded experiment" in " ".join(
        out.split()
    )
    tokenizer = qwen_tokenizer()
    tokenizer.save_pretrained(tmp_path / "mine")
    out, err, failed = hapo(*settings, "model=hf", "model.path=./mine", "template=chat", "max_prompt_tokens=300")
    assert not failed, err
    assert f"tokenizer: ./mine ({len(tokenizer)} tokens); limits: max_prompt_tokens=300" in out
    assert "another tokenizer" not in out
    assert "cannot read" not in out
    shown = " ".join(re.findall(r"│ (?:prompt )? *│ (.*?) +│", out))
    assert r"<|im_start|>user\nNatalia sold clips" in shown
    assert r"<|im_end|>\n<|im_start|>assistant\n" in shown.replace(" ", "")
    assert r"The answer is \boxed{" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs the word 'inspect' next"),
        (["look"], "needs the word 'inspect' next"),
        (["inspect", "--rows"], "there is no option '--rows'"),
        (["inspect", "data=files"], "data.path"),
        (["inspect", "data=files", "data.path=none.jsonl"], "'none.jsonl' does not exist; set data.path"),
        (
            ["inspect", "data=files", "data.path=my.jsonl", "data.source.corpus.on_bad_row=skip"],
            "my.jsonl: no row is left to train on: 2 no_answer, 1 bad_row",
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

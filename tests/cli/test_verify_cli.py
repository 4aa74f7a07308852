"""``hapo verify``: the answer to one question, and a file of them that survives whatever ends the process."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest
from omegaconf import OmegaConf
from support.processes import descendants, processes, soon

from hapo_lit import cli
from hapo_lit.cli import verify as verb
from hapo_lit.verify import Checker, Conventions, score_file

CHUNK = 16
SLOWLY = f"from hapo_lit.cli import verify as verb; import sys; verb.CHUNK = {CHUNK}; verb.main(sys.argv[1:])"


@pytest.fixture
def hapo(tmp_path, monkeypatch, capsys):
    """The command in an empty folder; returns its output, its errors and its exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("HAPO_TRACEBACK", "0")

    def run(*arguments):
        capsys.readouterr()
        status = 0
        try:
            cli.main(["verify", *arguments])
        except SystemExit as stopped:
            status = stopped.code
        out, err = capsys.readouterr()
        return out, err.strip(), status

    return run


def cells(out):
    """The printed tables as lists of their cells."""
    lines = [re.split(r"[│┃]", line)[1:-1] for line in out.splitlines() if line.startswith(("│", "┃"))]
    return [[cell.strip() for cell in line] for line in lines]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def timeless(path):
    return [{name: value for name, value in each.items() if name != "seconds"} for each in read(path)]


def algebra(count):
    """Rows that each need a worker, every second of them right."""
    return [{"gold": f"x+{n}", "prediction": f"{n + n % 2}+x", "expected": n % 2 == 0} for n in range(count)]


# one answer


def test_a_right_answer_is_explained_and_ends_with_0(hapo):
    out, err, status = hapo(r"\dfrac{1}{2}", r"Hence \boxed{ 0.50 }.")
    assert (status, err) == (0, "")
    facts = dict(cells(out))
    assert facts == {
        "correct": "yes",
        "reason": "number",
        "route": "box",
        "reference": r"\dfrac{1}{2}",
        "answer": "0.50",
        "reference, normalised": r"\frac{1}{2}",
        "answer, normalised": "0.50",
    }


def test_a_wrong_answer_ends_with_1(hapo):
    out, _, status = hapo("5", "6")
    assert status == 1
    assert ["correct", "no"] in cells(out)


def test_no_answer_is_said_to_be_none(hapo):
    out, _, status = hapo(r"solution, \boxed{5}", r"I cannot \boxed{}")
    assert status == 1
    facts = dict(cells(out))
    assert facts["reference"] == "5"
    assert (facts["reason"], facts["answer"]) == ("no_answer", "none")
    assert "answer, normalised" not in facts


@pytest.mark.parametrize(
    ("gold", "completion", "status"),
    [("-5", "5", 1), ("-5", "-5", 0), ("-x+1", "1-x", 0), ("x=5", "5", 0), ("-h", "-h", 0), ("+a=1", "~b", 1)],
)
def test_answers_are_never_options_or_overrides(hapo, gold, completion, status):
    _, err, ended = hapo(gold, completion)
    assert (ended, err) == (status, "")


def test_behind_two_dashes_everything_is_an_answer(hapo):
    assert hapo("--set", "cpu_seconds=2", "--", "--5", "--5")[2] == 0
    assert hapo("--", "--help", "--file")[2] == 1


def test_what_no_terminal_can_show_is_escaped(hapo):
    out, err, _ = hapo("5", "\\boxed{\udcff\x1b[31m[b]\n5}")
    assert err == ""
    assert "\x1b" not in out
    assert r"\udcff\x1b[31m[b]\n5" in out


def test_a_long_answer_is_shown_in_part(hapo):
    out, _, _ = hapo("5", rf"\boxed{{{'9' * 5000}}}")
    assert "9" * 20 in out
    assert " ... " in out
    assert out.count("9") < 1000


# settings


def test_a_setting_decides(hapo):
    assert hapo("28%", "0.28")[2] == 0
    assert hapo("28%", "0.28", "--set", "conventions.percent_as_ratio=false")[2] == 1
    assert hapo("1/3", "0.333333", "--set=conventions.decimal_digits=null")[2] == 1
    assert hapo("5", "it may be 5", "--set", "conventions.fallbacks=[number]")[2] == 0


def test_the_defaults_are_those_of_training():
    config = OmegaConf.to_container(OmegaConf.load(f"{verb.config_folder()}/verifier/math.yaml"))
    settings = verb.configuration()
    inner = {key.partition(".")[2]: value for key, value in settings.items() if "." in key}
    assert {**inner, "_target_": "hapo_lit.verify.conventions.Conventions"} == config["conventions"]
    assert all(settings[key] == config[key] for key in ("cpu_seconds", "seconds", "memory_mib"))
    assert Conventions(**inner) == Conventions()
    named = {key for key in settings if "." not in key} | {"conventions", "remembered"}
    assert set(inspect.signature(Checker).parameters) == named
    assert verb.configuration(["workers=7"])["workers"] == 7


def test_workers_are_the_cores_that_may_be_used_but_at_most_4(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    assert verb.configuration()["workers"] == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7, 9})
    assert verb.configuration()["workers"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give GOLD and COMPLETION, or --file FILE"),
        (["5"], "give GOLD and COMPLETION, or --file FILE"),
        (["5", "5", "5"], "give GOLD and COMPLETION, or --file FILE"),
        (["5", "5", "--out", "v.jsonl"], "give GOLD and COMPLETION, or --file FILE"),
        (["5", "5", "--file", "r.jsonl"], "give GOLD and COMPLETION, or --file FILE"),
        (["--fil", "r.jsonl"], "there is no option '--fil'"),
        (["--fil", "r.jsonl"], "did you mean '--file'?"),
        (["--5", "5"], "goes after `--`"),
        (["--file"], "--file needs a value"),
        (["--file", "a", "--file=b"], "--file was given twice"),
        (["--file", "none.jsonl"], "'none.jsonl' does not exist"),
        (["--file", "."], "is no regular file"),
        (["5", "5", "--set", "conventions.percent_as_ration=1"], "did you mean 'conventions.percent_as_ratio'?"),
        (["5", "5", "--set", "percent_as_ratio=false"], "did you mean 'conventions.percent_as_ratio'?"),
        (["5", "5", "--set", "rubbish=1"], "there is no setting 'rubbish'; there are: workers, cpu_seconds, "),
        (["5", "5", "--set", "conventions.rubbish=1"], "there is no setting 'conventions.rubbish'; there are: workers"),
        (["5", "5", "--set", "conventions=3"], "there is no setting 'conventions'; there are: workers"),
        (["5", "5", "--set", "conventions._target_=os.system"], "there is no setting 'conventions._target_'"),
        (["5", "5", "--set", "conventions.join_boxes=perhaps"], "must be true or false, got 'perhaps'"),
        (["5", "5", "--set", "conventions.max_characters"], "must be a whole number, got ''"),
        (["5", "5", "--set", "conventions.max_characters=null"], "must be a whole number, got 'null'"),
        (["5", "5", "--set", "conventions.max_characters=0"], "must be at least 1, got 0"),
        (["5", "5", "--set", "conventions.fallbacks=[guess]"], "guess is none of tag, phrase"),
        (["5", "5", "--set", "conventions.fallbacks=tag"], "must be a list [of, words], got 'tag'"),
        (["5", "5", "--set", "conventions.fallbacks=[tag"], "cannot be read"),
        (["5", "5", "--set", "cpu_seconds=.inf"], "cpu_seconds must be a number, got '.inf'"),
        (["5", "5", "--set", "cpu_seconds=0"], "cpu_seconds must be positive, got 0"),
        (["5", "5", "--workers", "two"], "workers must be a whole number, got 'two'"),
        (["5", "5", "--workers=0"], "workers must be at least 1, got 0"),
        (["1-x", "-x+1", "--set", "memory_mib=100"], "a worker of the pool could not start"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(hapo, arguments, message):
    out, err, status = hapo(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith("hapo: error: ")
    assert len(err.splitlines()) == 1


def test_help_has_the_exit_status_every_option_and_examples(hapo):
    for arguments in (["--help"], ["-h"], ["5", "--help"]):
        out, err, status = hapo(*arguments)
        assert (err, status) == ("", 0)
    assert "Exit status: 0 if it is correct, 1 if it is not" in out
    assert all(option in out for option in verb.OPTIONS if option != "--help")
    assert "examples:" in out


# a file


def test_the_verdicts_of_a_file_row_by_row(hapo, tmp_path):
    rows = [
        {"gold": "1/2", "prediction": "0.5"},
        {"gold": "5", "prediction": "\ud800 6"},
        {"gold": "x+1", "prediction": "<think>", "extra": [1]},
        {"gold": "x+1", "prediction": r"\boxed{1+x}"},
        {"gold": "", "prediction": "ü\u20281"},
    ]
    write(tmp_path / "r.jsonl", rows)
    out, err, status = hapo("--file", "r.jsonl", "--out", "v.jsonl")
    assert (status, err) == (0, "")
    assert timeless(tmp_path / "v.jsonl") == [
        {"row": 0, "correct": True, "reason": "number", "extracted": "0.5"},
        {"row": 1, "correct": False, "reason": "refused", "extracted": "\ud800 6"},
        {"row": 2, "correct": False, "reason": "no_answer", "extracted": None},
        {"row": 3, "correct": True, "reason": "sympy", "extracted": "1+x"},
        {"row": 4, "correct": False, "reason": "bad_gold", "extracted": "ü\u20281"},
    ]
    assert all(each["seconds"] >= 0 for each in read(tmp_path / "v.jsonl"))
    assert (tmp_path / "v.jsonl").read_bytes().isascii()
    table = {line[0]: line[1:4] for line in cells(out)}
    assert table["sympy"] == ["1", "20.0%", "1"]
    assert table["refused"] == ["1", "20.0%", "0"]
    assert table["all"] == ["5", "100.0%", "2"]
    assert "expected" not in out


def test_without_a_place_for_them_the_verdicts_are_only_counted(hapo, tmp_path):
    write(tmp_path / "r.jsonl", [{"gold": "5", "prediction": "5"}] * 3)
    out, _, status = hapo("--file", "r.jsonl")
    assert status == 0
    assert ["all", "3", "100.0%", "3"] in [line[:4] for line in cells(out)]
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]


def test_the_slowest_are_told_by_reason():
    tables, console = score_file.ScoreTables(), _Printed()
    for number in range(200):
        verdict = score_file.Verdict(True, "number" if number else "sympy", "5", "box", number / 1000)
        tables.add(score_file.PredictionRow("5", "5", None, ""), verdict)
    tables.show(console)
    assert console.tables[0] == [
        ["number", "199", "99.5%", "199", "0.198", "0.199"],  # the 198th of 199
        ["sympy", "1", "0.5%", "1", "0.000", "0.000"],
        ["all", "200", "100.0%", "200", "0.197", "0.199"],
    ]


class _Printed:
    """A console that keeps the tables it is given."""

    def __init__(self):
        self.tables = []

    def print(self, table, **_):
        columns = [[str(cell) for cell in column.cells] for column in table.columns]
        self.tables.append([list(row) for row in zip(*columns, strict=True)])


def test_false_verdicts_are_counted_by_category_and_listed(hapo, tmp_path):
    rows = [{"gold": "5", "prediction": "6", "expected": True, "category": "[b]gsm"}] * 23
    rows += [{"gold": "5", "prediction": "5", "expected": True, "category": "[b]gsm"}]
    rows += [{"gold": "7", "prediction": r"\boxed{7.0}", "expected": False, "category": 3}]
    rows += [{"gold": "8", "prediction": "9", "expected": False}, {"gold": "8", "prediction": "8"}]
    write(tmp_path / "r.jsonl", rows)
    out, _, status = hapo("--file", "r.jsonl")
    assert status == 0
    table = cells(out.split("expected", 1)[1])
    assert ["[b]gsm", "24", "1", "0", "23"] in table
    assert ["3", "1", "0", "1", "0"] in table
    assert ["", "1", "1", "0", "0"] in table
    assert ["all", "26", "2", "1", "23"] in table
    assert ["24", "3", "7", "7.0", "number"] in table
    listed = [line[0] for line in table if line[1:] == ["[b]gsm", "5", "6", "number"]]
    assert listed == [str(number) for number in range(20)]
    assert "and 3 more false negatives" in out
    assert "more false positives" not in out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"gold": "5"', "no JSON ("),
        (b'{"gold": "5", "prediction": "\xff"}', "no JSON ("),
        (b"[" * 100_000, "no JSON ("),
        (b"[1]", "expected an object"),
        (b'{"gold": "5"}', "'prediction': expected text, found nothing"),
        (b'{"gold": 5, "prediction": "5"}', "'gold': expected text, found int"),
        (b'{"gold": "5", "prediction": null}', "'prediction': expected text, found NoneType"),
        (b'{"gold": "5", "prediction": "5", "expected": 1}', "'expected': expected true or false, found int"),
        (b'{"gold": "5", "prediction": "5", "expected": null}', "'expected': expected true or false, found NoneType"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_judged(hapo, tmp_path, monkeypatch, line, message):
    monkeypatch.setattr(Checker, "__call__", lambda *_: pytest.fail("judged"))
    good = b'{"gold": "5", "prediction": "5"}\n'
    (tmp_path / "r.jsonl").write_bytes(good * 600 + b"\n" + line + b"\n" + good)
    out, err, status = hapo("--file", "r.jsonl", "--out", "v.jsonl")
    assert (status, out) == (2, "")
    assert err.startswith("hapo: error: r.jsonl, line 602: ")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "v.jsonl").exists()


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_rows_is_one_line(hapo, tmp_path, text):
    (tmp_path / "r.jsonl").write_text(text)
    assert hapo("--file", "r.jsonl")[1:] == ("hapo: error: r.jsonl holds no rows", 2)


def test_blank_lines_and_a_byte_order_mark_are_no_rows(hapo, tmp_path):
    (tmp_path / "r.jsonl").write_bytes(
        b'\xef\xbb\xbf{"gold":"5","prediction":"5"}\r\n\r\n{"gold":"6","prediction":"6"}'
    )
    hapo("--file", "r.jsonl", "--out", "v.jsonl")
    assert [each["row"] for each in read(tmp_path / "v.jsonl")] == [0, 1]


# going on


@pytest.fixture
def watched(monkeypatch):
    """How many rows each call of the checker was given."""
    sizes = []
    judge = Checker.__call__

    def counting(self, golds, responses):
        sizes.append(len(golds))
        return judge(self, golds, responses)

    monkeypatch.setattr(Checker, "__call__", counting)
    monkeypatch.setattr(verb, "CHUNK", CHUNK)
    return sizes


NUMBERS = [{"gold": str(n), "prediction": str(n - n % 3), "expected": True} for n in range(50)]


def test_a_file_is_judged_in_chunks_and_not_twice(hapo, tmp_path, watched):
    write(tmp_path / "r.jsonl", NUMBERS)
    first = hapo("--file", "r.jsonl", "--out", "v.jsonl")
    assert watched == [16, 16, 16, 2]
    whole = (tmp_path / "v.jsonl").read_bytes()
    again = hapo("--file", "r.jsonl", "--out", "v.jsonl", "--workers", "1")
    assert watched == [16, 16, 16, 2]
    assert (tmp_path / "v.jsonl").read_bytes() == whole
    assert [line[:4] for line in cells(again[0])] == [line[:4] for line in cells(first[0])]


def test_each_chunk_is_on_disk_before_the_next_is_judged(hapo, tmp_path, monkeypatch):
    found = []
    judge = Checker.__call__

    def looking(self, golds, responses):
        found.append(lines_in(tmp_path / "v.jsonl"))
        return judge(self, golds, responses)

    monkeypatch.setattr(Checker, "__call__", looking)
    monkeypatch.setattr(verb, "CHUNK", CHUNK)
    write(tmp_path / "r.jsonl", NUMBERS)
    hapo("--file", "r.jsonl", "--out", "v.jsonl")
    assert found == [0, 16, 32, 48]


@pytest.mark.parametrize("cut", [1, 20, 0])
def test_a_half_written_line_is_cut_off_and_judged_again(hapo, tmp_path, watched, cut):
    write(tmp_path / "r.jsonl", NUMBERS)
    first, _, _ = hapo("--file", "r.jsonl", "--out", "v.jsonl")
    expected = timeless(tmp_path / "v.jsonl")
    lines = (tmp_path / "v.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "v.jsonl").write_bytes(b"".join(lines[:19]) + (lines[19][:-cut] if cut else b""))
    watched.clear()
    out, err, status = hapo("--file", "r.jsonl", "--out", "v.jsonl")
    assert (status, err) == (0, "")
    assert watched == [16, 15]
    assert timeless(tmp_path / "v.jsonl") == expected
    assert [line[:4] for line in cells(out)] == [line[:4] for line in cells(first)]


def test_other_rows_or_settings_are_refused(hapo, tmp_path):
    write(tmp_path / "r.jsonl", NUMBERS)
    write(tmp_path / "s.jsonl", NUMBERS[:-1])
    hapo("--file", "r.jsonl", "--out", "v.jsonl")
    whole = (tmp_path / "v.jsonl").read_bytes()
    for change, named in [
        (["--file", "s.jsonl"], "(rows)"),
        (["--file", "r.jsonl", "--set", "cpu_seconds=2"], "(cpu_seconds)"),
        (["--file", "r.jsonl", "--set", "conventions.decimal_digits=null"], "(conventions.decimal_digits)"),
    ]:
        _, err, status = hapo(*change, "--out", "v.jsonl")
        assert status == 2
        assert err.startswith(f"hapo: error: v.jsonl was made from other rows or settings {named}: ")
        assert (tmp_path / "v.jsonl").read_bytes() == whole
    assert hapo("--file", "r.jsonl", "--out", "v.jsonl", "--set", "cpu_seconds=1")[2] == 0


def test_other_rules_are_refused(hapo, tmp_path, monkeypatch):
    write(tmp_path / "r.jsonl", NUMBERS)
    hapo("--file", "r.jsonl", "--out", "v.jsonl")
    monkeypatch.setattr(verb, "RULES", verb.RULES + 1)
    assert "(rules)" in hapo("--file", "r.jsonl", "--out", "v.jsonl")[1]


def test_a_file_that_is_not_ours_is_never_touched(hapo, tmp_path):
    write(tmp_path / "r.jsonl", NUMBERS)
    (tmp_path / "diary.txt").write_text("dear diary")
    for name in ("diary.txt", "r.jsonl"):
        before = (tmp_path / name).read_bytes()
        assert f"{name} exists, and no {name}.meta.json says what it is" in hapo("--file", "r.jsonl", "--out", name)[1]
        assert (tmp_path / name).read_bytes() == before


def test_damage_is_named(hapo, tmp_path):
    write(tmp_path / "r.jsonl", NUMBERS)
    hapo("--file", "r.jsonl", "--out", "v.jsonl")
    lines = (tmp_path / "v.jsonl").read_text().splitlines(keepends=True)
    for damaged in (lines[:7] + lines[8:], [*lines[:7], "\0\n", *lines[8:]], [*lines[:7], "5\n"]):
        (tmp_path / "v.jsonl").write_text("".join(damaged))
        assert "v.jsonl, line 8 is damaged" in hapo("--file", "r.jsonl", "--out", "v.jsonl")[1]
        assert (tmp_path / "v.jsonl").read_text() == "".join(damaged)
    (tmp_path / "v.jsonl").write_text("".join([*lines, lines[-1].replace("49", "50")]))
    assert "v.jsonl, line 51 is damaged" in hapo("--file", "r.jsonl", "--out", "v.jsonl")[1]
    (tmp_path / "v.jsonl.meta.json").write_text("{")
    assert "v.jsonl.meta.json is damaged" in hapo("--file", "r.jsonl", "--out", "v.jsonl")[1]


def test_a_place_that_cannot_be_written_is_one_line(hapo, tmp_path):
    write(tmp_path / "r.jsonl", NUMBERS)
    _, err, status = hapo("--file", "r.jsonl", "--out", "nowhere/v.jsonl")
    assert status == 2
    assert "nowhere/v.jsonl" in err
    assert len(err.splitlines()) == 1


def test_two_processes_do_not_write_one_file(hapo, tmp_path):
    write(tmp_path / "r.jsonl", NUMBERS)
    store = score_file.VerdictFile(tmp_path / "v.jsonl", {}, 50)
    assert "is being written by another process" in hapo("--file", "r.jsonl", "--out", "v.jsonl")[1]
    store.close()
    assert hapo("--file", "r.jsonl", "--out", "v.jsonl")[2] == 0


# the process


def start(folder, *arguments, **streams):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.Popen([sys.executable, "-c", SLOWLY, *arguments], cwd=folder, text=True, **streams)


def lines_in(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_killed_run_loses_at_most_a_chunk_and_goes_on(tmp_path):
    write(tmp_path / "r.jsonl", algebra(1500))
    arguments = ["--file", "r.jsonl", "--out", "v.jsonl", "--workers", "1"]
    run = start(tmp_path, *arguments)
    assert soon(lambda: lines_in(tmp_path / "v.jsonl") >= 2 * CHUNK, 60)
    family = descendants(run.pid)
    run.kill()
    run.communicate()
    assert family
    assert soon(lambda: not family & set(processes()))
    kept = (tmp_path / "v.jsonl").read_bytes()
    assert 2 * CHUNK <= kept.count(b"\n") < 1500
    assert kept.count(b"\n") % CHUNK == 0
    (tmp_path / "v.jsonl").write_bytes(kept[:-5])  # and as if it had met it in the middle of a line
    out, err = start(tmp_path, *arguments).communicate()
    assert err == ""
    assert (tmp_path / "v.jsonl").read_bytes().startswith(kept[:-5].rpartition(b"\n")[0])
    assert [(each["row"], each["correct"]) for each in read(tmp_path / "v.jsonl")] == [
        (n, n % 2 == 0) for n in range(1500)
    ]
    assert ["", "1,500", "1,500", "0", "0"] in cells(out)


@pytest.mark.parametrize("out", [True, False])
def test_an_interrupt_leaves_no_process_and_says_how_to_go_on(tmp_path, out):
    write(tmp_path / "r.jsonl", algebra(5000))
    run = start(tmp_path, "--file", "r.jsonl", *(["--out", "v.jsonl"] if out else []))
    assert soon(lambda: len(descendants(run.pid)) >= 2, 60)
    if out:
        assert soon(lambda: lines_in(tmp_path / "v.jsonl") >= CHUNK, 60)
    family = descendants(run.pid)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=30)
    assert run.returncode == 130
    assert not family & set(processes())
    said = err.splitlines()
    assert said[-1] == "hapo: interrupted"
    if out:
        found = lines_in(tmp_path / "v.jsonl")
        assert said[:-1] == [f"hapo: {found:,} of 5,000 verdicts are in v.jsonl; run again to continue"]
    else:
        assert len(said) == 1


def test_no_process_is_left_at_the_end(tmp_path):
    run = start(tmp_path, "1-x", "-x+1", "--set", "cpu_seconds=5")
    family = set()
    while run.poll() is None:
        family |= descendants(run.pid)
        time.sleep(0.01)
    assert run.returncode == 0
    run.communicate()
    assert family
    assert not family & set(processes())


def test_a_terminal_is_shown_a_bar(tmp_path):
    write(tmp_path / "r.jsonl", algebra(64))
    ours, theirs = pty.openpty()
    run = start(tmp_path, "--file", "r.jsonl", stderr=theirs)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # how Linux says that the other side is gone
        while some := os.read(ours, 4096):
            said += some
    os.close(ours)
    out, _ = run.communicate()
    assert b"scoring rows" in said
    assert "scoring rows" not in out
    assert run.returncode == 0


def test_one_answer_needs_nothing_heavy():
    code = (
        "import sys; from hapo_lit.cli import main; main(['verify', '1', '1']); "
        "print({'torch', 'lightning', 'transformers', 'hydra', 'sympy', 'numpy', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"

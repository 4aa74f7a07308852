"""``hapo verify GOLD COMPLETION``: one answer, settings, mistakes."""

import inspect
import os
import subprocess
import sys

import pytest
from omegaconf import OmegaConf
from support.verify_command import cells

from hapo_lit.cli import verify as verb
from hapo_lit.verify import Checker, Conventions


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
    out, _, status = hapo("--", "--help", "--help")
    assert status == 0
    assert "usage" not in out


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
        (["5", "5", "--set", "cpu_seconds=0"], "cpu_seconds must be a number above 0 and finite, got 0"),
        (["5", "5", "--workers", "two"], "workers must be a whole number, got 'two'"),
        (["5", "5", "--workers=0"], "workers must be a whole number from 1 to 256, got 0"),
        (["1-x", "-x+1", "--set", "memory_mib=100"], "workers cannot start: verifier.memory_mib=100 leaves"),
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


def test_one_answer_needs_nothing_heavy():
    code = (
        "import sys; from hapo_lit.cli import main; main(['verify', '1', '1']); "
        "print({'torch', 'lightning', 'transformers', 'hydra', 'sympy', 'numpy', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"

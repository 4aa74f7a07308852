"""Texts made to be slow, to fill the memory, or to be executed."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.verify_rows import BOX, HOSTILE, ROWS, verdicts_on

from hapo_lit.verify import Checker
from hapo_lit.verify.checking import REASONS


@pytest.mark.parametrize(
    "rows", [pytest.param(HOSTILE, marks=pytest.mark.slow, id="all"), pytest.param(HOSTILE[::6], id="a sixth")]
)
def test_no_hostile_row_is_right_and_none_leaves_a_file(checker, worker_folder, tmp_path, monkeypatch, rows):
    assert len(HOSTILE) >= 400
    monkeypatch.chdir(tmp_path)
    for row, verdict in zip(rows, verdicts_on(checker, rows), strict=True):
        assert verdict.reason in REASONS
        assert not verdict.correct, row
    assert list(tmp_path.iterdir()) == list(worker_folder.iterdir()) == []  # no payload has left its mark


EXPENSIVE = ("expand_bomb", "trig_log", "hard_calculus", "radical_sum")
"""The categories that take two thirds of the time of all hostile rows."""


@pytest.mark.slow
def test_expensive_rows_are_answered_soon_although_other_processes_keep_the_cores_busy():
    """On two cores that two other processes keep busy: each in less than 2.5 s."""
    rows = [row for row in HOSTILE if row["category"] in EXPENSIVE][::4]
    assert len(rows) > 25
    checker = Checker(workers=1)
    checker(["x+1"], [BOX % "1+x"])  # starts the worker
    burn = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100000))"
    burners = [subprocess.Popen([sys.executable, "-c", burn]) for _ in range(2)]
    try:
        for row in rows:
            started = time.monotonic()
            (verdict,) = verdicts_on(checker, [row])
            assert time.monotonic() - started < 2.5, row
            assert not verdict.correct, row
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
        checker.close()


def test_long_hostile_texts_are_answered_in_milliseconds(checker):
    texts = [
        r"\boxed{" * 100_000, "{" * 1_000_000, r"\boxed{" + "9" * 1_000_000 + "}", r"\boxed{6}" + "}" * 1_000_000,
        "the answer is " * 70_000, "<think>" * 140_000, "</think>" * 120_000 + r"\boxed{6}", "5," * 500_000,
        "\x00" * 1_000_000,
        r"\boxed{" + r"\text{" * 100_000 + "}" * 100_001, r"\boxed{6 }" + " " * 1_000_000, "\ud800" * 100_000,
    ]  # fmt: skip
    checker(["x+1"], [BOX % "1+x"])
    for text in texts:
        started = time.process_time()
        (verdict,) = checker(["5"], [text])
        assert not verdict.correct
        assert time.process_time() - started < 0.5, text[:40]


@pytest.mark.slow
def test_memory_of_the_parent_stays_flat(checker):
    def resident():
        return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024

    verdicts_on(checker, HOSTILE)
    before = resident()
    for turn in range(3):
        verdicts_on(checker, [row | {"prediction": row["prediction"] + " " * turn} for row in (*HOSTILE, *ROWS[:500])])
    assert resident() - before < 50


@pytest.mark.parametrize(
    "piece",
    [
        *("x+", r"\frac{1}{", "((", r"\text{a} ", "1,", "{", r"\{", "</think>", "answer is 5 ", "$x$ "),
        *(r"\textcolor{a}{", r"\color{a}{b}", "**", "$x$ of a ", r"\text{Answer: } ", "= ", "a1", "May 5 ", "C: "),
    ],
)
def test_time_is_linear_in_length(checker, piece):
    """Ten times the text may take at most some thirty times as long; a square would be a hundred."""

    def seconds(size):
        text = piece * (size // len(piece))
        started = time.process_time()
        checker(["5"], [text + r" \boxed{" + text + "}"])
        checker(["5"], [text])
        return time.process_time() - started

    assert seconds(1_000_000) < max(30 * seconds(100_000), 0.3)

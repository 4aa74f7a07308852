"""Whole verdicts: thousands of labelled rows, hostile rows, math-verify's own rows, and random text.

``verify_rows.jsonl`` and ``verify_hostile.jsonl`` were written by hand and by small programs from mathematics and the
table in ``docs/verifier.md``; a part of the first was written by somebody who had not seen the code.
"""

import ast
import json
import math
import os
import re
import subprocess
import sys
import tarfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from hydra.utils import instantiate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from hapo_lit.data.arithmetic import Arithmetic, Level, NoErrors
from hapo_lit.verify import Checker, Conventions
from hapo_lit.verify.answers import bare
from hapo_lit.verify.checking import REASONS

HERE = Path(__file__).parent
BOX = r"so \boxed{%s}."


def rows_of(name):
    return [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]


ROWS, HOSTILE = rows_of("verify_rows.jsonl"), rows_of("verify_hostile.jsonl")


@pytest.fixture(scope="module")
def checker():
    made = Checker(workers=2)
    yield made
    made.close()


def judged(checker, rows):
    return checker([row["gold"] for row in rows], [row["prediction"] for row in rows])


def test_labelled_rows_without_a_false_positive(checker):
    """Goal: none of them falsely right, 97 % decided as labelled.  Today: all."""
    assert len(ROWS) >= 2800
    assert len({row["category"] for row in ROWS}) >= 50
    verdicts = judged(checker, ROWS)
    false_positives = [row for row, v in zip(ROWS, verdicts, strict=True) if v.correct and not row["expected"]]
    assert false_positives == []
    missed = [(row, v) for row, v in zip(ROWS, verdicts, strict=True) if row["expected"] and not v.correct]
    assert len(missed) <= 0.001 * len(ROWS), missed
    reasons = Counter(verdict.reason for verdict in verdicts)
    assert reasons["timeout"] == reasons["worker_died"] == checker.kills == 0


def test_equality_is_symmetric_for_bare_answers(checker):
    """But for what the guard refuses of an answer and not of a reference: limits are for what a model wrote."""
    pairs = [(row["gold"], v.extracted) for row, v in zip(ROWS, judged(checker, ROWS), strict=True) if v.extracted]
    pairs = [
        (gold, answer) for gold, answer in pairs if "boxed" not in gold and bare(gold) and not answer.endswith("\\")
    ]
    there = checker([gold for gold, _ in pairs], [BOX % answer for _, answer in pairs])
    back = checker([answer for _, answer in pairs], [BOX % gold for gold, _ in pairs])
    assert len(pairs) > 2000
    one_sided = [
        (pair, one.reason, two.reason)
        for pair, one, two in zip(pairs, there, back, strict=True)
        if one.correct != two.correct and "refused" not in (one.reason, two.reason)
    ]
    assert one_sided == []


def test_every_reference_equals_itself(checker):
    golds = sorted({row["gold"] for row in ROWS if "boxed" not in row["gold"]})
    shipped = Arithmetic([Level("-", 4), Level("-", 5)], 384, 192, NoErrors(), 0)
    golds += [problem.answer for problem in (*shipped.train(), *shipped.heldout())]
    verdicts = checker(golds, [BOX % gold for gold in golds])
    assert [gold for gold, verdict in zip(golds, verdicts, strict=True) if not verdict.correct] == []


def test_hostile_rows_are_answered_soon_and_none_is_right(tmp_path, monkeypatch):
    """On two cores that two other processes keep busy: each in less than 2.5 s."""
    monkeypatch.chdir(tmp_path)
    assert len(HOSTILE) >= 400
    burn = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100000))"
    burners = [subprocess.Popen([sys.executable, "-c", burn]) for _ in range(2)]
    checker = Checker(workers=1)
    checker(["x+1"], [BOX % "1+x"])  # workers are up
    try:
        slowest = 0.0
        for row in HOSTILE:
            started = time.monotonic()
            (verdict,) = judged(checker, [row])
            slowest = max(slowest, time.monotonic() - started)
            assert verdict.reason in REASONS
            assert not verdict.correct, row
            assert slowest < 2.5, row
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
        checker.close()
    assert list(tmp_path.iterdir()) == []  # nor has a payload left its mark


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


def test_memory_of_the_parent_stays_flat(checker):
    def resident():
        return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024

    judged(checker, HOSTILE)
    before = resident()
    for turn in range(3):
        judged(checker, [row | {"prediction": row["prediction"] + " " * turn} for row in HOSTILE + ROWS[:500]])
    assert resident() - before < 50


# math-verify's own rows

EXCEPTIONS = {
    "test_math_extraction_additional_cases[17]": "a phrase that contradicts the box wins there, the box here",
    "test_set_rel_assymetry[3]": "tests an argument that makes equality of relations and intervals one-sided",
    "test_numina_cases[24]": "its reference is a box that is never closed, which says nothing here",
    "test_strict_variable_comparison[1]": "tests an argument for which f(x) equals f(y)",
    "test_string_extraction[9]": "wants 1 - 1/e to equal 1 + 1/e",
}
LATEX_ONLY = ("test_latex_notation", "test_set_rel_assymetry")
"""Tests that look for answers between dollars only, as we do without the fallback ``number``."""


def math_verify_tests():
    """The tests in math-verify's source distribution, downloaded once."""
    folder = Path.home() / ".cache/hapo_lit/tests"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not list(folder.glob("math_verify-0.9.0.tar.gz")):
            source = ["math-verify==0.9.0", "--no-deps", "--no-binary", "math-verify", "--no-build-isolation"]
            command = [sys.executable, "-m", "pip", "download", "-q", "-d", str(folder), *source]
            done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
            if not list(folder.glob("math_verify-0.9.0.tar.gz")):
                if os.environ.get("CI"):
                    pytest.fail(f"math-verify's tests could not be had: {done.stderr[-500:]}")
                pytest.skip("math-verify's tests could not be had")
    with tarfile.open(folder / "math_verify-0.9.0.tar.gz") as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            if re.search(r"/tests/test_\w+\.py$", member.name):
                yield archive.extractfile(member).read().decode()


def math_verify_rows():
    """(name, arguments) of each parametrised row that has a gold, a prediction and what is expected."""
    for text in math_verify_tests():
        for function in ast.walk(ast.parse(text)):
            for decorator in getattr(function, "decorator_list", []):
                if not isinstance(decorator, ast.Call) or not isinstance(decorator.args[0], ast.Constant):
                    continue
                names = [name.strip() for name in decorator.args[0].value.split(",")]
                if "gold" in names:
                    for number, row in enumerate(decorator.args[1].elts):
                        values = dict(zip(names, map(literal, row.elts), strict=True))
                        expected = values.pop("expected", values.pop("result", None))
                        yield f"{function.name}[{number}]", values | {"expected": bool(expected)}


def literal(node):
    """A constant, or one of the f-strings of math.sqrt that these tests have."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        assert "sqrt" in ast.unparse(node)
        return f"{math.sqrt(17):.15f}" if "math" in ast.unparse(node) else r"$\sqrt{17}$"


def test_math_verifys_own_rows():
    """With the looser conventions, which find and believe as much as math-verify: 270 of 275."""
    loose = instantiate(OmegaConf.load(HERE.parents[1] / "conf/verifier/math_loose.yaml").conventions)
    checkers = {}
    wrong, count = [], 0
    for name, row in math_verify_rows():
        conventions = loose
        if name.startswith(LATEX_ONLY):
            conventions = replace(conventions, fallbacks=tuple(r for r in loose.fallbacks if r != "number"))
        if "precision" in row:
            conventions = replace(conventions, decimal_digits=row["precision"])
        checker = checkers.setdefault(conventions, Checker(conventions))
        (verdict,) = checker([row["gold"]], [row["pred"]])
        wrong += [name] if verdict.correct != row["expected"] else []
        count += 1
    for checker in checkers.values():
        checker.close()
    assert count == 275
    assert sorted(wrong) == sorted(EXCEPTIONS)
    assert 1 - len(wrong) / count >= 0.98


# random text

PIECES = st.sampled_from(
    r"\frac{ \sqrt{ \text{ \boxed{ } { ( ) [ ] , ; : = < \le \ge \ne \in \cup \pm + - ^ _ ! | % \% $ \$ \ \\ & 0 1 2 "
    r"10 0.5 x y n i e \pi \infty \sin \log_ \sum_{k=1}^ \binom{ \begin{pmatrix} \end{pmatrix} \circ \text{and} or \{ "
    r"\} \left( \right) ½ ² √ ° − \overline{ \mathbb{R} ' \approx \cdot / \ldots </think> <answer> answer: is".split(
        " "
    )
)
LATEX = st.lists(PIECES, max_size=25).map(" ".join) | st.lists(PIECES, max_size=25).map("".join)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(gold=LATEX | st.text(max_size=60), answer=LATEX | st.text(max_size=80))
def test_no_text_makes_it_raise(checker, gold, answer):
    for response in (answer, BOX % answer, f"the answer is {answer}"):
        (verdict,) = checker([gold], [response])
        assert verdict.reason in REASONS
        assert not verdict.correct or verdict.reason in ("string", "number", "structure", "sympy")


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(data=st.binary(max_size=200))
def test_no_bytes_make_it_raise(checker, data):
    for text in (
        data.decode("latin-1"),
        data.decode("utf-8", "surrogateescape"),
        BOX % data.decode("utf-8", "replace"),
    ):
        (verdict,) = checker(["5"], [text])
        assert verdict.reason in REASONS


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(
    row=st.sampled_from([row for row in ROWS if row["expected"] and "boxed" not in row["gold"]]),
    where=st.floats(0, 1),
    what=st.sampled_from(["", "{", "}", "\\", "9", "-", "^", "x", ")", "\\frac"]),
)
def test_mutated_answers_do_not_make_it_raise(checker, row, where, what):
    place = int(where * len(row["gold"]))
    (verdict,) = checker([row["gold"]], [BOX % (row["gold"][:place] + what + row["gold"][place + 1 :])])
    assert verdict.reason in REASONS


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(numbers=st.lists(st.integers(-(10**12), 10**12), min_size=2, max_size=2, unique=True))
def test_different_integers_are_never_equal(checker, numbers):
    gold, answer = map(str, numbers)
    spelled = f"{numbers[1]:,}"
    verdicts = checker([gold, answer, answer], [BOX % answer, BOX % spelled, BOX % f"{answer}.0"])
    assert [verdict.correct for verdict in verdicts] == [False, True, True]


@pytest.mark.parametrize(
    "piece", ["x+", r"\frac{1}{", "((", r"\text{a} ", "1,", "{", r"\{", "</think>", "answer is 5 ", "$x$ "]
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


def test_conventions_change_no_verdict_of_plain_rows(checker):
    """Loosening how answers are found must not turn a wrong box into a right one."""
    loose = Checker(Conventions(fallbacks=("tag", "phrase", "bare", "formula", "number")))
    boxed = [row for row in ROWS if r"\boxed" in row["prediction"]][:600]
    assert [v.correct for v in judged(checker, boxed)] == [v.correct for v in judged(loose, boxed)]
    loose.close()

"""Thousands of labelled rows."""

from collections import Counter

import pytest
from support.verify_rows import BOX, ROWS, verdicts_on

from hapo_lit.data.arithmetic import Arithmetic, Level, NoErrors
from hapo_lit.verify.answers import bare, is_no_answer


def test_the_rows_are_many_and_of_many_kinds():
    assert len(ROWS) >= 2800
    assert len({row["category"] for row in ROWS}) >= 50


SHARES = [pytest.param(ROWS, marks=pytest.mark.slow, id="all"), pytest.param(ROWS[::6], id="a sixth")]
"""All rows take more than ten seconds; a sixth of them is what ``make check`` has time for."""


@pytest.mark.parametrize("rows", SHARES)
def test_labelled_rows_without_a_false_positive(checker, rows):
    """None of them falsely right, and none of them falsely wrong."""
    kills = checker.kills
    verdicts = verdicts_on(checker, rows)
    false_positives = [row for row, v in zip(rows, verdicts, strict=True) if v.correct and not row["expected"]]
    assert false_positives == []
    missed = [(row, v) for row, v in zip(rows, verdicts, strict=True) if row["expected"] and not v.correct]
    assert missed == []
    reasons = Counter(verdict.reason for verdict in verdicts)
    assert reasons["timeout"] == reasons["worker_died"] == checker.kills - kills == 0


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(ROWS, marks=[pytest.mark.slow, pytest.mark.exhaustive], id="all"),
        pytest.param(ROWS[::3], marks=pytest.mark.slow, id="a third"),
        SHARES[1],
    ],
)
def test_equality_is_symmetric_for_bare_answers(checker, rows):
    """But for what the guard refuses of an answer and not of a reference: limits are for what a model wrote."""
    pairs = [(row["gold"], v.extracted) for row, v in zip(rows, verdicts_on(checker, rows), strict=True) if v.extracted]
    pairs = [
        (gold, answer) for gold, answer in pairs if "boxed" not in gold and bare(gold) and not answer.endswith("\\")
    ]
    assert len(pairs) > 0.6 * len(rows)
    there = checker([gold for gold, _ in pairs], [BOX % answer for _, answer in pairs])
    back = checker([answer for _, answer in pairs], [BOX % gold for gold, _ in pairs])
    one_sided = [
        (pair, one.reason, two.reason)
        for pair, one, two in zip(pairs, there, back, strict=True)
        if one.correct != two.correct and "refused" not in (one.reason, two.reason)
    ]
    assert one_sided == []


def test_every_reference_equals_itself(checker):
    golds = sorted({row["gold"] for row in ROWS if "boxed" not in row["gold"] and not is_no_answer(row["gold"])})
    shipped = Arithmetic([Level("-", 4), Level("-", 5)], 384, 192, NoErrors(), 0)
    golds += [problem.answer for problem in (*shipped.train(), *shipped.heldout())]
    verdicts = checker(golds, [BOX % gold for gold in golds])
    assert [gold for gold, verdict in zip(golds, verdicts, strict=True) if not verdict.correct] == []

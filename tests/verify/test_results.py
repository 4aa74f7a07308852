"""Answers that leave to be computed what they should have computed, on rows that have the problem's text."""

import pytest
from support.verify_rows import rows_of

from hapo_lit.rows import Questions
from hapo_lit.verify import Conventions
from hapo_lit.verify.forms import texts_in
from hapo_lit.verify.judging import judge
from hapo_lit.verify.latex import normalise
from hapo_lit.verify.parsing import parse
from hapo_lit.verify.results import any_stands_in, unevaluated
from hapo_lit.verify.verifier import MathVerifier

ROWS = rows_of("verify_problems.jsonl")
COLUMNS = [[row[name] for row in ROWS] for name in ("gold", "prediction", "problem")]


def test_labelled_rows_with_their_problems_are_decided_as_labelled(checker):
    verdicts = checker(*COLUMNS)
    missed = [(row, verdict) for row, verdict in zip(ROWS, verdicts, strict=True) if verdict.correct != row["expected"]]
    assert missed == []
    assert sum(verdict.reason == "unevaluated" for verdict in verdicts) >= 35


@pytest.fixture
def decided_by(checker, monkeypatch):
    """Which responses are right by an option; it is not one that workers know."""

    def decide(option, *columns):
        with monkeypatch.context() as patch:
            patch.setattr(checker, "conventions", Conventions(unevaluated=option))
            return [verdict.correct for verdict in checker(*columns)]

    return decide


def test_without_the_problem_or_by_the_option_equal_is_right(checker, decided_by):
    golds, responses, problems = COLUMNS
    by_option = decided_by("right", golds, responses, problems)
    assert [verdict.correct for verdict in checker(golds, responses)] == by_option
    assert sum(by_option) - sum(row["expected"] for row in ROWS) >= 35


def test_where_the_task_is_to_compute_the_problem_need_not_have_the_expression(decided_by):
    answers = ["3+4", "4+3", "7", "7.0", "x=7", r"\frac{14}{2}", r"3+4\text{ cm}", r"7\text{ cm}"]
    responses = [rf"\boxed{{{answer}}}" for answer in answers]
    assert decided_by("wrong", ["7"] * 8, responses) == [False, False, True, True, True, False, False, True]


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("7", "3+4"),
        ("12", r"\sqrt{144}"),
        (r"7\pi", r"3\pi+4\pi"),
        ("6x", r"2\cdot3x"),
        (r"8\pi", r"2^3\pi"),
        (r"6\pi", r"3!\pi"),
        (r"2\pi", r"\sqrt{4}\pi"),
        (r"\frac{\pi}{2}", r"\frac{2}{4}\pi"),
        ("x+7", "x+3+4"),
    ],
)
def test_an_operation_is_left_in_the_answer_alone(gold, answer):
    one, other = (parse(normalise(text)) for text in (gold, answer))
    assert unevaluated(one, other) == list(texts_in(other))
    assert unevaluated(other, one) == unevaluated(one, one) == []


@pytest.mark.parametrize(
    "answer",
    ["x^2+3", r"5-2\sqrt{3}", r"\frac{1+\sqrt{5}}{2}", "1-2x", r"x^{12}\cdot y", r"3\cdot10^5x", "a_1+2", "x_2-3y"],
)
def test_no_operation_is_left_where_numbers_are_exponents_coefficients_and_indices(answer):
    assert unevaluated(parse("q"), parse(normalise(answer))) == []


def test_a_number_is_not_found_inside_another():
    assert any_stands_in(["3+4"], "Compute 3 + 4.")
    assert not any(any_stands_in(["3+4"], problem) for problem in ("13+4", "3+45", "0.3+4", "4+3", ""))


def test_training_gives_the_verifier_the_problems(checker):
    verifier = MathVerifier()
    verifier.checker = checker
    responses, answers = [r"\boxed{3+4}", r"\boxed{7}"], ["7", "7"]
    assert verifier(responses, answers).tolist() == [1, 1]
    questions = Questions(answers, problems=["Compute 3+4."] * 2)
    assert judge(verifier, responses, questions).successes.tolist() == [False, True]
    assert verifier.metrics()["verify/unevaluated"] == 0.5
    assert MathVerifier(Conventions(unevaluated="wrong")).asks_for == ()

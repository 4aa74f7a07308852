"""Finding the answer in a response."""

import time

import pytest

from hapo_lit.verify import Conventions
from hapo_lit.verify.answers import bare, find, last_box, only_box, reference


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{5}.", "5"),
        (r"\boxed{1} and \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2", None),  # a broken last box is no answer, whatever came before
        (r"The value is 5. \boxed{}", None),
        (r"The value is 5. \boxed{ }", None),
        (r"The value is 5. \boxed 5", None),
        (r"no box: 5", None),
        (r"\boxed{1}</think> the answer is 5", None),
        (r"\boxed{1}</think> \boxed{2}", "2"),
        (r"</think>\boxed{3}", "3"),
        (r"\boxed{ {a} }", "{a}"),
        (r"\boxed {7}", "7"),
        (r"\fbox{7}", "7"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{x\right.}", r"\left\{x\right."),  # an escaped brace is no brace
        (r"\boxed{5\}", None),
        (r"\boxed{1\\}", r"1\\"),
    ],
)
def test_the_last_complete_box_counts(text, content):
    assert last_box(text) == content


@pytest.mark.parametrize(
    ("text", "answer", "route"),
    [
        ("<answer> 5 </answer>", "5", "tag"),
        ("<answer>4</answer> no, <answer>5</answer>", "5", "tag"),
        ("<answer>5", None, "tag"),
        ("The answer is 5.", "5", "phrase"),
        ("The final answer is: $\\frac{1}{2}$. I hope it is correct.", "\\frac{1}{2}", "phrase"),
        ("**Answer:** 3.5", "3.5", "phrase"),
        ("Answer: 4\nNo.\nAnswer: 5", "5", "phrase"),
        ("5", "5", "bare"),
        ("$x = 5$", "x = 5", "bare"),
        ("12 square meters", "12 square meters", "bare"),
        ("2 and 3", "2 and 3", "bare"),
        ("I think that it is about 5", None, "none"),
        ("maybe 5", None, "none"),
        ("5\n6", None, "none"),
        ("", None, "none"),
        ("<think>so 5", None, "none"),
        ("<think>so \\boxed{5}", None, "none"),  # an unfinished thought
        ("<think>hm</think>5", "5", "bare"),
    ],
)
def test_without_a_box_the_fallbacks_are_tried_in_order(text, answer, route):
    assert find(text) == (answer, route)


def test_fallbacks_can_be_switched_off_and_never_follow_a_broken_box():
    assert find("The answer is 5", ()) == (None, "none")
    assert find("The answer is 5", ("bare",)) == (None, "none")
    assert find(r"The answer is 5. \boxed{@", ("phrase", "number")) == (None, "box")
    assert find("so that gives 4 in the end", ("number",)) == ("4", "number")
    assert find("so $x=3$ holds", ("formula", "number")) == ("x=3", "formula")
    assert find("<think>so 5", (*Conventions().fallbacks, "number"), False) == ("5", "number")


def test_boxes_side_by_side_are_joined_only_on_demand():
    text = r"\boxed{1} and \boxed{2}"
    assert find(text) == ("2", "box")
    assert find(text, join_boxes=True) == ("1, 2", "box")
    assert find(r"\boxed{1}. After a longer consideration it is clear: \boxed{2}", join_boxes=True) == ("2", "box")


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5", "5"),
        (" x=5 ", "x=5"),
        (r"We add. So \boxed{7}, done.", "7"),
        (r"\boxed{", None),
        ("", None),
        ("  ", None),
        ("a figure that nobody can draw at all", "a figure that nobody can draw at all"),
    ],
)
def test_the_reference_is_the_last_box_of_a_solution_or_the_text_itself(gold, answer):
    assert reference(gold) == answer


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"7-2-0=05;\boxed{5}", "5"),
        (r"\boxed{5} ", "5"),
        (r"\boxed{5}5", None),
        (r"\boxed{5}\boxed{5}", None),
        (r"\boxed{5", None),
        (r"\boxed{5}}", None),
    ],
)
def test_only_one_box_at_the_very_end(text, content):
    assert only_box(text) == content


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{" * 150_000,
        r"\boxed{" + "{" * 1_000_000,
        "<think>" * 150_000,
        "the answer is " * 70_000,
        "<answer>" * 120_000,
        "$" * 1_000_000,
        "a" * 1_000_000,
        "answer   " * 110_000,
        " " * 1_000_000,
        "\\" * 1_000_000,
    ],
)
def test_a_megabyte_is_searched_in_milliseconds(text):
    start = time.process_time()
    found = find(text, (*Conventions().fallbacks, "formula", "number"))
    reference(text)
    assert found.answer is None or len(found.answer) <= len(text)
    assert time.process_time() - start < 0.5


def test_bare_answers_are_few_words():
    assert bare("Evelyn") == "Evelyn"
    assert bare("the red car won it") is None

"""Which problems count as the same: fingerprints of the normalised text."""

from __future__ import annotations

import pytest

from hapo_lit.data.filters import OverlapsEvaluation, fingerprint64, normalised
from hapo_lit.data.schemas import Candidate

SAME = [
    ("What is $1 + 1$?", "what is 1+1"),
    (r"Find \(x\,y\).", "find $xy$"),
    (r"Let $\left( \dfrac{1}{2} \right)$", r"Let \[(\frac12)\]"),
    ("It costs \\$1,000.", "it costs 1000"),
    (r"It costs 1{,}000\!", "It costs 1\\,000"),
    ("Solve\n\n  the equation: $x=1$", "Solve the equation $x=1$."),
    ("A three-digit number", "a three digit number"),
    ("The value of ____ is “5”", "The value of __ is 5"),
    ("3 − 2", "3-2"),
    (r"a 20\% share", "a 20% share"),
    ("ＡＢ＝３", "AB=3"),
    ("1. Find $x$", "Find $x$"),
    ("(12) Find $x$", "Find $x$"),
    ("**Problem 3.** Find $x$", "Find $x$"),
    ("Exercise 4: $x=1$", "7) $x=1$"),
]

OTHER = [
    ("Compute 75-42.", "Compute 75+42."),
    ("Compute 75-42.", "Compute 754-2."),
    ("Compute 1.5", "Compute 15"),
    ("List 1, 12", "List 11, 2"),
    ("List 1 12", "List 11 2"),
    ("List 1  12", "List 112"),
    ("What is 5!", "What is 5"),
    ("Solve $x<1$", "Solve $x>1$"),
    (r"\sin x", r"\cos x"),
    ("3:2", "32"),
    ("1. 5", "2. 5"),
    ("12 apples and 3 pears", "11 apples and 3 pears"),
    ("3.5 apples", "2.5 apples"),
]


@pytest.mark.parametrize(("left", "right"), SAME)
def test_layout_does_not_change_a_fingerprint(left, right):
    assert normalised(left) == normalised(right)
    assert fingerprint64(left) == fingerprint64(right)


@pytest.mark.parametrize(("left", "right"), OTHER)
def test_another_problem_has_another_fingerprint(left, right):
    assert normalised(left) != normalised(right)
    assert fingerprint64(left) != fingerprint64(right)


def test_fingerprints_are_the_same_in_every_process():
    assert fingerprint64("What is $1 + 1$?") == 2676135744274274857
    assert all(0 <= fingerprint64(str(index)) < 2**64 for index in range(1000))
    assert len({fingerprint64(f"Compute {index}-7.") for index in range(10_000)}) == 10_000


def test_a_problem_of_an_evaluation_set_is_dropped():
    def row(problem):
        return Candidate(problem, (), "4")

    overlaps = OverlapsEvaluation(text for text in ["Find the least prime above $90$.", "", "?"])
    assert overlaps(row("find  the least prime\nabove 90"))
    assert not overlaps(row("Find the least prime above $91$."))
    assert not overlaps(row("..."))
    assert not OverlapsEvaluation([])(row("Find $x$."))
    with pytest.raises(ValueError, match="one text"):
        OverlapsEvaluation("Find the least prime above 90.")

"""Random text never makes the checker raise."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.verify_rows import BOX, ROWS

from hapo_lit.verify.checking import REASONS

PIECES = st.sampled_from(
    r"\frac{ \sqrt{ \text{ \boxed{ } { ( ) [ ] , ; : = < \le \ge \ne \in \cup \pm + - ^ _ ! | % \% $ \$ \ \\ & 0 1 2 "
    r"10 0.5 x y n i e \pi \infty \sin \log_ \sum_{k=1}^ \binom{ \begin{pmatrix} \end{pmatrix} \circ \text{and} or \{ "
    r"\} \left( \right) ½ ² √ ° − \overline{ \mathbb{R} ' \approx \cdot / \ldots </think> <answer> answer: is".split(
        " "
    )
)
LATEX = st.lists(PIECES, max_size=25).map(" ".join) | st.lists(PIECES, max_size=25).map("".join)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(gold=LATEX | st.text(max_size=60), answer=LATEX | st.text(max_size=80))
def test_no_text_makes_it_raise(checker, gold, answer):
    for response in (answer, BOX % answer, f"the answer is {answer}"):
        (verdict,) = checker([gold], [response])
        assert verdict.reason in REASONS
        assert not verdict.correct or verdict.reason in ("string", "number", "structure", "sympy")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
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

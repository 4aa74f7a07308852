import random
import time

import pytest

from hapo_lit.data.filters import (
    AnswerUnparsable,
    Figure,
    MarkedInvalid,
    MultipleChoice,
    NoAnswer,
    OverlapsEvaluation,
    Proof,
    SourceNotAllowed,
)
from hapo_lit.data.schemas import Candidate

FILTERS = [
    NoAnswer(),
    Proof(),
    MultipleChoice(),
    Figure(),
    MarkedInvalid(),
    AnswerUnparsable(),
    SourceNotAllowed(["olympiads"]),
    OverlapsEvaluation(["Find the least prime above 90."]),
]


def row(problem="Find $x$ with $2x=8$.", answer="4", solutions=(r"Halve: \boxed{4}",), **rest):
    return Candidate(problem, tuple(solutions), answer, **rest)


def test_every_reason_has_its_own_name():
    assert len({part.reason for part in FILTERS}) == len(FILTERS)


def test_an_ordinary_row_passes_all():
    assert not [part.reason for part in FILTERS if part(row(source="olympiads"))]


@pytest.mark.parametrize(
    ("answer", "drops"),
    [
        ("", True),
        (" ", True),
        ("notfound", True),
        ("NotFound ", True),
        ("0", False),
        ("not found in the table", False),
        (r"\varnothing", False),
        ("none", False),
    ],
)
def test_no_answer(answer, drops):
    assert NoAnswer()(row(answer=answer)) == drops


@pytest.mark.parametrize(
    ("candidate", "drops"),
    [
        (row(answer="proof"), True),
        (row(answer=" Proof"), True),
        (row(kind="proof"), True),
        (row(solutions=[r"which was to be shown. $\boxed{}$"]), True),
        (row(solutions=[r"so it holds. \[ \boxed { } \] "]), True),
        (row(solutions=[r"so it holds. $\boxed{}$ $\blacksquare$"]), True),
        (row(solutions=[r"so it holds. \boxed{} Q.E.D."]), True),
        (row(solutions=[r"Fill in the blank \boxed{}: it is \boxed{4}"]), False),
        (row(solutions=[r"With 3 in \boxed{} the sum is right, so 3."]), False),
        (row(solutions=[]), False),
        (row(answer="proof by contradiction"), False),
        (row(problem="Prove it yourself: what is the proof worth, 3 or 4 points?"), False),
        (row(solutions=[r"This ends the proof: \boxed{4}"]), False),
        (row(solutions=[r"\boxed{\{\}}"]), False),
    ],
)
def test_proof(candidate, drops):
    assert Proof()(candidate) == drops


OPTIONS = "Which is prime? (A) 4 (B) 5 (C) 6 (D) 8"


@pytest.mark.parametrize(
    ("problem", "answer", "drops"),
    [
        (OPTIONS, "B", True),
        (OPTIONS, "(B)", True),
        (OPTIONS, r"\text{B}", True),
        (OPTIONS, r"$\textbf{(B)}$", True),
        (OPTIONS, r"\textbf{(B)}\ 5", True),
        (OPTIONS, r"\mathrm{B}.", True),
        ("Which is prime?\nA. 4\nB. 5\nC. 6", "B", True),
        ("Which is prime?\nA: 4\nB: 5\nC: 6", "B", True),
        ("Which is prime? A) 4 B) 5 C) 6", "B", True),
        (r"Which? $\textbf{(A)}\ 4 \qquad \textbf{(B)}\ 5 \qquad \textbf{(C)}\ 6$", "B", True),
        (r"Which? $(\mathrm{A})\ 4 \quad (\mathrm{B})\ 5 \quad (\mathrm{C})\ 6$", "B", True),
        (r"Which? \text{(A) } 4 \text{(B) } 5 \text{(C) } 6", "B", True),
        (OPTIONS, "5", False),
        (OPTIONS, "F", False),
        (OPTIONS, "BC", False),
        ("Let $A \\subset B \\subset C$ be sets. Name $A \\cup B$.", "B", False),
        ("Given $P(A)=0.5$, $P(B)=0.2$ and $P(C)=0.1$, which event is likeliest?", "A", False),
        ("In the triangle with corners A, B and C, which corner is nearest?", "C", False),
        ("Which of the routes (A) and (B) is shorter?", "A", False),
        (r"Order $\sin(A)$, $\sin(B)$, $\sin(C)$ for $A<B<C<90$; which is least?", "A", False),
    ],
)
def test_multiple_choice(problem, answer, drops):
    assert MultipleChoice()(row(problem, answer)) == drops


def test_the_stated_kind_is_enough_for_multiple_choice():
    assert MultipleChoice()(row(kind="mcq"))
    assert not MultipleChoice()(row(kind="math-word-problem"))


@pytest.mark.parametrize(
    "problem",
    [
        "Find the angle. [asy] draw((0,0)--(1,1)); [/asy]",
        r"Find it. \includegraphics[width=3cm]{a}",
        r"Find it. \begin{tikzpicture}\end{tikzpicture}",
        "Find it. ![](https://example.org/a)",
        "Find it. ![the\ntriangle](a.png)",
        "Find it. https://cdn.example.org/2024_01_x?height=3",
        "Find it: http://example.org/pictures/one.JPG",
        "Find it. [img]one[/img]",
        'Find it. <img src="a">',
        "As shown in the figure, $AB=3$.",
        "As shown in the diagram below, $AB=3$.",
        "as shown in\n the  left figure, AB = 3",
        "The graph shown in the graph below is a line.",
        "In the figure, AB is 3.",
        "In the adjoining diagram AB is 3.",
        "In Figure 2, AB is 3.",
        "AB is 3 (see figure).",
        "AB is 3 (Fig. 1).",
        "The diagram shows a square.",
        "The figure below is made of two squares.",
        "Read it off the graph shown.",
        "Look at the picture on the right.",
        "A square is cut as in the following figure.",
        "What is the area of the shaded region?",
        "Find the height of the tower pictured below.",
        "What share of the circle is the unshaded part?",
        "如图，$AB=3$",
    ],
)
def test_a_problem_that_leans_on_a_picture_is_dropped(problem):
    assert Figure()(row(problem))


@pytest.mark.parametrize(
    "problem",
    [
        "Figure out the value of $x+1$.",
        "Round 3.14159 to three significant figures.",
        "How many three-figure numbers are written in figures 1 and 2 only?",
        "Find the area of the figure bounded by $y=x$ and $y=x^2$.",
        "Which plane figure has the largest area for its perimeter?",
        "A figure skater turns 3 times; in figure skating a turn counts twice.",
        "How many edges are in the graph $K_5$?",
        "Find the area under the graph above the $x$-axis.",
        "Where is the graph below the line $y=2$?",
        "Find the image of 3 under $f$; in the image of $f$ there is no 2.",
        "How many Young diagrams have 5 cells?",
        "Each cell of the board is shaded with probability 1/2.",
        "Find $n![x+1]$ at $n=3$.",
        "Let $y=5![a]$ (b).",
        "A tree has a shadow of 5 m. A picture costs 3 dollars and a picture frame 2.",
        "In the picture frame are 2 photographs.",
        "A drawing of 3 balls from an urn: see what is likeliest.",
        "The configuration shows up twice.",
        "Her image as a player rose by 5 points.",
    ],
)
def test_words_that_only_sound_like_a_picture_are_kept(problem):
    assert not Figure()(row(problem))


def test_marked_invalid():
    assert MarkedInvalid()(row(invalid=True))
    assert not MarkedInvalid()(row())


@pytest.mark.parametrize(
    "answer",
    [
        "1" * 201,
        "(1) 5 (2) 7",
        "(1) 5; (2) 7",
        r"(1) $5$; \quad(2) $7$",
        r"\text{(1) } 5, \text{ (2) } 7",
        "(1) (2,3); (2) (4,5)",
        "（1）5；（2）7",
        "a) 3, b) 4",
        "A) 3 B) 4",
        "(a) 3 and (b) 4",
        "(i) 3 (ii) 4",
        "1) 5 2) 7",
        "1. 5 2. 7",
        "For part (a) 3, for part (b) 4",
        "5\n7",
        r"5 \\ 7",
        r"\frac{1}{2",
        r"5}",
        r"}5{",
        "12厘米",
        "x=1或x=2",
        "五",
    ],
)
def test_an_answer_that_no_verifier_reads_is_dropped(answer):
    assert AnswerUnparsable()(row(answer=answer))


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "1" * 200,
        "(1,2)",
        "(1, 2), (2, 1)",
        "(1)",
        "(1)(2)(3 4)",
        "(1)(3)(2)",
        "(1), (2)",
        "f(1) + f(2)",
        "(a)x + (b)y",
        "1.5 or 2.5",
        "1: 3: 2: 4",
        "[0, 1)",
        r"\{1, 2\}",
        r"\left\{ x \mid x > 0 \right.",
        r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
        "\\begin{pmatrix} 1 \\\\\n 2 \\end{pmatrix}",
        "（1，2）",
        r"\frac{1}{2}",
        r"5\text{ cm}",
        " 5\n",
        "x = 1, y = 2",
        "ab + b",
    ],
)
def test_answers_that_only_look_odd_are_kept(answer):
    assert not AnswerUnparsable()(row(answer=answer))


def test_the_longest_answer_is_a_setting():
    assert AnswerUnparsable(max_characters=3)(row(answer="1234"))
    assert not AnswerUnparsable(max_characters=3)(row(answer="123"))
    with pytest.raises(ValueError, match="max_characters"):
        AnswerUnparsable(max_characters=0)


def test_source_not_allowed():
    assert not SourceNotAllowed(None)(row())
    assert not SourceNotAllowed(["Olympiads", "math"])(row(source="olympiads "))
    assert SourceNotAllowed(["olympiads"])(row(source="olympiads_ref"))
    assert SourceNotAllowed(["olympiads"])(row())
    assert SourceNotAllowed([])(row(source="math"))
    with pytest.raises(ValueError, match="a list of sources"):
        SourceNotAllowed("olympiads")


PIECES = [
    *[
        "(1)",
        "(2)",
        "a)",
        "b)",
        "(A)",
        "B.",
        "C:",
        "![",
        "](",
        "https://",
        "cdn.",
        ".png",
        "[asy]",
        "in the ",
        "figure",
    ],
    *[
        "shown ",
        " ",
        "\n",
        "\\",
        "\\\\",
        "{",
        "}",
        "$",
        r"\boxed{",
        r"\boxed{}",
        r"\text{",
        "yes",
        "no",
        ",",
        ".",
        "12",
    ],
    *["\ud800", "\x00", "或", "ﬃ", "²", "İ", "proof", "notfound", "A", "-", "_", "!", "Q.E.D.", "1,000", "\u202e", "_"],
]


def test_random_rows_never_raise():
    generator = random.Random(0)
    dropped = dict.fromkeys((part.reason for part in FILTERS), 0)

    def text(longest):
        return "".join(generator.choices(PIECES, k=generator.randrange(longest)))

    for _ in range(2000):
        candidate = Candidate(
            text(30),
            (text(10), text(3)),
            text(6),
            generator.choice(["olympiads", text(2)]),
            generator.choice(["mcq", text(2)]),
            generator.random() < 0.5,
        )
        for part in FILTERS:
            drops = part(candidate)
            assert drops is True or drops is False
            dropped[part.reason] += drops
    assert all(0 < count < 2000 for reason, count in dropped.items() if reason != "overlaps_evaluation"), dropped


@pytest.mark.parametrize(
    "piece",
    [*PIECES, "(1) x ", "1, ", "shown in the ", "http://", "![a", "{{", r"\boxed{ ", "1 ", "\\ ", "A) ", r"\a", "_ "],
    ids=repr,
)
def test_filters_are_linear(piece):
    long = piece * (100_000 // len(piece))
    unparsable = AnswerUnparsable(max_characters=10**9)
    for candidate in (row(long, long, [long]), row("(A) (B) " + long, "(1) " + long, [r"\boxed{}" + long])):
        for part in [*FILTERS, unparsable]:
            start = time.process_time()
            part(candidate)
            assert time.process_time() - start < 1.0, part.reason

"""Plain notation as LaTeX, and the time that notation takes on long texts."""

import time

import pytest
from support.verify_rows import BOX

from hapo_lit.verify.algebra import slashes
from hapo_lit.verify.kinds import determinants, functions
from hapo_lit.verify.latex import normalise
from hapo_lit.verify.plain import respelled


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("x**12", "x^{12}"),
        ("2 ** (n - 1)", "2^{n-1}"),
        ("e^-x", "e^{-x}"),
        ("e^-2t", "e^-2t"),  # -2 or -2t: not read
        ("2**3**2", "2**3^2"),
        ("f^(4)(x)", "f^(4)(x)"),
        ("sqrt(x+(y-1))", r"\sqrt{x+(y-1)}"),
        ("(0, sqrt(2)]", r"(0, \sqrt{2}]"),
        ("sqrt(2", "sqrt(2"),
        ("2**sqrt(x)", r"2^{\sqrt{x}}"),
        ("exp(-x**2)", "e^{-x^2}"),
        ("log10(x)", r"\log_{10}(x)"),
        ("alpha1+beta", r"\alpha_1+\beta"),
        ("beta decay", "beta decay"),
        (r"\text{beta decay}", r"\text{beta decay}"),
        (r"\text{beta}", r"\beta"),
        ("(-inf, +inf)", r"(-\infty, \infty)"),
        ("{3}/{4}", "3/4"),
        ("|{-5}|", "|-5|"),
        ("2-{-3}", "2-(-3)"),
        ("1/{2x}", "1/{2x}"),
        ("{1,2}", "{1,2}"),
    ],
)
def test_plain_notation_is_respelled(text, latex):
    assert normalise(text) == latex
    assert normalise(latex) == latex


@pytest.mark.parametrize(
    ("formula", "respelled"),
    [
        ("1/2x", r"1\cdot\frac{1}{2}\cdot x"),
        (r"1/\sqrt{2}x", r"1\cdot\frac{1}{\sqrt{2}}\cdot x"),
        ("1/2", "1/2"),
        ("1/xy", "1/xy"),
        ("1/2^nx", "1/2^nx"),
        (r"x/2\cdot y", r"x/2\cdot y"),
        ("|1/2|", r"|1\cdot\frac{1}{2}|"),
        ("1/(x+1)(x+2)", None),
        ("1/(x(y+1))z", None),
    ],
)
def test_a_number_after_a_slash_is_the_denominator_alone(formula, respelled):
    assert slashes.respelled(formula) == respelled


PIECES = [
    *("**", "^(", "^-", "sqrt(", "abs(", "exp ", "alpha ", "alpha1", "x**2", "log2", "2**sqrt(", r"\text{max}"),
    *("/2x", "/(", "/2", "x/(y)", r"\gcd(", r"\gcd(a,b)", r"\max\{1,", r"\begin{vmatrix}", "|\\begin{array}{c"),
    *(
        "{3}/",
        "|{-5}|",
        "{-{",
        r"+{\sqrt{2}",
        r"\degree",
        r"\sqrt[",
        r"\approx ",
        r"x\approx ",
        r"\cup(0,1)",
        "1,000 1/2",
    ),
]


@pytest.mark.parametrize("piece", PIECES)
def test_notation_is_read_in_linear_time(piece):
    """Ten times the text may take at most some thirty times as long; a square would be a hundred."""

    def seconds(size):
        text = piece * (size // len(piece))
        started = time.process_time()
        for read in (respelled, slashes.respelled, functions.calls, functions.in_order, determinants.evaluated):
            read(text)
        return time.process_time() - started

    assert seconds(300_000) < max(30 * seconds(30_000), 0.3)


def test_calls_are_found_from_outside_in():
    (piece,) = functions.calls(r"2\gcd(12, \max\{a,b\})+1")
    assert (piece.begin, piece.end) == (1, 22)
    assert piece.call == ("gcd", ("12", r"\max\{a,b\}"))
    assert functions.calls(r"\gcd(12)") is functions.calls(r"\gcd(a,,b)") is functions.calls(r"\gcd(a,b") is None
    assert functions.calls(r"\gcd(1,000, 5)") is None
    assert functions.calls(r"\max(a,b)" * 21) is None
    assert functions.in_order(r"\gcd(n,m)") == r"\gcd(m, n)"
    assert functions.in_order("f(n,m)") == "f(n,m)"


@pytest.mark.parametrize(
    "answer",
    [
        r"\begin{vmatrix}" + r"\\ ".join(["&".join(["10^{2000}"] * place + ["9"] * (5 - place)) for place in range(5)])
        + r"\end{vmatrix}",
        r"\operatorname{lcm}(" + ",".join(f"{base}^{{9999}}" for base in (2, 3, 5, 7, 11, 13, 17, 19)) + ")",
        r"\gcd(" * 10 + "a,b" + ",c)" * 10,
        r"x\approx 10^{2000}",
        r"\pi\approx 10^{2000}",
        "|" * 8 + r"\gcd(a,b)",
        r"\max(999!, 998!)^{9999}",
    ],
)  # fmt: skip
def test_large_numbers_of_functions_and_determinants_are_refused(checker, answer):
    kills = checker.kills
    assert not checker(["5"], [BOX % answer])[0].correct
    assert not checker([answer], [BOX % "5"])[0].correct
    assert checker.kills == kills

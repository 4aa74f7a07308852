"""Numbers are read exactly, and decimals stand for fractions by a rule."""

from fractions import Fraction

import pytest

from hapo_lit.verify.kinds import numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("0.50", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("3.", 3),
        ("1,234,567", 1234567),
        ("1 000", 1000),
        (r"\frac{-3}{4}", Fraction(-3, 4)),
        (r"-\frac{3}{4}", Fraction(-3, 4)),
        ("3/4", Fraction(3, 4)),
        (r"2\frac{1}{2}", Fraction(5, 2)),
        ("2 1/2", Fraction(5, 2)),
        (r"-2\frac{1}{2}", Fraction(-5, 2)),
        ("21/2", Fraction(21, 2)),
        (r"1.5\cdot10^{-3}", Fraction(3, 2000)),
        ("1.5e-3", Fraction(3, 2000)),
        ("3E5", 300_000),
        ("10^{-2}", Fraction(1, 100)),
        (r"0.\overline{3}", Fraction(1, 3)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        ("1/0", None),
        ("1 2", None),
        ("1,2", None),
        (r"2\frac{3}{2}", None),
        ("2e-5", None),  # 2e - 5
        ("10^{99999}", None),
        ("1e999999", None),
        ("9" * 401, None),
        ("__import__('os')", None),
        ("x", None),
        ("", None),
    ],
)
def test_numbers_are_read_exactly(text, value):
    number = numbers.read(text)
    assert (number.value if number else None) == value


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("0.333333", "1/3", True),
        ("0.33333", "1/3", False),
        ("0.333334", "1/3", False),
        ("0.666666", "2/3", True),
        ("0.666667", "2/3", True),
        ("-0.333333", "1/3", False),
        ("3.142857", "22/7", True),
        ("3.14286", "22/7", False),
        ("0.3", "0.30000000000000004", True),
        ("1.000000", "0.9999999", False),
        ("0.1234567", "0.1234568", False),
        ("1000001", "1.000000E6", False),
    ],
)
def test_a_decimal_stands_for_a_fraction_only_if_it_is_long_and_right(left, right, same):
    one, two = numbers.read(left), numbers.read(right)
    assert numbers.equal(one, two, 6) is same
    assert numbers.equal(two, one, 6) is same

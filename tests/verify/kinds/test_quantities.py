"""Values and units."""

import pytest

from hapo_lit.verify.kinds import quantities


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        (r"5\text{cm}", "5", "centimeter"),
        ("5 centimeters", "5", "centimeter"),
        (r"9.8\text{m/s^2}", "9.8", "meter/second^2"),
        (r"12\text{square feet}", "12", "foot^2"),
        (r"12\text{ft}^2", "12", "foot^2"),
        (r"\$5", "5", "dollar"),
        ("5 dollars", "5", "dollar"),
        (r"5\text{apples}", "5", "apple"),
        (r"30^\circ", "30", "degree"),
        (r"5\text{not 6}", r"5\text{not 6}", ""),
        (r"5\text{ is wrong}", r"5\text{ is wrong}", ""),
        (r"5\text{million}", r"5\cdot1000000", ""),
        (r"\sin30^\circ", r"\sin30^\circ", ""),
        ("5th", "5", ""),
        ("5m", "5m", ""),
    ],
)
def test_units_have_one_spelling_and_other_words_are_none(text, value, unit):
    assert quantities.read(text)[:2] == (value, unit)

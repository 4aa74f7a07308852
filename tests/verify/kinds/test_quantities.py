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
        (r"5\text{ is wrong}", "5", "?is ?wrong"),  # counts only if both sides say so
        (r"72\text{ red clips}", "72", "red clip"),
        (r"40\text{ tickets left}", "40", "ticket left"),
        ("5 cups of sugar", "5", "cup"),
        ("5 feet tall", "5", "foot"),
        (r"5\text{ rejected}", "5", "?rejected"),
        (r"30\text{ in total}", "30", ""),
        (r"A\text{ loses}", "A", "?lose"),
        ("5 abc", "5 abc", ""),
        (r"\$15\text{ per hour}", "15", "dollar/hour"),
        (r"25\pi\text{cm^2}", r"25\pi", "centimeter^2"),
        ("20 cm2", "20", "centimeter^2"),
        ("5 m^2/s", "5", "meter^2/second"),
        (r"5\text{million}", r"5\cdot1000000", ""),
        (r"\sin30^\circ", r"\sin30^\circ", ""),
        ("5th", "5", ""),
        ("5m", "5m", ""),
    ],
)
def test_units_have_one_spelling_and_other_words_are_none(text, value, unit):
    assert quantities.read(text)[:2] == (value, unit)

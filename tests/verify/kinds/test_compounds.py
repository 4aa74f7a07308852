"""Quantities of several units."""

import time

import pytest

from hapo_lit.verify.kinds import compounds


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("3 hours 20 minutes", {"hour": 3, "minute": 20}),
        (r"3\text{hours and}20\text{minutes}", {"hour": 3, "minute": 20}),
        ("2h 5min", {"hour": 2, "minute": 5}),
        ("2h 5m", {"hour": 2, "minute": 5}),
        ("5 m 20 cm", {"meter": 5, "centimeter": 20}),
        ("5 ft 7.5 in", {"foot": 5, "inch": 7.5}),
        ("3 cm and 4 cm", None),  # a list
        ("4 mm, 3 cm", None),
        ("3 apples and 2 pears", None),
        ("3 hours 20 meters", None),
        ("1.5 hours 20 minutes", None),
        ("3 hours 20 minutes later", None),
        ("3 hours", None),
        ("2x 3y", None),
    ],
)
def test_units_of_one_dimension_that_decrease_are_one_quantity(text, parts):
    found = compounds.read(text)
    assert (dict(found) if found else None) == parts


@pytest.mark.parametrize(
    "piece", ["3 h ", "3 hours and ", r"3\text{ h }", "3 ", "h", "1,000", r"1\frac{1}{2} ", ", and "]
)
def test_long_texts_are_read_at_once(piece):
    started = time.process_time()
    assert compounds.read("1" + piece * (1_000_000 // len(piece))) is None
    assert time.process_time() - started < 0.1

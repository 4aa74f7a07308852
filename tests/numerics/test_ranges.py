"""What numbers a parameter may have."""

from __future__ import annotations

import pickle
from math import inf, nan

import pytest

from hapo_lit.numerics import ranges
from hapo_lit.numerics.ranges import SettingError


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (ranges.check_positive, [1, 1e-9], [0, -1, inf, -inf]),
        (lambda name, value: ranges.check_positive(name, value, finite=False), [inf], [0, -inf]),
        (ranges.check_not_negative, [0, 2.5], [-1e-9, inf]),
        (ranges.check_finite, [-3, 0, 1e30], [inf, -inf]),
        (ranges.check_share, [0, 0.5, 1], [-0.1, 1.1, inf]),
        (ranges.check_count, [1, 10**9], [0, 1.0]),
        (lambda name, value: ranges.check_count(name, value, 0, 5), [0, 5], [-1, 6]),
        (lambda _, value: ranges.check_seed(value), [0, 2**62], [-1]),
    ],
)
def test_what_is_outside_or_no_number_is_refused_by_name(check, good, bad):
    for value in good:
        assert check("x", value) == value
    for value in (*bad, nan, True, "1", None, [1]):
        with pytest.raises(SettingError, match=r"^(x|seed) must be"):
            check("x", value)


def test_an_error_crosses_processes():
    error = pickle.loads(pickle.dumps(SettingError("eps", "must be above 0")))
    assert (error.parameter, str(error)) == ("eps", "eps must be above 0")

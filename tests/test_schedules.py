import pytest

from hapo_lit.schedules import Constant, Cosine, Linear


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Constant(3.0), [3.0, 3.0, 3.0, 3.0]),
        (Linear(1.0, 0.2), [1.0, 0.8, 0.6, 0.2]),
        (Cosine(1.0, 0.0), [1.0, 0.8535533905932737, 0.5, 0.0]),  # (1 + cos(π/4)) / 2
    ],
)
def test_values_at_quarters(schedule, values):
    assert [schedule(p) for p in (0, 0.25, 0.5, 1)] == pytest.approx(values)


@pytest.mark.parametrize("schedule", [Linear(1, 0), Cosine(1, 0)])
def test_progress_beyond_the_end_stays_at_the_end(schedule):
    assert schedule(1.5) == schedule(1.0)
    assert schedule(-1) == schedule(0)

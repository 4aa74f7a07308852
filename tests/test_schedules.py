import pytest

from hapo_lit.schedules import (
    Complement,
    Constant,
    Cosine,
    Linear,
    Sigmoid,
    Step,
    StepSchedule,
    WarmupCosine,
    WarmupLinear,
)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Constant(3.0), [3.0, 3.0, 3.0, 3.0]),
        (Linear(1.0, 0.2), [1.0, 0.8, 0.6, 0.2]),
        (Step(1.0, 0.2, at=0.25), [1.0, 0.2, 0.2, 0.2]),
        (Sigmoid(1.0, 0.0, 0.5, 4.0), [0.880797, 0.731059, 0.5, 0.119203]),  # 1/(1 + exp(∓2)), 1/(1 + exp(−1))
        (Complement(Linear(0.9, 0.1)), [0.1, 0.3, 0.5, 0.9]),
        (Cosine(1.0, 0.0), [1.0, 0.8535533905932737, 0.5, 0.0]),  # (1 + cos(π/4)) / 2
    ],
)
def test_values_at_quarters(schedule, values):
    assert [schedule(p) for p in (0, 0.25, 0.5, 1)] == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize("schedule", [Linear(1, 0), Cosine(1, 0), Step(1, 0), Sigmoid(1, 0)])
def test_progress_beyond_the_end_stays_at_the_end(schedule):
    assert schedule(1.5) == schedule(1.0)
    assert schedule(-1) == schedule(0)


def test_a_course_is_a_number_or_a_schedule_read_at_steps():
    assert [StepSchedule(0.3, None, "x")(step) for step in (0, 7)] == [0.3, 0.3]
    assert [StepSchedule(Linear(1, 0), 4, "x")(step) for step in (0, 1, 4, 9)] == [1, 0.75, 0, 0]
    assert StepSchedule(Step(2, 1), 4, "x").values() == (2, 2, 1, 1)
    assert len(StepSchedule(Linear(1, 0), 10**6, "x").values()) == 1001
    StepSchedule(Linear(1, 0), 4, "x").check_within(0, 1, "x")
    for horizon in (None, 0, -5):
        with pytest.raises(ValueError, match="x is a schedule and needs a horizon of at least 1 step"):
            StepSchedule(Linear(1, 0), horizon, "x")
    with pytest.raises(ValueError, match="x must be a finite number at every step, and is 'low'"):
        StepSchedule(lambda progress: "low", 4, "x").check_within(0, 1, "x")
    with pytest.raises(ValueError, match="horizon must be a whole number of at least 1"):
        StepSchedule(1.0, 0, "x")
    for value in ("high", None, True):
        with pytest.raises(ValueError, match="x must be a number or a schedule"):
            StepSchedule(value, 4, "x")


def test_a_steep_sigmoid_does_not_overflow():
    assert Sigmoid(1, 0, steepness=1e6)(1.0) == 0
    with pytest.raises(ValueError, match="steepness"):
        Sigmoid(1, 0, steepness=0)


@pytest.mark.parametrize(("schedule", "middle"), [(WarmupLinear, 0.6), (WarmupCosine, 0.6)])
def test_a_warm_up_rises_from_0_and_then_the_schedule_falls(schedule, middle):
    rate = schedule(start=1.0, end=0.2, warmup=0.2)
    assert [rate(progress) for progress in (0, 0.05, 0.1, 0.2, 0.6, 1, 2)] == pytest.approx(
        [0, 0.25, 0.5, 1, middle, 0.2, 0.2]
    )
    assert schedule(start=1.0, warmup=0.0)(0.0) == 1.0
    assert schedule(start=1.0)(1.0) == 0.0


@pytest.mark.parametrize("warmup", [-0.1, 1])
def test_a_warm_up_that_is_no_share_is_refused(warmup):
    with pytest.raises(ValueError, match=r"warmup must be (in|a share of the way in) \[0, 1"):
        WarmupLinear(1.0, warmup=warmup)

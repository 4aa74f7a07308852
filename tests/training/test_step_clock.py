import time

import pytest

from hapo_lit.training.step_clock import StepClock


def test_time_between_steps_leaves_out_what_has_a_name_and_the_first_step(monkeypatch):
    """Steps end at 10 s and 21 s and begin at 7, 15 and 25; in between are 2 s of data, and 1.5 s of evaluation."""
    now = iter([10.0, 15.0, 21.0, 25.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = StepClock()
    assert clock.begin(waited=3.0) == 0
    clock.end()
    clock.leave_out(1.5)
    assert clock.begin(waited=2.0) == pytest.approx(15 - 10 - 1.5 - 2)
    clock.end()
    assert clock.begin(waited=5.0) == 0  # clocks of others may be slower

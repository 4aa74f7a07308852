"""What becomes of a pair: the verdict, the limits of time and memory, and neighbours that do not notice."""

import os
import signal
import threading
import time

import pytest
from support.comparers import Sullen
from support.pools import BAD, GOOD, codes, processes_of, warm

from hapo_lit.verify.workers.messages import Code


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_keep_the_order_of_pairs_whatever_the_workers(make, workers):
    pool = make(workers=workers)
    pairs = [(str(n), str(n if n % 3 else n + 1)) for n in range(50)]
    pairs[7], pairs[8], pairs[20] = ("x", "sleep 0.2"), ("x", "abort"), ("x", "value error")
    expected = [Code.EQUAL if n % 3 else Code.NOT_EQUAL for n in range(50)]
    expected[7], expected[8], expected[20] = Code.NOT_EQUAL, Code.DIED, Code.UNPARSABLE
    assert codes(pool, *pairs) == expected
    assert codes(pool, *pairs[::-1]) == expected[::-1]
    assert 1 <= len(processes_of(pool)[1]) <= workers


def test_workers_work_at_the_same_time_and_no_more_than_needed_are_started(make):
    pool = make(workers=3)
    warm(pool, 2)
    warm(pool, 3)
    started = time.monotonic()
    outcomes = pool.compare([("1", "sleep 0.5")] * 3)
    assert 0.5 < time.monotonic() - started < 1.2
    assert all(0.5 < outcome.seconds < 1.2 for outcome in outcomes)


@pytest.mark.parametrize(
    ("act", "code"),
    [
        ("spin", Code.TIMEOUT),
        ("spin in C", Code.TIMEOUT),
        ("spin in a thread", Code.TIMEOUT),
        ("abort", Code.DIED),
        ("exit", Code.DIED),
        ("segfault", Code.DIED),
        ("4 GiB", Code.DIED),
        ("system exit", Code.DIED),
        ("bad code", Code.DIED),
        ("value error", Code.UNPARSABLE),
        ("recursion", Code.UNPARSABLE),
        ("bad gold", Code.BAD_GOLD),
        ("interrupt", Code.NOT_EQUAL),
        ("print", Code.NOT_EQUAL),
        ("\ud800 \x00", Code.NOT_EQUAL),
    ],
)
def test_what_becomes_of_an_answer_and_its_neighbours_live(limited, act, code):
    kills = limited.kills
    outcomes = limited.compare([GOOD, ("1", act), GOOD, BAD])
    assert [outcome.code for outcome in outcomes] == [Code.EQUAL, code, Code.EQUAL, Code.NOT_EQUAL]
    assert outcomes[1].seconds < 1.8  # with the timer; what stands behind it would take 2 s and more
    assert limited.kills - kills == (code in (Code.TIMEOUT, Code.DIED))
    assert codes(limited, GOOD, BAD) == [Code.EQUAL, Code.NOT_EQUAL]


def test_a_sleep_costs_no_cpu_time_and_a_lost_timer_is_made_up_for(limited):
    sleep, lost = limited.compare([("1", "sleep 0.5"), ("1", "spin without a timer")])
    assert (sleep.code, lost.code) == (Code.NOT_EQUAL, Code.TIMEOUT)
    assert lost.seconds > 1


def test_cpu_time_is_counted_anew_for_each_pair(make):
    pool = make(cpu_seconds=0.3, seconds=60.0)
    used = sum(outcome.seconds for outcome in pool.compare([("1", "work")] * 12))
    assert used > 2.2  # the first limits of timer and kernel are 0.3 and 2 s
    assert pool.kills == 0


def test_cpu_time_is_counted_only_while_a_pair_is_compared(make):
    pool = make(cpu_seconds=0.3)
    assert codes(pool, ("1", "linger")) == [Code.NOT_EQUAL]
    time.sleep(0.6)
    assert codes(pool, GOOD) == [Code.EQUAL]
    assert pool.kills == 0


def test_an_answer_that_uses_no_cpu_is_killed_at_its_deadline_which_runs_from_dispatch(make):
    pool = make(seconds=0.5)
    outcomes = pool.compare([("1", "sleep 0.3"), ("1", "sleep 0.3"), ("1", "sleep"), ("1", "sleep 0.3")])
    assert [outcome.code for outcome in outcomes] == [Code.NOT_EQUAL, Code.NOT_EQUAL, Code.TIMEOUT, Code.NOT_EQUAL]
    assert 0.5 <= outcomes[2].seconds < 0.9


def test_no_deadline_runs_while_a_worker_starts(make):
    pool = make(Sullen(how="work"), seconds=0.1)
    assert codes(pool, GOOD) == [Code.EQUAL]


def test_an_answer_that_ends_its_worker_is_tried_only_once(limited):
    for act in ("abort", "spin"):
        before = limited.kills
        limited.compare([("1", act)])
        assert limited.kills == before + 1


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_killed_from_outside_costs_no_verdict(make, ending):
    pool = make()
    pool.compare([GOOD])
    threading.Timer(0.1, os.kill, [processes_of(pool)[1][0], ending]).start()
    assert codes(pool, ("1", "sleep 0.2"), GOOD) == [Code.NOT_EQUAL, Code.EQUAL]
    assert pool.kills == 1


def test_an_answer_whose_worker_is_killed_again_died(limited):
    before = limited.kills
    assert codes(limited, ("1", "killed"), GOOD) == [Code.DIED, Code.EQUAL]
    assert limited.kills == before + 2


def test_a_replacement_is_quick_and_others_work_meanwhile(make):
    pool = make(workers=2)
    pool.compare([GOOD] * 2)
    started = time.monotonic()
    assert codes(pool, *[("1", "abort")] * 5) == [Code.DIED] * 5
    assert codes(pool, GOOD) == [Code.EQUAL]
    assert time.monotonic() - started < 3.0

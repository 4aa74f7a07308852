"""Pairs on their way to a worker that is slow, full or gone."""

import os
import signal
import threading
import time

import pytest
from support.comparers import Mortal
from support.pools import BAD, GOOD, codes, processes_of, warm

from hapo_lit.verify.workers.messages import Code


@pytest.mark.parametrize("size", [100_000, 1_000_000, 5_000_000])
def test_a_pair_larger_than_the_pipe(make, size):
    text = "ü" * size
    assert codes(make(workers=2), (text, text), (text, text + "1"), GOOD) == [Code.EQUAL, Code.NOT_EQUAL, Code.EQUAL]


def test_a_large_pair_for_a_worker_that_does_not_read_is_not_waited_for_for_ever(make):
    pool = make(seconds=0.5)
    pool.compare([GOOD])
    os.kill(processes_of(pool)[1][0], signal.SIGSTOP)
    text = "1" * 5_000_000
    assert codes(pool, (text, text)) == [Code.EQUAL]
    assert pool.kills == 1


def test_idle_workers_killed_from_outside_are_replaced(make):
    pool = make(workers=2)
    warm(pool, 2)
    for pid in processes_of(pool)[1]:
        os.kill(pid, signal.SIGKILL)
    assert codes(pool, GOOD, BAD, GOOD) == [Code.EQUAL, Code.NOT_EQUAL, Code.EQUAL]
    assert pool.kills == 2


def test_workers_that_leave_while_idle_cost_no_verdict(make):
    pool = make(Mortal(), workers=2)
    for _ in range(3):
        assert codes(pool, GOOD, BAD) == [Code.EQUAL, Code.NOT_EQUAL]
        time.sleep(0.6)
    assert pool.kills >= 2


def test_a_worker_lost_before_it_reads_its_pair_is_not_the_pairs_fault(make):
    pool = make()
    pool.compare([GOOD])
    pid = processes_of(pool)[1][0]
    os.kill(pid, signal.SIGSTOP)  # so that the pair is still in the pipe when the worker goes
    timer = threading.Timer(0.3, os.kill, [pid, signal.SIGKILL])
    timer.start()
    outcome = pool.compare([GOOD])[0]
    assert (outcome.code, pool.kills) == (Code.EQUAL, 1)
    assert outcome.seconds < 0.3  # of the second dispatch


def test_a_pair_that_no_worker_can_be_handed_died(make):
    pool = make(memory_mib=160)
    huge = "1" * 160_000_000
    assert codes(pool, GOOD, ("1", huge), GOOD) == [Code.EQUAL, Code.DIED, Code.EQUAL]
    assert pool.kills == 2

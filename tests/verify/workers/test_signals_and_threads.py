"""A pool in threads, beside an event loop, and under signals."""

import asyncio
import contextlib
import os
import signal
import threading
import time

import pytest
from support.pools import BAD, GOOD, codes, processes_of, warm
from support.processes import descendants, processes

from hapo_lit.verify.workers.messages import Code


def test_threads_queue_up(make):
    pool, results = make(workers=2), {}

    def work(name):
        for _ in range(30):
            results.setdefault(name, set()).update(codes(pool, (name, name), (name, "other"), (name, name)))

    threads = [threading.Thread(target=work, args=[str(name)]) for name in range(5)]
    before, most = len(descendants(os.getpid())), 0
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most = max(most, len(descendants(os.getpid())) - before)
        time.sleep(0.005)
    assert results == {str(name): {Code.EQUAL, Code.NOT_EQUAL} for name in range(5)}
    assert most == 3


def test_an_event_loop_goes_on_beside_to_thread_and_may_call_itself(make):
    pool = make(workers=1, cpu_seconds=0.3)

    async def main():
        ticks = 0
        compared = asyncio.create_task(asyncio.to_thread(codes, pool, ("1", "spin in C"), GOOD))
        while not compared.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks, await compared, codes(pool, GOOD)

    ticks, compared, own = asyncio.run(main())
    assert (compared, own) == ([Code.TIMEOUT, Code.EQUAL], [Code.EQUAL])
    assert ticks > 5


class Alarm(Exception):
    pass


@pytest.fixture
def alarm():
    """An outer timer, as of pytest-timeout or a cluster's wrapper."""
    kept = signal.getsignal(signal.SIGALRM)
    rung = []

    def arrange(seconds, error=None, interval=0.0):
        def ring(*_):
            rung.append(time.monotonic())
            if error is not None:
                raise error

        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, seconds, interval)
        return rung

    yield arrange
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, kept)


def test_an_outer_alarm_fires_while_pairs_are_compared(make, alarm):
    pool = make(workers=2)
    pool.compare([GOOD])
    rung = alarm(0.05, interval=0.05)
    assert codes(pool, *[GOOD, ("1", "sleep 0.5"), BAD]) == [Code.EQUAL, Code.NOT_EQUAL, Code.NOT_EQUAL]
    assert len(rung) >= 5


@pytest.mark.parametrize("error", [Alarm, KeyboardInterrupt])
def test_an_alarm_that_raises_leaves_the_pool_usable_and_nothing_stale(make, alarm, error):
    pool = make(workers=2, seconds=60.0)
    warm(pool, 2)
    workers = processes_of(pool)[1]
    alarm(0.2, error)
    with pytest.raises(error):
        pool.compare([("1", "sleep 0.4")] * 4)  # each of which would be NOT_EQUAL
    assert not set(workers) & set(processes())
    assert codes(pool, *[GOOD] * 4) == [Code.EQUAL] * 4


def test_an_interrupt_at_any_moment_leaves_the_pool_usable(make, alarm):
    """While its workers start, and while they work and are replaced."""
    pool = make(workers=2)
    for moment in range(16):
        if moment % 2:
            warm(pool, 2)
        alarm(0.0005 + 0.003 * moment, Alarm)
        with contextlib.suppress(Alarm):
            for _ in range(200):
                assert codes(pool, GOOD, ("1", "exit"), BAD) == [Code.EQUAL, Code.DIED, Code.NOT_EQUAL]
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert codes(pool, GOOD, BAD) == [Code.EQUAL, Code.NOT_EQUAL]
    pool.close()

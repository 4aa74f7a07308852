"""What a pool promises, each promise with a judge that breaks it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from support.comparers import Acting, Loud, Mortal, Speaking, Sullen
from support.processes import descendants, processes, soon

from hapo_lit.verify.workers import group as group_module
from hapo_lit.verify.workers.messages import Code
from hapo_lit.verify.workers.pool import Pool

GOOD, BAD = ("1", "1"), ("1", "2")


def codes(pool, *pairs):
    return [outcome.code for outcome in pool.compare(pairs)]


def crew_of(pool):
    """The processes of a pool: its fork server, and the workers."""
    server = pool._group.server.pid
    return server, sorted(descendants(server))


def warm(pool, workers):
    """A pool whose workers are all there; one alone may have judged all pairs before the next was forked."""
    pool.compare([GOOD] * workers)
    assert soon(lambda: len(crew_of(pool)[1]) == workers)


@pytest.fixture
def make():
    made = []

    def make(comparer=None, **settings):
        made.append(Pool(comparer or Acting(), **settings))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


# -- verdicts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_keep_the_order_of_pairs_whatever_the_workers(make, workers):
    pool = make(workers=workers)
    pairs = [(str(n), str(n if n % 3 else n + 1)) for n in range(50)]
    pairs[7], pairs[8], pairs[20] = ("x", "sleep 0.2"), ("x", "abort"), ("x", "value error")
    expected = [Code.EQUAL if n % 3 else Code.NOT_EQUAL for n in range(50)]
    expected[7], expected[8], expected[20] = Code.NOT_EQUAL, Code.DIED, Code.UNPARSABLE
    assert codes(pool, *pairs) == expected
    assert codes(pool, *pairs[::-1]) == expected[::-1]
    assert 1 <= len(crew_of(pool)[1]) <= workers


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
def test_what_becomes_of_an_answer_and_its_neighbours_live(make, act, code):
    pool = make(workers=2, cpu_seconds=0.3, seconds=30.0)
    outcomes = pool.compare([GOOD, ("1", act), GOOD, BAD])
    assert [outcome.code for outcome in outcomes] == [Code.EQUAL, code, Code.EQUAL, Code.NOT_EQUAL]
    assert outcomes[1].seconds < 1.8  # with the timer; what stands behind it would take 2 s and more
    assert pool.kills == (code in (Code.TIMEOUT, Code.DIED))
    assert codes(pool, GOOD, BAD) == [Code.EQUAL, Code.NOT_EQUAL]


def test_a_sleep_costs_no_cpu_time_and_a_lost_timer_is_made_up_for(make):
    pool = make(cpu_seconds=0.3, seconds=30.0)
    sleep, lost = pool.compare([("1", "sleep 1"), ("1", "spin without a timer")])
    assert (sleep.code, lost.code) == (Code.NOT_EQUAL, Code.TIMEOUT)
    assert lost.seconds > 1


def test_cpu_time_is_counted_anew_for_each_pair(make):
    pool = make(cpu_seconds=1.0, seconds=60.0)
    used = sum(outcome.seconds for outcome in pool.compare([("1", "work")] * 30))
    assert used > 2.5
    assert pool.kills == 0


def test_cpu_time_is_counted_only_while_a_pair_is_judged(make):
    pool = make(cpu_seconds=0.3)
    assert codes(pool, ("1", "linger")) == [Code.NOT_EQUAL]
    time.sleep(1.0)
    assert codes(pool, GOOD) == [Code.EQUAL]
    assert pool.kills == 0


def test_an_answer_that_uses_no_cpu_is_killed_at_its_deadline_which_runs_from_dispatch(make):
    pool = make(seconds=0.6)
    outcomes = pool.compare([("1", "sleep 0.4"), ("1", "sleep 0.4"), ("1", "sleep"), ("1", "sleep 0.4")])
    assert [outcome.code for outcome in outcomes] == [Code.NOT_EQUAL, Code.NOT_EQUAL, Code.TIMEOUT, Code.NOT_EQUAL]
    assert 0.6 <= outcomes[2].seconds < 1.0


def test_no_deadline_runs_while_a_worker_starts(make):
    pool = make(Sullen(how="work"), seconds=0.1)
    assert codes(pool, GOOD) == [Code.EQUAL]


def test_an_answer_that_ends_its_worker_is_tried_only_once(make):
    pool = make(cpu_seconds=0.3)
    for act in ("abort", "spin"):
        before = pool.kills
        pool.compare([("1", act)])
        assert pool.kills == before + 1


def test_a_replacement_is_quick_and_others_work_meanwhile(make):
    pool = make(workers=2)
    pool.compare([GOOD] * 2)
    started = time.monotonic()
    assert codes(pool, *[("1", "abort")] * 5) == [Code.DIED] * 5
    assert codes(pool, GOOD) == [Code.EQUAL]
    assert time.monotonic() - started < 3.0


# -- handing over ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100_000, 1_000_000, 5_000_000])
def test_a_pair_larger_than_the_pipe(make, size):
    text = "ü" * size
    assert codes(make(workers=2), (text, text), (text, text + "1"), GOOD) == [Code.EQUAL, Code.NOT_EQUAL, Code.EQUAL]


def test_a_large_pair_for_a_worker_that_does_not_read_is_not_waited_for_for_ever(make):
    pool = make(seconds=0.5)
    pool.compare([GOOD])
    os.kill(crew_of(pool)[1][0], signal.SIGSTOP)
    text = "1" * 5_000_000
    assert codes(pool, (text, text)) == [Code.EQUAL]
    assert pool.kills == 1


def test_idle_workers_killed_from_outside_are_replaced(make):
    pool = make(workers=2)
    warm(pool, 2)
    for pid in crew_of(pool)[1]:
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
    pid = crew_of(pool)[1][0]
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


# -- start and end ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("comparer", "settings", "cause"),
    [
        (Sullen(), {}, "LookupError: no parser today"),
        (Sullen(how="system exit"), {}, "SystemExit: 0"),
        (Sullen(how="segfault"), {}, "it ended with exit code -11"),
        (Sullen(how="sleep"), {}, "not ready after 1 s"),
        (Acting(preload=("no_such_module",)), {}, "No module named 'no_such_module'"),
        (Loud(), {}, "LookupError: no such comparer"),
        (Acting(), {"memory_mib": 8}, "memory_mib=8 leaves less than 64 MiB"),
        (Acting(), {"memory_mib": 2**60}, "OverflowError"),
    ],
)
def test_a_worker_that_cannot_start_is_an_error_that_names_the_cause(make, monkeypatch, comparer, settings, cause):
    monkeypatch.setattr(group_module, "START_SECONDS", 1.0 if comparer == Sullen(how="sleep") else 60.0)
    pool = make(comparer, **settings)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=cause):
            pool.compare([GOOD])


def test_a_lost_fork_server_is_an_error_and_the_next_call_starts_another(make):
    pool = make()
    pool.compare([GOOD])
    server, workers = crew_of(pool)
    os.kill(server, signal.SIGKILL)
    assert soon(lambda: not set(workers) & set(processes()))
    with pytest.raises(RuntimeError, match="fork server of the pool ended with exit code -9"):
        pool.compare([GOOD])
    assert codes(pool, GOOD) == [Code.EQUAL]


@pytest.mark.parametrize("name", ["workers", "cpu_seconds", "seconds", "memory_mib"])
def test_settings_that_would_lift_a_limit_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be .* got 0"):
        Pool(Acting(), **{name: 0})


def test_close_leaves_no_process_and_a_closed_pool_starts_again(make):
    pool = make(workers=2)
    before = descendants(os.getpid())
    for _ in range(2):
        warm(pool, 2)
        assert len(descendants(os.getpid()) - before) == 3
        pool.close()
        assert descendants(os.getpid()) == before
    pool.close()


def test_a_pool_that_nobody_holds_ends_its_processes():
    before = descendants(os.getpid())
    pool = Pool(Acting())
    pool.compare([GOOD])
    del pool
    gc.collect()
    assert soon(lambda: descendants(os.getpid()) == before)


def run(program, **options):
    """Start a Python that runs ``program`` with what it needs at hand."""
    head = "import os, signal, sys, threading, time\nfrom support.comparers import Acting\n"
    head += "from hapo_lit.verify.workers.pool import Pool\n"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen([sys.executable, "-c", head + program], stdout=subprocess.PIPE, env=env, **options)


@pytest.mark.parametrize("act", ["sleep", "spin in C"])
def test_no_orphan_when_the_parent_is_killed_in_the_middle_of_a_hang(act, tmp_path):
    program = f"Pool(Acting(), workers=2, cpu_seconds=600, seconds=600).compare([('1', {act!r})] * 2)"
    with run(program) as parent:
        assert soon(lambda: len(descendants(parent.pid)) == 3, 20)
        time.sleep(0.3)
        family = descendants(parent.pid)
        parent.kill()
    assert len(family) == 3
    assert soon(lambda: not family & set(processes()))


def test_a_program_that_forgets_to_close_ends_and_leaves_nothing():
    program = """
pool = Pool(Acting(), workers=2)
pool.compare([("1", "1")] * 2)
threading.Thread(target=pool.compare, args=[[("1", "sleep")]], daemon=True).start()
time.sleep(0.3)
print(pool._group and pool._group.server.pid, flush=True)
"""
    with run(program) as parent:
        assert soon(lambda: descendants(parent.pid), 20)
        server = min(descendants(parent.pid))
        assert parent.wait(30) == 0
    assert soon(lambda: server not in processes() and not descendants(server))


def test_the_terminals_interrupt_reaches_the_parent_alone():
    program = """
pool = Pool(Acting(), workers=1, seconds=60)
pool.compare([("1", "1")])
print(pool._group.server.pid, flush=True)
try:
    pool.compare([("1", "sleep")])
except KeyboardInterrupt:
    print([int(each.code) for each in pool.compare([("1", "1"), ("1", "2")])], flush=True)
"""
    with run(program, start_new_session=True, stderr=subprocess.PIPE) as parent:
        server = int(parent.stdout.readline())
        assert os.getpgid(server) != parent.pid
        time.sleep(0.5)
        os.killpg(parent.pid, signal.SIGINT)
        os.kill(server, signal.SIGINT)
        out, err = parent.communicate(timeout=30)
    assert (out, err) == (b"[1, 0]\n", b"")


def test_kills_leak_no_file_descriptor(make):
    pool = make(workers=2)
    pool.compare([GOOD] * 2)
    before = len(os.listdir("/proc/self/fd"))
    codes(pool, *[("1", "exit")] * 30)
    assert pool.kills == 30
    pool.compare([GOOD] * 2)
    assert len(os.listdir("/proc/self/fd")) == before
    pool.close()
    assert len(os.listdir("/proc/self/fd")) < before


def test_ten_thousand_cheap_pairs_leave_no_memory_behind(make):
    pool = make()
    pairs = [(str(n), str(n)) for n in range(10_000)]

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

    pool.compare(pairs)
    before = resident()
    assert set(codes(pool, *pairs)) == {Code.EQUAL}
    assert resident() - before < 4.0


# -- what a worker is ------------------------------------------------------------------------------------------------


def test_a_worker_has_its_limits_and_nothing_of_the_parent(make):
    with open(os.devnull) as nothing:
        os.set_inheritable(nothing.fileno(), True)
        pool = make(Speaking(preload=("sympy",)), memory_mib=1500)
        state = {
            "ground types": "python",
            "address space": "1500",
            "core": "(0, 0)",
            "file size": "(0, 0)",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "interrupt": str(signal.SIG_IGN),
            "torch": "False",
        }
        assert codes(pool, *state.items()) == [Code.EQUAL] * len(state)
        files = pool.compare([("files", str(count)) for count in range(10)])
    assert [outcome.code for outcome in files].index(Code.EQUAL) <= 6  # 0, 1, 2, null, the pipe, and the listing's own


def test_a_worker_can_write_no_file(make, tmp_path):
    assert codes(make(), (f"{tmp_path}/written", "1"), GOOD) == [Code.UNPARSABLE, Code.EQUAL]
    assert (tmp_path / "written").read_bytes() == b""
    with open(tmp_path / "errors", "w") as errors:
        kept = os.dup(2)
        os.dup2(errors.fileno(), 2)
        try:
            assert codes(make(), ("1", "print")) == [Code.NOT_EQUAL]  # and printing is no error
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    assert (tmp_path / "errors").read_text() == ""


def test_importing_the_pool_is_cheap():
    code = (
        "import sys, hapo_lit.verify.workers.pool; print({'torch', 'sympy', 'numpy', 'math_verify'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found == "set()\n"


# -- threads, signals, other processes -------------------------------------------------------------------------------


def test_threads_queue_up(make):
    pool, results = make(workers=2), {}

    def work(name):
        for _ in range(100):
            results.setdefault(name, set()).update(codes(pool, (name, name), (name, "other"), (name, name)))

    threads = [threading.Thread(target=work, args=[str(name)]) for name in range(5)]
    before, most = len(descendants(os.getpid())), 0
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most = max(most, len(descendants(os.getpid())) - before)
    assert results == {str(name): {Code.EQUAL, Code.NOT_EQUAL} for name in range(5)}
    assert most == 3


def test_an_event_loop_goes_on_beside_to_thread_and_may_call_itself(make):
    pool = make(workers=1, cpu_seconds=0.3)

    async def main():
        ticks = 0
        judged = asyncio.create_task(asyncio.to_thread(codes, pool, ("1", "spin in C"), GOOD))
        while not judged.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks, await judged, codes(pool, GOOD)

    ticks, judged, own = asyncio.run(main())
    assert (judged, own) == ([Code.TIMEOUT, Code.EQUAL], [Code.EQUAL])
    assert ticks > 5


class Alarm(Exception):
    pass


@pytest.fixture
def alarm():
    """An outer timer, as of pytest-timeout or a cluster's wrapper."""
    kept = signal.getsignal(signal.SIGALRM)
    rung = []

    def arrange(seconds, error=None, every=0.0):
        def ring(*_):
            rung.append(time.monotonic())
            if error is not None:
                raise error

        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, seconds, every)
        return rung

    yield arrange
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, kept)


def test_an_outer_alarm_fires_while_pairs_are_judged(make, alarm):
    pool = make(workers=2)
    pool.compare([GOOD])
    rung = alarm(0.05, every=0.05)
    assert codes(pool, *[GOOD, ("1", "sleep 0.5"), BAD]) == [Code.EQUAL, Code.NOT_EQUAL, Code.NOT_EQUAL]
    assert len(rung) >= 5


@pytest.mark.parametrize("error", [Alarm, KeyboardInterrupt])
def test_an_alarm_that_raises_leaves_the_pool_usable_and_nothing_stale(make, alarm, error):
    pool = make(workers=2, seconds=60.0)
    warm(pool, 2)
    workers = crew_of(pool)[1]
    alarm(0.3, error)
    with pytest.raises(error):
        pool.compare([("1", "sleep 0.6")] * 4)  # each of which would say NOT_EQUAL
    assert not set(workers) & set(processes())
    assert codes(pool, *[GOOD] * 4) == [Code.EQUAL] * 4


def test_an_interrupt_at_any_moment_leaves_the_pool_usable(make, alarm):
    pool = make(workers=2)
    for moment in range(40):
        alarm(0.0005 + 0.002 * moment, Alarm)
        with contextlib.suppress(Alarm):
            for _ in range(200):
                assert codes(pool, GOOD, ("1", "exit"), BAD) == [Code.EQUAL, Code.DIED, Code.NOT_EQUAL]
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert codes(pool, GOOD, BAD) == [Code.EQUAL, Code.NOT_EQUAL]
    pool.close()


def forked(target, daemon=False):
    """What ``target`` returns in a forked process, within 30 s."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put(target()), daemon=daemon)
    child.start()
    child.join(30)
    if child.exitcode is None:
        child.kill()
        child.join()
    assert child.exitcode == 0
    return queue.get()


@pytest.mark.parametrize("daemon", [False, True])
def test_a_pool_that_has_worked_works_in_a_forked_process_too_and_still_in_the_parent(make, daemon):
    pool = make(workers=2)
    warm(pool, 2)
    mine = crew_of(pool)

    def compare():
        found = codes(pool, GOOD, BAD, ("1", "abort")), crew_of(pool)
        pool.close()
        return found

    theirs, crew = forked(compare, daemon)
    assert theirs == [Code.EQUAL, Code.NOT_EQUAL, Code.DIED]
    assert crew[0] != mine[0]
    assert crew_of(pool) == mine
    assert codes(pool, GOOD, BAD) == [Code.EQUAL, Code.NOT_EQUAL]
    assert crew_of(pool) == mine


def test_a_fork_while_another_thread_compares(make):
    pool = make()
    pool.compare([GOOD])
    thread = threading.Thread(target=pool.compare, args=[[("1", "sleep 1.5")]])
    thread.start()
    time.sleep(0.2)
    assert forked(lambda: (codes(pool, GOOD), pool.close())[0]) == [Code.EQUAL]
    assert thread.is_alive()
    thread.join()
    assert codes(pool, BAD) == [Code.NOT_EQUAL]


def test_a_forked_process_does_not_keep_the_workers_of_a_killed_parent_alive():
    program = """
pool = Pool(Acting(), workers=1, cpu_seconds=600, seconds=600)
pool.compare([("1", "1")])
thread = threading.Thread(target=pool.compare, args=[[("1", "sleep")]])
thread.start()
time.sleep(0.3)
child = os.fork()
if not child:
    time.sleep(600)
print(child, flush=True)
"""
    with run(program) as parent:
        child = int(parent.stdout.readline())
        family = descendants(parent.pid) - {child}
        parent.kill()
    assert len(family) == 2
    gone = soon(lambda: not family & set(processes()))
    os.kill(child, signal.SIGKILL)
    assert gone


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, pool):
        self.pool = pool

    def __iter__(self):
        yield torch.tensor(codes(self.pool, GOOD, BAD, ("1", "abort")))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_the_processes_of_a_loader(make, method):
    pool = make()
    pool.compare([GOOD])
    loader = torch.utils.data.DataLoader(Stream(pool), batch_size=None, num_workers=2, multiprocessing_context=method)
    assert [batch.tolist() for batch in loader] == [[Code.EQUAL, Code.NOT_EQUAL, Code.DIED]] * 2


def rank_main(rank, address, results):
    torch.distributed.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    pool = Pool(Acting(), workers=2)
    found = torch.tensor(codes(pool, GOOD, ("1", "abort"), (str(rank), "0")))
    everyones = [torch.zeros_like(found) for _ in range(2)]
    torch.distributed.all_gather(everyones, found)
    results[rank] = [each.tolist() for each in everyones]
    torch.distributed.destroy_process_group()


def test_in_each_of_two_ranks(tmp_path):
    with torch.multiprocessing.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(rank_main, (tmp_path / "address", results), nprocs=2)
        rows = [[Code.EQUAL, Code.DIED, Code.EQUAL], [Code.EQUAL, Code.DIED, Code.NOT_EQUAL]]
        assert dict(results) == {0: rows, 1: rows}


def test_a_copy_by_pickle_keeps_the_settings_and_starts_afresh(make):
    pool = make(workers=2, cpu_seconds=0.3, seconds=7.0, memory_mib=512)
    pool.compare([("1", "abort"), GOOD])
    copy = pickle.loads(pickle.dumps(pool))
    assert (copy._settings, copy.kills, copy._group) == (pool._settings, 0, None)
    assert codes(copy, ("1", "spin"), GOOD) == [Code.TIMEOUT, Code.EQUAL]
    assert crew_of(copy)[0] != crew_of(pool)[0]
    copy.close()

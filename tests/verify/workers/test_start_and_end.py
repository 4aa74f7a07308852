"""Workers that cannot start, and that no process, file or memory is left behind."""

import gc
import os
import resource
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from support.comparers import Acting, Loud, Sullen
from support.pools import GOOD, codes, processes_of, run, warm
from support.processes import descendants, processes, soon

from hapo_lit.errors import VerifierError
from hapo_lit.verify.workers import fork_server, group
from hapo_lit.verify.workers.messages import Code
from hapo_lit.verify.workers.pool import Pool


@pytest.mark.parametrize(
    ("comparer", "settings", "cause"),
    [
        (Sullen(), {}, "LookupError: no parser today"),
        (Sullen(how="system exit"), {}, "SystemExit: 0"),
        (Sullen(how="segfault"), {}, "a new one was ended by SIGSEGV"),
        (Sullen(how="sleep"), {}, "not ready after 1 s"),
        (Acting(preload=("no_such_module",)), {}, "No module named 'no_such_module'"),
        (Loud(), {}, "LookupError: no such comparer"),
        (Sullen(how="killed"), {}, "a new one was ended by SIGKILL"),
        (Acting(), {"memory_mib": 64}, r"verifier\.memory_mib=64 leaves less than 64 MiB beside .*: raise it \(2048"),
        (Acting(), {"memory_mib": 2**60}, "OverflowError"),
    ],
)
def test_a_worker_that_cannot_start_is_an_error_that_names_the_cause(make, monkeypatch, comparer, settings, cause):
    monkeypatch.setattr(group, "START_SECONDS", 1.0 if comparer == Sullen(how="sleep") else 60.0)
    pool = make(comparer, **settings)
    for _ in range(2):
        with pytest.raises(VerifierError, match=cause) as raised:
            pool.compare([GOOD])
        assert "\n" not in str(raised.value)
    if comparer == Sullen(how="killed"):
        assert pool.kills == 2 * group.MOST_LOST_STARTS


def test_a_fork_server_that_is_killed_is_replaced_and_costs_no_verdict(make):
    pool = make()
    pool.compare([GOOD])
    server, workers = processes_of(pool)
    os.kill(server, signal.SIGKILL)
    assert soon(lambda: not set(workers) & set(processes()))
    assert codes(pool, GOOD) == [Code.EQUAL]
    threading.Timer(0.2, os.kill, [processes_of(pool)[0], signal.SIGKILL]).start()
    assert codes(pool, ("1", "abort"), ("1", "sleep 0.4"), GOOD) == [Code.DIED, Code.NOT_EQUAL, Code.EQUAL]


def test_a_fork_server_that_is_stopped_is_given_up(make, monkeypatch):
    monkeypatch.setattr(fork_server, "REPLY_SECONDS", 0.2)
    pool = make()
    pool.compare([GOOD])
    server, (worker,) = processes_of(pool)
    os.kill(server, signal.SIGSTOP)
    os.kill(worker, signal.SIGKILL)
    assert codes(pool, GOOD) == [Code.EQUAL]
    assert server not in processes()


def test_a_fork_server_that_is_lost_again_is_an_error_with_its_last_words(make, tmp_path, monkeypatch):
    (tmp_path / "too_large.py").write_text("raise SystemExit('first line\\nno memory for imports')")
    monkeypatch.syspath_prepend(tmp_path)
    pool = make(Acting(preload=("too_large",)))
    with pytest.raises(
        VerifierError, match=r"twice in a row.* exit code 1: no memory for imports; .*verifier\.memory_mib"
    ):
        pool.compare([GOOD])


def test_a_system_without_files_left_is_an_error_of_one_line(make):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    pool = make()
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(VerifierError, match=r"cannot start: .*Too many open files; .*verifier\.workers"):
            pool.compare([GOOD])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
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
    print([int(outcome.code) for outcome in pool.compare([("1", "1"), ("1", "2")])], flush=True)
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

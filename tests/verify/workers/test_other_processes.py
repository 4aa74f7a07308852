"""A pool in forked processes, in those of a data loader, and in the ranks of a run."""

import multiprocessing
import os
import pickle
import signal
import threading
import time

import pytest
import torch
from support.comparers import Acting
from support.pools import BAD, GOOD, codes, processes_of, put_codes, run, warm
from support.processes import descendants, processes, soon

from hapo_lit.verify.workers.messages import Code
from hapo_lit.verify.workers.pool import Pool


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
    mine = processes_of(pool)

    def compare():
        found = codes(pool, GOOD, BAD, ("1", "abort")), processes_of(pool)
        pool.close()
        return found

    theirs, others = forked(compare, daemon)
    assert theirs == [Code.EQUAL, Code.NOT_EQUAL, Code.DIED]
    assert others[0] != mine[0]
    assert processes_of(pool) == mine
    assert codes(pool, GOOD, BAD) == [Code.EQUAL, Code.NOT_EQUAL]
    assert processes_of(pool) == mine


def test_a_fork_while_another_thread_compares(make):
    pool = make()
    pool.compare([GOOD])
    thread = threading.Thread(target=pool.compare, args=[[("1", "sleep 2")]])
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


def test_in_the_processes_of_a_loader(make):
    pool = make()
    pool.compare([GOOD])
    loader = torch.utils.data.DataLoader(Stream(pool), batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert [batch.tolist() for batch in loader] == [[Code.EQUAL, Code.NOT_EQUAL, Code.DIED]] * 2


def test_in_a_spawned_process_that_may_have_no_children_of_its_own(make):
    """As a loader's are that are spawned: daemons, to which the pool comes by pickle."""
    pool = make()
    pool.compare([GOOD])
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    child = context.Process(target=put_codes, args=(queue, pool, [GOOD, BAD, ("1", "abort")]), daemon=True)
    child.start()
    assert queue.get() == [Code.EQUAL, Code.NOT_EQUAL, Code.DIED]
    child.join(30)
    assert child.exitcode == 0


def rank_main(rank, address, results):
    torch.distributed.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    pool = Pool(Acting(), workers=2)
    found = torch.tensor(codes(pool, GOOD, ("1", "abort"), (str(rank), "0")))
    everyones = [torch.zeros_like(found) for _ in range(2)]
    torch.distributed.all_gather(everyones, found)
    results.put((rank, [codes.tolist() for codes in everyones]))
    torch.distributed.destroy_process_group()


def test_in_each_of_two_ranks(tmp_path):
    """Forked, since two processes that import torch would take five seconds; gloo has its threads all the same."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    ranks = [context.Process(target=rank_main, args=(rank, tmp_path / "address", results)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
        assert rank.exitcode == 0
    rows = [[Code.EQUAL, Code.DIED, Code.EQUAL], [Code.EQUAL, Code.DIED, Code.NOT_EQUAL]]
    assert dict(results.get() for _ in ranks) == {0: rows, 1: rows}


def test_a_copy_by_pickle_keeps_the_settings_and_starts_afresh(make):
    pool = make(workers=2, cpu_seconds=0.3, seconds=7.0, memory_mib=512)
    pool.compare([("1", "abort"), GOOD])
    copy = pickle.loads(pickle.dumps(pool))
    assert (copy._settings, copy.kills, copy._group) == (pool._settings, 0, None)
    assert codes(copy, ("1", "spin"), GOOD) == [Code.TIMEOUT, Code.EQUAL]
    assert processes_of(copy)[0] != processes_of(pool)[0]
    copy.close()

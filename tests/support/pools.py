"""Pairs for a pool of workers, its processes, and programs that use one."""

from __future__ import annotations

import os
import subprocess
import sys

from support.processes import descendants, soon

GOOD, BAD = ("1", "1"), ("1", "2")


def codes(pool, *pairs):
    return [outcome.code for outcome in pool.compare(pairs)]


def put_codes(queue, pool, pairs):
    queue.put([int(code) for code in codes(pool, *pairs)])


def processes_of(pool):
    """The processes of a pool: its fork server, and the workers."""
    server = pool._group.server.pid
    return server, sorted(descendants(server))


def warm(pool, workers):
    """A pool whose workers are all there; one alone may have compared all pairs before the next was forked."""
    pool.compare([GOOD] * workers)
    assert soon(lambda: len(processes_of(pool)[1]) == workers)


def run(program, **options):
    """Start a Python that runs ``program`` with what it needs at hand."""
    head = "import os, signal, sys, threading, time\nfrom support.comparers import Acting\n"
    head += "from hapo_lit.verify.workers.pool import Pool\n"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen([sys.executable, "-c", head + program], stdout=subprocess.PIPE, env=env, **options)

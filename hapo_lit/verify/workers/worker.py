"""What runs in the processes of a pool: the fork server, and the workers that it forks."""

from __future__ import annotations

import ctypes
import importlib
import math
import mmap
import os
import pickle
import resource
import signal
import socket
import sys
import time

from hapo_lit.verify.workers.messages import CODEC, READY, REPORT, REQUEST, TASK, Code, Comparer

HEADROOM_MIB = 64
"""What the limit on memory must leave beside the imports."""


def serve(handle: int) -> None:
    """Run the fork server: it starts and ends workers on request, until the parent is gone."""
    for asking in (
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGUSR1,
    ):  # the parent to stop, which needs its workers until then
        signal.signal(asking, signal.SIG_IGN)
    preload, cpu_seconds, memory_mib = pickle.load(sys.stdin.buffer)
    comparer: Comparer | Exception
    try:
        for module in preload:
            importlib.import_module(module)
        comparer = pickle.load(sys.stdin.buffer)
    except Exception as error:  # each worker will report it
        comparer = error
    children: dict[int, int] = {}
    server = os.getpid()
    with socket.socket(fileno=handle) as control:
        while True:
            request, pipes, _, _ = socket.recv_fds(control, REQUEST.size, 1)
            if not request:
                break
            (number,) = REQUEST.unpack(request)
            if not pipes:
                control.sendall(REPORT.pack(_end(children.pop(number)) if number in children else 1))
                continue
            pipe = socket.socket(fileno=pipes[0])  # in a worker it stays open until the exit code is known
            try:
                child = os.fork()
            except OSError as error:
                pipe.sendall(f"{error}; lower verifier.workers (`ulimit -u`, `ulimit -v`)".encode())
                pipe.close()
                continue
            if not child:
                try:
                    control.close()
                    _confine(server)
                    _work(pipe, comparer, cpu_seconds, memory_mib)
                finally:
                    os._exit(1)
            children[number] = child
            pipe.close()
    for pid in children.values():
        _end(pid)


def _end(pid: int) -> int:
    os.kill(pid, signal.SIGKILL)  # no error if it has ended by itself: it still waits for its parent
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _confine(server: int) -> None:
    """End this process when the fork server ends, and take from it what no comparer needs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != server:
        os._exit(1)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):  # what a text makes a library print is of no use, and would fail where it is a file
        os.dup2(null, standard)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for ending in (signal.SIGPROF, signal.SIGXCPU):
        signal.signal(ending, signal.SIG_DFL)
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))


def _work(pipe: socket.socket, comparer: Comparer | Exception, cpu_seconds: float, memory_mib: int) -> None:
    """Run a worker: it says that it is ready, then replies to each pair with a byte, until the pipe closes."""
    try:
        if isinstance(comparer, Exception):
            raise comparer
        comparer.prepare()
        _limit_memory(memory_mib)
    except BaseException as error:
        kind = "" if isinstance(error, MemoryError) and str(error) else f"{type(error).__name__}: "
        pipe.sendall(f"{kind}{error}".encode(errors="replace")[:4096])
        raise
    pipe.sendall(READY)
    tasks = pipe.makefile("rb")
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    while sizes := tasks.read(TASK.size):
        gold, answer = (str(tasks.read(size), *CODEC) for size in TASK.unpack(sizes))
        soft = math.ceil(time.process_time() + cpu_seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            code = comparer(gold, answer)
        except MemoryError:
            raise
        except Exception:  # untrusted: what a text makes the comparer raise means that it was not understood
            code = Code.UNPARSABLE
        signal.setitimer(signal.ITIMER_PROF, 0)
        pipe.sendall(bytes([Code(code)]))


def _limit_memory(memory_mib: int) -> None:
    """Limit the address space, to less than ``memory_mib`` where the system allows less."""
    allowed, hard = memory_mib * 2**20, resource.getrlimit(resource.RLIMIT_AS)[1]
    by_system = hard != resource.RLIM_INFINITY and hard < allowed
    allowed = hard if by_system else allowed
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    try:
        mmap.mmap(-1, HEADROOM_MIB * 2**20).close()
    except OSError:
        limit, fix = f"verifier.memory_mib={memory_mib}", "raise it (2048 is the default)"
        if by_system:
            limit, fix = f"the system's limit of {hard // 2**20} MiB", "raise it (`ulimit -v`)"
        raise MemoryError(f"{limit} leaves less than {HEADROOM_MIB} MiB beside what a worker imports: {fix}") from None

"""The parent's side of the process that forks the workers.

That process has imported what workers need and nothing else: no thread, no CUDA, no open file of the parent.  It ends,
and its workers with it, when the parent does, however that happens.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import sys
import weakref

from hapo_lit.verify.workers.messages import REPORT, REQUEST, Comparer

ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "SYMPY_GROUND_TYPES": "python",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",  # the order of a set must not decide how long an answer takes
}


class ForkServer:
    """Starts at once, and ends with :meth:`close` or when the last reference to it is gone.

    Args:
        comparer: what its workers do.
        cpu_seconds: CPU time for one pair, of all threads of a worker together.
        memory_mib: address space of one worker.
    """

    def __init__(self, comparer: Comparer, cpu_seconds: float, memory_mib: int) -> None:
        given = pickle.dumps((comparer.preload, cpu_seconds, memory_mib)) + pickle.dumps(comparer)
        self._control, theirs = socket.socketpair()
        with theirs:
            code = f"import sys; sys.path[:] = {[str(path) for path in sys.path]}; "
            code += f"from hapo_lit.verify.workers.worker import serve; serve({theirs.fileno()})"
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=[theirs.fileno()],
                env=os.environ | ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # the terminal's interrupt is the parent's to handle
            )
        self.pid = self._process.pid
        self.close = weakref.finalize(self, _close, self._process, self._control, os.getpid())
        """End it; in a forked process, no more than close this process's copy of the connection."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:  # if it ended, the first request raises
            pipe.write(given)

    def fork(self, number: int, pipe: socket.socket) -> None:
        """Start a worker at the other end of a pipe, under a number of its own."""
        self._request(number, [pipe.fileno()])

    def end(self, number: int) -> int:
        """End a worker, if it has not ended by itself; its exit code, negative for a signal."""
        self._request(number, [])
        try:
            report = self._control.recv(REPORT.size)
        except OSError as error:
            raise self._lost() from error
        if not report:
            raise self._lost()
        return int(REPORT.unpack(report)[0])

    def _request(self, number: int, pipes: list[int]) -> None:
        try:
            socket.send_fds(self._control, [REQUEST.pack(number)], pipes)
        except OSError as error:
            raise self._lost() from error

    def _lost(self) -> RuntimeError:
        return RuntimeError(f"the fork server of the pool ended with exit code {self._process.wait()}")


def _close(process: subprocess.Popen[bytes], control: socket.socket, owner: int) -> None:
    """At close, at exit, or when the object is garbage: the process ends when the other end of its socket is closed."""
    control.close()
    if os.getpid() != owner:
        process.returncode = 0  # not this process's to wait for
        return
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

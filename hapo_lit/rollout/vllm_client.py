"""An HTTP client for a vLLM server."""

from __future__ import annotations

import functools
import http.client
import ipaddress
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from hapo_lit.errors import EngineError, cut
from hapo_lit.rollout.server_token import VARIABLE, known_token, token_file


class Refused(EngineError):
    """A server answered that it does not do what it was asked for."""


class Server:
    """A vLLM server; it has the four methods that vLLM's senders of weights call.

    Args:
        url: of the server, ``http://host:port``.
        timeout: seconds to wait for an answer.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.url, self.timeout = url.rstrip("/"), timeout
        self.sent_version: str | None = None
        """Version of the weights that this process has sent last; None = it has sent none."""
        self.held: object = None
        """Dtype and fingerprint of these weights on this process; None = it has sent none, or not all of them."""
        self.next_version = ""
        """Version of the next weights, where the sender does not name it."""
        self.nccl_sender: Any = None
        """vLLM's sender of weights, which holds a connection and listens at a port; None = there is none yet."""
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.post("/init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        self.post("/pause", {}, query="?mode=wait&clear_cache=true")
        try:
            self.post("/start_weight_update", {})
        except Refused:  # perhaps as a sender was killed in the middle of an update: an update that fails ends it
            with suppress(Refused):
                self.update_weights({"path": ""})
            self.post("/start_weight_update", {})

    def update_weights(self, update_info: Any) -> None:
        self.post("/update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.post("/finish_weight_update", {"weight_version": weight_version or self.next_version})
        self.empty_cache()
        self.post("/resume", {})

    def empty_cache(self) -> None:
        """Forget keys and values of earlier prompts.  No request may be under way."""
        if self.post("/reset_prefix_cache", {}).get("success") is False:
            raise EngineError(f"{self.url} did not empty its prefix cache, which holds what the old weights computed")

    def weight_version(self) -> str:
        """The version of its weights."""
        return str(self.get("/weight_info")["weight_version"])

    def get(self, route: str) -> dict[str, Any]:
        return self._call(route, None)

    def post(self, route: str, body: Mapping[str, Any], query: str = "") -> dict[str, Any]:
        return self._call(route + query, json.dumps(body).encode())

    def _call(self, route: str, body: bytes | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if token := known_token():
            headers["Authorization"] = f"Bearer {token}"
        call = urllib.request.Request(self.url + route, body, headers)
        try:
            with self._opener.open(call, timeout=self.timeout) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            if error.code == 401:
                has = "has another token than this run" if token else "needs a token, and this run has none"
                raise EngineError(
                    f"the rollout engine vllm_server at {self.url} {has}: set {VARIABLE} for both, or start it with "
                    f"`hapo serve` as the same user, where both read {token_file()}; to continue: resume=auto"
                ) from error
            reason = cut(" ".join(error.read().decode(errors="replace").split()), 300)
            raise Refused(
                f"the rollout engine vllm_server at {self.url} answered {error.code} to {route} "
                f"({reason or error.reason}): see what it printed, start it anew with `hapo serve`; to "
                f"continue: resume=auto"
            ) from error
        except TimeoutError as error:
            raise EngineError(
                f"the rollout engine vllm_server at {self.url} took more than rollout.timeout={self.timeout:g} s for "
                f"{route}: raise rollout.timeout or lower prompts_per_step; to continue: resume=auto"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(
                f"the rollout engine vllm_server at {self.url} does not answer ({error}): start it with `hapo serve` "
                f"and the same settings, or set rollout.urls; the run's checkpoints are intact; to "
                f"continue: resume=auto"
            ) from error
        with suppress(ValueError):
            parsed = json.loads(text)
            return parsed if isinstance(parsed, dict) else {"value": parsed}
        return {}


def loopback(host: str) -> bool:
    """Whether a host name means this machine to everyone, so that no other machine can be meant."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@functools.cache
def shared_server(url: str, timeout: float) -> Server:
    """The client of this process for a server.  All engines that use the server share it, for as long as the process
    lives: a sweep's next job continues with its connections."""
    return Server(url, timeout)

"""What stands before all routes of a vLLM server: requests need the token, and token ids must be those of tokens.

vLLM's own key guards the routes that sample, and neither those that pause the server nor those that change its weights;
and an id beyond the vocabulary would end it.  vLLM imports :class:`Guard` by its name.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from hapo_lit.rollout.server_token import VARIABLE

GUARD = f"{__name__}.Guard"
TOKENS_VARIABLE = "HAPO_SERVED_TOKENS"
"""In the environment of the server: how many ids have a token."""
OPEN = ("/health",)
"""Routes that anyone may ask."""
IDS = ("token_ids", "prompt_token_ids", "stop_token_ids", "allowed_token_ids", "bad_words_token_ids", "prompt")
"""Keys, at any depth of a request, under which there are ids; ``prompt`` may be text."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Guard:
    """An ASGI middleware; token and number of ids come from the environment."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.token, self.tokens = os.environ[VARIABLE].encode(), int(os.environ[TOKENS_VARIABLE])

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in OPEN:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":  # no route of ours
            await send({"type": "websocket.close", "code": 1008})
        elif not self._knows(dict(scope["headers"]).get(b"authorization", b"")):
            await _refuse(send, 401, "this server needs the token with which it was started")
        else:
            body = await _body(receive)
            if fault := self._fault(body):
                await _refuse(send, 400, fault)
            else:
                await self.app(scope, _replayed(body, receive), send)

    def _knows(self, header: bytes) -> bool:
        kind, _, token = header.partition(b" ")
        return kind.lower() == b"bearer" and secrets.compare_digest(token, self.token)

    def _fault(self, body: bytes) -> str:
        """What is wrong with the ids in a request; empty = nothing."""
        if not body:
            return ""
        try:
            for number in _ids(json.loads(body)):
                if not 0 <= number < self.tokens:
                    return f"token id {number} is none of the model's {self.tokens}"
        except (ValueError, RecursionError, OverflowError):
            return "the request is no JSON"
        return ""


def _ids(value: Any, is_id: bool = False) -> Iterator[int]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _ids(inner, key in IDS)
            if key == "logit_bias" and isinstance(inner, dict):
                yield from map(int, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _ids(inner, is_id)
    elif is_id and isinstance(value, int | float):
        yield int(value)


async def _body(receive: Receive) -> bytes:
    parts = bytearray()
    while True:
        message = await receive()
        parts += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body"):
            return bytes(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body that has been read once more, and then what comes after it, such as that the client is gone."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(send: Send, status: int, why: str) -> None:
    text = json.dumps({"error": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})

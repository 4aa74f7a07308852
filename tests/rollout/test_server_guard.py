"""A vLLM server answers only those who have its token, and no request with an id beyond its vocabulary reaches vLLM."""

from __future__ import annotations

import asyncio
import json
import stat

import pytest
from support.policies import LIMIT, policy_of
from support.weight_server import weight_server

from hapo_lit.errors import EngineError
from hapo_lit.rollout import server_token
from hapo_lit.rollout.server_guard import TOKENS_VARIABLE, Guard
from hapo_lit.rollout.server_token import VARIABLE, known_token, made_token, token_file
from hapo_lit.rollout.vllm_client import Server
from hapo_lit.rollout.vllm_server import VLLMServerEngine

TOKENS = 24
RIGHT = {"authorization": "Bearer secret"}


@pytest.fixture
def ask(monkeypatch):
    """Status and body of a request; an app that gets it says what it has read."""
    monkeypatch.setenv(VARIABLE, "secret")
    monkeypatch.setenv(TOKENS_VARIABLE, str(TOKENS))

    async def app(scope, receive, send):
        read = [await receive(), await receive()]
        assert [message["type"] for message in read] == ["http.request", "http.disconnect"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": read[0]["body"]})

    def request(path="/inference/v1/generate", body=b"", headers=RIGHT, kind="http"):
        coming = [
            {"type": "http.request", "body": body[:3], "more_body": True},
            {"type": "http.request", "body": body[3:], "more_body": False},
            {"type": "http.disconnect"},
        ]
        if path == "/health":
            coming = [{"type": "http.request", "body": body, "more_body": False}, coming[-1]]
        sent = []

        async def receive():
            return coming.pop(0)

        async def send(message):
            sent.append(message)

        scope = {"type": kind, "path": path, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
        asyncio.run(Guard(app)(scope, receive, send))
        return sent[0].get("status", sent[0]["type"]), sent[-1].get("body", b"")

    return request


@pytest.mark.parametrize("path", ["/pause", "/update_weights", "/collective_rpc", "/inference/v1/generate", "/health/"])
def test_no_route_answers_without_the_token(ask, path):
    for header in ("", "secret", "Bearer", "Bearer ", "Bearer secre", "Bearer secret2", "Basic secret"):
        status, body = ask(path, headers={"authorization": header} if header else {})
        assert status == 401
        assert b"needs the token" in body
    assert ask(path, b'{"path": ""}') == (200, b'{"path": ""}')
    assert ask(path, headers={"authorization": "bearer secret"})[0] == 200


def test_only_whether_it_is_up_is_open(ask):
    assert ask("/health", headers={}) == (200, b"")
    assert ask("/health", headers={}, kind="websocket")[0] == 200
    assert ask("/v1/realtime", headers={}, kind="websocket")[0] == "websocket.close"


@pytest.mark.parametrize(
    "body",
    [
        {"token_ids": [0, 10**9]},
        {"token_ids": [0, TOKENS]},
        {"token_ids": [-1]},
        {"token_ids": [[3], [float("inf")]]},
        {"prompt": [5, 99]},
        {"requests": [{"sampling_params": {"stop_token_ids": [10**9]}}]},
        {"sampling_params": {"logit_bias": {"99": 1.0}}},
        {"sampling_params": {"logit_bias": {"one": 1.0}}},
    ],
)
def test_ids_beyond_the_vocabulary_are_refused(ask, body):
    status, said = ask(body=json.dumps(body).encode())
    assert status == 400
    assert b"none of the model's 24" in said or b"no JSON" in said


def test_what_is_no_json_is_refused_and_other_numbers_are_not(ask):
    for body in (b"{", b"\xff", b"[" * 100_000):
        assert ask(body=body)[0] == 400
    sound = {"token_ids": [0, TOKENS - 1], "prompt": "text", "sampling_params": {"seed": 10**15, "max_tokens": 100}}
    assert ask(body=json.dumps(sound).encode()) == (200, json.dumps(sound).encode())


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user without a token."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def test_a_token_is_made_once_and_its_owner_alone_can_read_it(home, monkeypatch):
    assert known_token() == ""
    token, where = made_token()
    assert len(token) == 64
    assert where == str(token_file())
    assert stat.S_IMODE(token_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(token_file().parent.stat().st_mode) == 0o700
    assert made_token() == (token, where)  # servers of a user share it, and so do their runs
    assert known_token() == token
    token_file().chmod(0o640)
    with pytest.raises(EngineError, match="is not yours alone: delete it"):
        known_token()
    token_file().chmod(0o600)
    monkeypatch.setattr(server_token.os, "getuid", lambda: -1)
    with pytest.raises(EngineError, match="is not yours alone: delete it"):
        known_token()
    monkeypatch.setenv(VARIABLE, "mine")
    assert made_token() == ("mine", VARIABLE)


def test_a_run_sends_its_token_and_is_told_if_it_is_missing_or_another(home, monkeypatch, tmp_path):
    with weight_server() as (url, state):
        state.token = "secret"
        for token, said in (("", "needs a token, and this run has none"), ("x", "has another token than this run")):
            monkeypatch.setenv(VARIABLE, token)
            with pytest.raises(EngineError, match=f"{said}: set {VARIABLE} for both, or start it with `hapo serve`"):
                VLLMServerEngine([url], LIMIT, exchange=str(tmp_path)).sync(policy_of())
            with pytest.raises(EngineError, match=said):
                Server(url, 5).weight_version()
        assert state.calls == []
        monkeypatch.setenv(VARIABLE, "secret")
        VLLMServerEngine([url], LIMIT, exchange=str(tmp_path)).sync(policy_of())
        assert state.updates == 1

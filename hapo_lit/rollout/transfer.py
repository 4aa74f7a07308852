"""What runs inside vLLM: replacing its weights by the trainer's.

vLLM's CPU backend packs linear layers and drops the originals, so that new weights must go through its layerwise
reload.  An output head that is tied to the embeddings gets no weights in that reload, and would silently keep its old
packed copy; so it is tied and packed again here.  A parameter that gets no weight is an error.

vLLM calls :func:`register` in each of its processes; it finds it by an entry point of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from vllm.config import set_current_vllm_config
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from hapo_lit.rollout.buckets import read_bucket

if TYPE_CHECKING:
    from vllm.config import ModelConfig
    from vllm.model_executor.models.interfaces_base import VllmModelForTextGeneration as VllmModel
    from vllm.v1.worker.worker_base import WorkerBase


def load_into_worker(worker: WorkerBase, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Give a worker of this process all weights of the model, under the names of an ordinary checkpoint."""
    runner = worker.model_runner
    with set_current_vllm_config(worker.vllm_config):
        load(runner.get_model(), runner.model_config, weights)


@torch.no_grad()
def load(model: VllmModel, model_config: ModelConfig, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Give a model all its weights, under the names of an ordinary checkpoint.

    Raises:
        RuntimeError: a parameter of the model got no weight.
    """
    expected = {name for name, _ in model.named_parameters()}
    initialize_layerwise_reload(model)
    loaded = model.load_weights(weights)
    finish(model, model_config, expected, loaded)


def finish(model: VllmModel, model_config: ModelConfig, expected: set[str], loaded: set[str] | None) -> None:
    """End a layerwise reload, tie a tied head again, and check that every parameter got a weight."""
    finalize_layerwise_reload(model, model_config)
    tied = _tie(model) if model_config.hf_text_config.tie_word_embeddings else set()
    if loaded is not None and (missing := expected - loaded - tied):
        raise RuntimeError(f"the engine's parameters {', '.join(sorted(missing))} got no weights from the policy")


def _tie(model: VllmModel) -> set[str]:
    """Tie every output head to the embeddings and pack it anew; returns the names of their parameters."""
    heads = {name: module for name, module in model.named_modules() if isinstance(module, ParallelLMHead)}
    embeddings = [
        module
        for module in model.modules()
        if isinstance(module, VocabParallelEmbedding) and not isinstance(module, ParallelLMHead)
    ]
    if heads and len(embeddings) != 1:
        raise RuntimeError(f"a tied head needs one embedding to be tied to, and the model has {len(embeddings)}")
    for head in heads.values():
        head.weight = embeddings[0].weight
        head.quant_method.process_weights_after_loading(head)
    return {f"{name}.weight" for name in heads}


@dataclass
class FileInit(WeightTransferInitInfo):
    """Trainer and server need no setting in common."""


@dataclass
class FileUpdate(WeightTransferUpdateInfo):
    """``path`` of a safetensors file that holds some of the weights, which every worker can read."""

    path: str


class InBuckets:
    """An update of all weights that comes in several pieces, within one layerwise reload."""

    model: Any
    model_config: ModelConfig
    expected: set[str]
    """Names of the model's parameters."""
    loaded: set[str] | None = None
    """Those that got weights in the last update; None = the model does not say."""
    under_way = False

    def start_weight_update(self) -> None:
        """Begin a reload.  One that its sender has left unfinished is ended first: it would mix with this one."""
        if self.under_way:
            finalize_layerwise_reload(self.model, self.model_config)
        self.expected = {name for name, _ in self.model.named_parameters()}
        self.loaded, self.under_way = set(), True
        initialize_layerwise_reload(self.model)

    def record(self, loaded: set[str] | None) -> None:
        """Note which parameters a piece had weights for."""
        self.loaded = None if loaded is None or self.loaded is None else self.loaded | loaded

    def finish_weight_update(self) -> None:
        """End the reload; raises ``RuntimeError`` if a parameter got no weight."""
        self.under_way = False
        finish(self.model, self.model_config, self.expected, self.loaded)


class FileTransfer(InBuckets, WeightTransferEngine[FileInit, FileUpdate]):
    """vLLM's weight transfer by files, in shared memory or on a file system that trainer and server share.

    It works on a CPU, where vLLM's own (NCCL, CUDA IPC, RDMA) do not.  A file may be gone once it is received.
    """

    init_info_cls = FileInit
    update_info_cls = FileUpdate

    def init_transfer_engine(self, init_info: FileInit) -> None:
        """There is no connection to set up."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """As the base class does, but without an accelerator on a CPU, where there is none to wait for."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    @torch.no_grad()
    def receive_weights(self, update_info: FileUpdate) -> None:
        self.record(self.model.load_weights(read_bucket(update_info.path, self.device)))

    def shutdown(self) -> None:
        """There is nothing to free."""


class NcclTransfer(InBuckets, NCCLWeightTransferEngine):
    """vLLM's transfer by NCCL, with a tied head tied again, and an error if a weight is missing."""

    def receive_weights(self, update_info: Any) -> None:
        model = self.model
        self.model = _RecordingLoads(model, self.record)
        try:
            super().receive_weights(update_info)
        finally:
            self.model = model


class _RecordingLoads:
    """A model that reports the names of the weights it loads."""

    def __init__(self, model: VllmModel, record: Callable[[set[str] | None], None]) -> None:
        self.model, self.record = model, record

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str] | None:
        found: set[str] | None = self.model.load_weights(weights)
        self.record(found)
        return found


def register() -> None:
    """Make the transfers known to this vLLM process as ``hapo_file`` and ``hapo_nccl``."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    for name, engine in (("hapo_file", FileTransfer), ("hapo_nccl", NcclTransfer)):
        if name not in WeightTransferEngineFactory._registry:
            WeightTransferEngineFactory.register_engine(name, engine)

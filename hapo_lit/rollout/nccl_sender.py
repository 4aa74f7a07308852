"""Sending weights to a vLLM server by NCCL.  It imports vLLM, and is imported where weights are sent that way."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from transformers import PreTrainedModel
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
from vllm.utils.network_utils import get_ip

from hapo_lit.rollout.heads import served_weights
from hapo_lit.rollout.vllm_client import Server


def send_weights(
    server: Server, policy: PreTrainedModel, version: str, rank: int, port: int, reachable: bool = False
) -> None:
    """Send the policy's weights.  Collective: every rank must call it.

    Args:
        server: keeps the connection, which all engines that use it share.
        policy: whose weights these are.
        version: the server is to give them.
        rank: of this process; rank 0 sends.
        port: of this machine, at which the connection is made.
        reachable: True = the server may be on another machine.
    """
    if server.nccl_sender is None:
        workers = server.get("/get_world_size")["world_size"]
        info = NCCLTrainerInitInfo(get_ip() if reachable else "127.0.0.1", port, 1 + workers, rank=rank)
        source = PolicyWeights(policy)
        server.nccl_sender = WeightTransferTrainerFactory.trainer_init(info, client=server, source=source)
    if server.nccl_sender.source.policy is not policy:  # of an earlier job of a sweep
        server.nccl_sender.source = PolicyWeights(policy)
    server.next_version = version
    server.nccl_sender.send_weights()


class PolicyWeights(WeightSource):
    """A policy's weights as vLLM's sender reads them."""

    def __init__(self, policy: PreTrainedModel) -> None:
        self.policy = policy
        self._metadata: list[ParamMeta] | None = None

    def metadata(self) -> list[ParamMeta]:
        if self._metadata is None:  # gathers and merges all weights once
            self._metadata = [ParamMeta(name, weight.dtype, tuple(weight.shape)) for name, weight in self]
        return self._metadata

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(served_weights(self.policy))

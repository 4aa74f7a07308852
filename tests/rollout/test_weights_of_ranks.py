"""Two processes that hold a policy in shards bring its weights to a server together, or fail together."""

from __future__ import annotations

import multiprocessing

import torch
import torch.distributed as dist
from support.policies import LIMIT, policy_of
from support.weight_server import weight_server
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from hapo_lit.errors import EngineError
from hapo_lit.policy.adapters import with_adapter
from hapo_lit.policy.sharding import ENTRY_METHODS, local, shard, unsharded
from hapo_lit.rollout.heads import served_weights
from hapo_lit.rollout.vllm_server import VLLMServerEngine


class Owner(torch.nn.Module):
    """In place of the module that trains: it is sharded with its policy."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy


for name in ENTRY_METHODS:
    setattr(Owner, name, lambda self: None)


def adapted():
    """A policy that trains an adapter."""
    return with_adapter(policy_of(), {"rank": 2, "alpha": 4, "targets": "all-linear", "seed": 0})


def step(policy):
    """One of an optimiser."""
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(trained, lr=1e-2).step()


def half_of(policy):
    """What the second of two processes holds of a weight."""
    weight = policy.get_parameter("model.layers.1.mlp.up_proj.lora_B.default.weight")
    return local(weight) if isinstance(weight, DTensor) else weight.chunk(2)[1]


def rank_of_two(rank, folder, url, found):
    """One process; ``found`` gets what its syncs said."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    policy = adapted()
    shard(Owner(policy), init_device_mesh("cpu", (2,)))
    engine = VLLMServerEngine([url], LIMIT, exchange=str(folder), bucket_bytes=20_000)
    said = []

    def sync(engine):
        try:
            engine.sync(policy)
            said.append("")
        except EngineError as error:
            said.append(str(error))

    sync(engine)
    with unsharded(policy):
        sync(engine.with_temperature(0.0))
    step(policy)
    sync(engine)
    if rank:  # a part that rank 0 does not have
        half_of(policy).data.add_(1.0)
    sync(engine)
    sync(VLLMServerEngine([url], LIMIT, dtype="bfloat16", exchange=f"{folder}/nowhere"))
    sync(engine)
    dist.destroy_process_group()
    found.put(said)


def test_weights_in_shards_are_sent_once_and_a_failure_is_everybodys(tmp_path):
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    with weight_server() as (url, server):
        ranks = [context.Process(target=rank_of_two, args=(rank, tmp_path, url, found)) for rank in (0, 1)]
        for process in ranks:
            process.start()
        try:
            said, other = (found.get(timeout=30) for _ in ranks)
        finally:
            for process in ranks:
                process.kill()
    assert said == other
    assert [bool(line) for line in said] == [False, False, False, False, True, False]
    assert "nowhere" in said[4]
    assert server.updates in (4, 5)  # gathered layers may count as other weights than their shards
    alone = adapted()
    step(alone)
    half_of(alone).data.add_(1.0)
    expected = dict(served_weights(alone))
    assert server.weights.keys() == expected.keys()
    assert all((server.weights[name] - weight).abs().max() < 1e-6 for name, weight in expected.items())
    assert len(server.buckets) > 2

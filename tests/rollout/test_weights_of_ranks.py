"""Two processes that hold a policy in shards bring its weights to a server together, or fail together."""

from __future__ import annotations

import multiprocessing

import torch
import torch.distributed as dist
from support.policies import LIMIT, policy_of
from support.weight_server import weight_server
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from hapo_lit.errors import EngineError
from hapo_lit.policy.sharding import local, unsharded
from hapo_lit.rollout.heads import served_weights
from hapo_lit.rollout.vllm_server import VLLMServerEngine


def rank_of_two(rank, folder, url, found):
    """One process; ``found`` gets its number and what its syncs said."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    policy, mesh = policy_of(), init_device_mesh("cpu", (2,))
    for part in (*policy.get_decoder().layers, policy):
        fully_shard(part, mesh=mesh)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
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
    for parameter in policy.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    sync(engine)
    if rank:  # a part that rank 0 does not have
        local(policy.get_decoder().norm.weight).data.add_(1.0)
    sync(engine)
    sync(VLLMServerEngine([url], LIMIT, dtype="bfloat16", exchange=f"{folder}/nowhere"))
    sync(engine)
    full = {name: weight.clone() for name, weight in served_weights(policy)}
    torch.save((said, full), folder / f"rank-{rank}.pt")
    dist.destroy_process_group()
    found.put(rank)


def test_weights_in_shards_are_sent_once_and_a_failure_is_everybodys(tmp_path):
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    with weight_server() as (url, server):
        ranks = [context.Process(target=rank_of_two, args=(rank, tmp_path, url, found)) for rank in (0, 1)]
        for process in ranks:
            process.start()
        assert {found.get(timeout=60) for _ in ranks} == {0, 1}
        for process in ranks:
            process.join(10)
    (said, weights), (said_by_1, _) = (torch.load(tmp_path / f"rank-{rank}.pt") for rank in (0, 1))
    assert said == said_by_1
    assert [bool(line) for line in said] == [False, False, False, False, True, False]
    assert "nowhere" in said[4]
    assert server.updates in (4, 5)  # gathered layers may count as other weights than their shards
    assert server.weights.keys() == weights.keys()
    assert all(torch.equal(server.weights[name], weight) for name, weight in weights.items())
    assert len(server.buckets) > 2

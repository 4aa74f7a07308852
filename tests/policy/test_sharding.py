"""State dicts and optimisers of sharded policies, here without shards; and what processes exchange."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from support.shapes import module_of, real_policy
from support.shards import process
from torch.distributed.tensor.debug import CommDebugMode

from hapo_lit.planning.memory_dry_run import blank_rows
from hapo_lit.policy.sharding import full_state_dict, shard, shard_optimizer_state, within_replicas


def test_a_full_state_dict_has_the_structure_of_the_state_and_no_tensors_where_none_are_kept():
    state = {"a": [torch.ones(2), 3], "b": {"c": (torch.zeros(1), None)}, "d": "text"}
    kept = full_state_dict(state, keep=True)
    assert str(kept) == str(state)
    assert kept["a"][0] is not state["a"][0]
    assert full_state_dict(state, keep=False) == {"a": [None, 3], "b": {"c": (None, None)}, "d": "text"}


def test_moments_of_an_unsharded_optimiser_stay_as_they_are():
    parameter = torch.nn.Parameter(torch.ones(3))
    state = {"state": {0: {"step": torch.tensor(2.0), "exp_avg": torch.ones(3)}}, "param_groups": [{"params": [0]}]}
    assert str(shard_optimizer_state(state, [parameter])) == str(state)


def test_gradients_cross_between_replica_groups_in_the_last_pass_only():
    built = module_of(real_policy())
    rows = blank_rows(built, 2, 3, 4)
    with process(0, 4) as mesh:
        shard(built, mesh, replicas=2)
        counts = []
        for last in (False, True):
            with CommDebugMode() as seen, nullcontext() if last else within_replicas(built):
                built.loss(rows).loss.backward()
            counts.append(seen.get_comm_counts())
    reduced, crossed = torch.ops.c10d._reduce_scatter_base_, torch.ops.c10d.allreduce_
    assert [count[reduced] for count in counts] == [3, 3]  # two layers, and what is left
    assert [count[crossed] for count in counts] == [0, 3]

"""State dicts and optimisers of sharded policies, here without shards."""

from __future__ import annotations

import torch

from hapo_lit.policy.sharding import full_state_dict, shard_optimizer_state


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

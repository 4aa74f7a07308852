from __future__ import annotations

import torch
from support.shapes import real_policy

from hapo_lit.rollout.growing_cache import full_cache, growing_cache


def test_a_full_cache_has_the_spare_room_of_one_that_grew_token_by_token():
    policy = real_policy()
    for prompt, length in ((5, 5), (5, 6), (9, 300)):
        grown = growing_cache(policy)
        for width in (prompt, *[1] * (length - prompt)):
            for layer in grown.layers:
                layer.update(*(torch.zeros(2, 1, width, 16) for _ in range(2)))
        full = full_cache(policy, 2, prompt, length, (torch.float32, torch.float32))
        for one, other in zip(full.layers, grown.layers, strict=True):
            assert one.keys.shape == other.keys.shape == (2, 1, length, 16)
            assert (one.room is None) == (other.room is None) == (length == prompt)
            assert one.room is None or one.room[0].shape == other.room[0].shape

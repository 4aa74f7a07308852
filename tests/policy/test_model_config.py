"""What is read from a model's configuration, changed in it, and refused."""

from __future__ import annotations

import pytest
import torch
from support.shapes import SHAPE, real_policy
from transformers import AutoConfig
from transformers.cache_utils import DynamicCache

from hapo_lit.policy.loading import load_policy, meta_model, policy_like
from hapo_lit.policy.model_config import check_lengths, kv_bytes_per_token

LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}


def test_a_loaded_policy_has_more_positions_and_a_checkpoint_of_it_too(make_policy, tmp_path):
    make_policy().save_pretrained(tmp_path / "base")
    unchanged = load_policy(str(tmp_path / "base"))
    wide = load_policy(str(tmp_path / "base"), positions=512, rope_theta=4e4)
    assert unchanged.config.max_position_embeddings == 256
    assert wide.config.max_position_embeddings == 512
    assert all(map(torch.equal, unchanged.parameters(), wide.parameters()))
    wide.config.save_pretrained(tmp_path / "saved")
    again = policy_like(str(tmp_path / "saved"))
    again.load_state_dict(wide.state_dict())
    tokens = torch.arange(4, 24)[None]
    with torch.no_grad():
        first, second, third = (policy(tokens).logits for policy in (unchanged, wide, again.train()))
    assert not torch.allclose(first, second)
    assert torch.equal(second, third)
    assert repr(meta_model(str(tmp_path / "base"), positions=512, rope_theta=4e4).config) == repr(wide.config)


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ({}, {"positions": 0}, "model.positions must be a whole number of at least 1, or null, got 0"),
        ({}, {"rope_theta": "big"}, "model.rope_theta must be a number above 1, or null, got 'big'"),
        ({"rope_parameters": LINEAR}, {"rope_theta": 4e4}, "(linear): leave it null"),
        ({"num_key_value_heads": 3}, {}, "num_attention_heads=2 is not divisible by num_key_value_heads=3"),
        ({"num_attention_heads": 5}, {}, "hidden_size=32 is not divisible by num_attention_heads=5"),
        (None, {}, "the shape of 'some/model' is not known here: give model.shape, or a local folder as model.path"),
    ],
)
def test_shapes_that_cannot_be_are_refused(shape, settings, message):
    with pytest.raises(ValueError) as error:
        meta_model("some/model", None if shape is None else {**SHAPE, **shape}, **settings)
    assert message in str(error.value)


def test_a_text_may_fill_all_positions_and_no_more():
    config = AutoConfig.for_model(**SHAPE)
    check_lengths(config, 100, 156)
    with pytest.raises(ValueError, match=r"set model.positions=257 and a larger model.rope_theta"):
        check_lengths(config, 100, 157)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [{}, {"head_dim": 24, "num_key_value_heads": 2, "num_hidden_layers": 3}])
def test_a_cache_of_keys_and_values_has_the_size_that_is_computed(sizes, dtype):
    policy = real_policy(**sizes).to(dtype).eval()
    cache = DynamicCache(config=policy.config)
    with torch.no_grad():
        policy(torch.ones(3, 11, dtype=torch.int64), past_key_values=cache, use_cache=True)
    size = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert size == 3 * 11 * kv_bytes_per_token(policy.config, dtype)

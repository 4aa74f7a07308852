"""Weights that are read once a model is sharded: each process its own rows, the same as if it had loaded all."""

from __future__ import annotations

import pytest
import torch
from support.shapes import module_of, real_policy
from support.shards import process

from hapo_lit.policy.attention import keeps_rows_apart
from hapo_lit.policy.deferred import is_deferred
from hapo_lit.policy.loading import load_policy
from hapo_lit.policy.sharding import shard


def shards_of(module, mesh, **layout):
    shard(module, mesh, **layout)
    own = {name: parameter.to_local().clone() for name, parameter in module.named_parameters(remove_duplicate=False)}
    return own | dict(module.named_buffers())


def saved(folder, policy, **how):
    policy.save_pretrained(folder, **how)
    return str(folder)


@pytest.mark.parametrize(
    ("sizes", "how", "settings"),
    [
        ({"tie_word_embeddings": True}, {}, {}),
        ({"tie_word_embeddings": False}, {"max_shard_size": "10KB"}, {"positions": 99, "gradient_checkpointing": True}),
        ({"tie_word_embeddings": True}, {}, {"lora": {"rank": 3, "seed": 5}, "dtype": "bfloat16"}),
    ],
    ids=["tied", "untied, in several files", "adapter"],
)
def test_shards_are_to_the_bit_those_of_a_model_that_was_loaded_whole(tmp_path, sizes, how, settings):
    """In bfloat16 on disk, float32 in memory but for the base of the adapter; policy and reference; of 97 rows two
    processes have 49 and 48."""
    path = saved(tmp_path, real_policy(**sizes).to(torch.bfloat16), **how)
    state = torch.get_rng_state()
    for rank in (0, 1):
        whole, later = (load_policy(path, strategy=strategy, **settings) for strategy in ("auto", "fsdp"))
        assert is_deferred(later)
        assert all(parameter.is_meta for name, parameter in later.named_parameters() if "lora_" not in name)
        assert later.training
        assert later.config.to_dict() == whole.config.to_dict()
        assert later.generation_config.to_dict() == whole.generation_config.to_dict()
        assert later.is_gradient_checkpointing == whole.is_gradient_checkpointing
        with process(rank, 2) as mesh:
            first, second = (shards_of(module_of(policy, kl=0.1), mesh) for policy in (whole, later))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert {name for name in first if "lora_A" in name} or not settings.get("lora")
        assert not is_deferred(later)
        wanted = [parameter.requires_grad for parameter in whole.parameters()]
        assert [parameter.requires_grad for parameter in later.parameters()] == wanted
        tied = later.get_output_embeddings().weight is later.get_input_embeddings().weight
        assert tied == sizes["tie_word_embeddings"]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_replica_group_reads_the_whole_model_between_its_processes(tmp_path):
    path = saved(tmp_path, real_policy())
    whole = load_policy(path).get_input_embeddings().weight
    for rank, rows in ((2, slice(0, 49)), (3, slice(49, 97))):
        with process(rank, 4) as mesh:
            own = shards_of(module_of(load_policy(path, strategy="fsdp")), mesh, replicas=2)
        assert torch.equal(own["policy.model.embed_tokens.weight"], whole[rows])


def test_a_checkpoint_takes_the_place_of_the_files(tmp_path, make_policy):
    path = saved(tmp_path, make_policy(seed=1))
    trained, later = module_of(make_policy(seed=2), kl=0.1), module_of(load_policy(path, strategy="fsdp"), kl=0.1)
    with torch.no_grad():
        trained.policy.model.norm.weight += 1  # so that policy and reference differ
    later.load_state_dict(trained.state_dict())
    with process(1, 2) as mesh:
        first, second = (shards_of(module, mesh) for module in (trained, later))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_cannot_be_read_in_parts_is_loaded_whole_with_a_line(tmp_path, make_policy, capsys):
    policy = make_policy()
    path = saved(tmp_path / "bin", policy)
    (tmp_path / "bin/model.safetensors").unlink()
    torch.save(policy.state_dict(), tmp_path / "bin/pytorch_model.bin")
    assert not is_deferred(load_policy(path, strategy="fsdp"))
    assert (
        f"every process loads all of {path} before it is sharded, since it has no safetensors"
        in capsys.readouterr().err
    )
    decoder = saved(tmp_path / "decoder", policy.model)
    assert not is_deferred(load_policy(decoder, strategy="fsdp"))
    assert "since model.embed_tokens.weight is there under none of its names" in capsys.readouterr().err


def test_models_that_change_their_logits_after_the_head_are_refused_without_their_weights(tmp_path, make_policy):
    path = saved(tmp_path, make_policy("gemma2", head_dim=16, final_logit_softcapping=30.0))
    with pytest.raises(ValueError, match="gemma2 models change their logits after the output head"):
        load_policy(path, strategy="fsdp")


@pytest.mark.parametrize(("architecture", "sizes", "apart"), [("qwen2", {}, True), ("mamba", {"state_size": 4}, False)])
def test_whether_rows_may_share_a_sequence_is_known_without_the_weights(
    tmp_path, make_policy, architecture, sizes, apart
):
    path = saved(tmp_path, make_policy(architecture, **sizes))
    policy = load_policy(path, attention="eager", strategy="fsdp")
    assert is_deferred(policy)
    assert keeps_rows_apart(policy) == apart

"""What a sharded module computes in: its layers in bfloat16, everything at rest and all that is measured in float32."""

from __future__ import annotations

import pytest
import torch
from support.shards import process
from support.training import data, hapo, module, phase
from torch.distributed.tensor import DTensor

from hapo_lit.gates import AlwaysGate
from hapo_lit.policy.scoring import token_logprobs
from hapo_lit.policy.sharding import rest_gathered, shard


@pytest.fixture(params=[False, True], ids=["kept", "checkpointed"])
def sharded(make_policy, tokenizer, request):
    """Policy and reference on the one process there is, where nothing is made up."""
    policy = make_policy(num_hidden_layers=2, tie_word_embeddings=False)
    if request.param:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    built = module(policy, tokenizer, phase(hapo(AlwaysGate()), kl=0.1), updates_per_batch=2, micro_batch_size=3)
    built.data = data(tokenizer)
    built.data.setup()
    with process() as mesh:
        yield shard(built, mesh, mixed=True)


def test_the_stream_is_bfloat16_and_the_head_gets_float32_and_every_ratio_begins_at_one(sharded):
    streams = []
    for layer in sharded.policy.get_decoder().layers:
        layer.register_forward_hook(lambda _, inputs, output: streams.append((inputs[0].dtype, output.dtype)))
    experience = sharded.collect(sharded.data.batch(0))
    batches = sharded.micro_batches(experience, policy_moves=True)[0]
    assert set(streams[0::2]) == {(torch.bfloat16, torch.bfloat16)}
    assert set(streams[1::2]) == {(torch.bfloat16, torch.float32)}
    for rows in batches:
        with rest_gathered(sharded):
            logprobs, _ = token_logprobs(sharded.policy, rows.text)
        assert logprobs.dtype == torch.float32
        assert logprobs.requires_grad
        assert torch.equal(logprobs, rows.old_logprobs)
        assert torch.equal(logprobs, rows.reference_logprobs)
    sharded.loss(batches[0]).loss.backward()
    for parameter in sharded.policy.parameters():
        assert isinstance(parameter, DTensor)
        assert parameter.dtype == parameter.grad.dtype == torch.float32
        assert parameter.grad.full_tensor().abs().sum() > 0


def test_engines_get_the_weights_at_rest_and_evaluation_computes_with_those_of_the_passes(sharded):
    def dtypes():
        return {parameter.dtype for parameter in sharded.policy.get_decoder().layers.parameters()}

    evaluator = sharded.evaluation.evaluators["greedy"]
    seen, sync = [], evaluator.sync
    evaluator.sync = lambda policy: (seen.append(dtypes()), sync(policy))
    sharded.on_validation_epoch_start()
    assert seen == [{torch.float32}]
    assert dtypes() == {torch.bfloat16}
    sharded.on_validation_epoch_end()
    assert dtypes() == {torch.float32}


def test_a_loss_gathers_nothing_of_the_reference(sharded):
    seen = []

    def look(layer, inputs):
        norms = (model.get_decoder().norm.weight for model in (sharded.policy, sharded.reference))
        seen.append([isinstance(weight, DTensor) for weight in norms])

    experience = sharded.collect(sharded.data.batch(0))
    rows = sharded.micro_batches(experience, policy_moves=False)[0][0]
    sharded.policy.get_decoder().layers[0].register_forward_pre_hook(look)
    sharded.loss(rows)
    assert seen == [[False, True]]

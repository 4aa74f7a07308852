"""Whether weights have changed is seen however they change, and nothing else is."""

from __future__ import annotations

import torch

from hapo_lit.policy.adapters import with_adapter
from hapo_lit.policy.fingerprint import on_any_rank, weights_fingerprint
from hapo_lit.policy.output_head import head_of


def changed(policy, change):
    before = weights_fingerprint(policy)
    change()
    return weights_fingerprint(policy) != before


def test_every_way_of_changing_a_weight_is_seen(policy):
    weight, norm = policy.get_decoder().layers[1].mlp.up_proj.weight, policy.get_decoder().norm.weight
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    saved = {name: 2 * tensor for name, tensor in policy.state_dict().items()}

    def step():
        for parameter in policy.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()

    assert changed(policy, step)
    assert changed(policy, lambda: policy.load_state_dict(saved))
    assert changed(policy, lambda: weight.data[0, 0].mul_(2))  # torch's counter does not see it
    bias = policy.get_decoder().layers[0].self_attn.q_proj.bias.data
    assert changed(policy, lambda: bias[:2].copy_(bias[:2] + torch.tensor([1.0, -1.0])))  # nor does the sum
    with torch.no_grad():
        assert changed(policy, lambda: norm.fill_(3.0))  # of equal values nothing is left by exclusive or
        assert changed(policy, lambda: weight.copy_(weight.flip(0)))


def test_what_changes_no_weight_is_not_seen(policy):
    tokens = torch.arange(6)[None]

    def use():
        policy.train(not policy.training)
        head_of(policy).logits(policy.get_decoder()(input_ids=tokens).last_hidden_state).sum().backward()
        policy.zero_grad()

    assert not changed(policy, use)


def test_an_adapter_counts(policy):
    settings = {"rank": 2, "alpha": 4, "targets": "all-linear", "seed": 0}
    adapted = with_adapter(policy, settings)
    (first, *_) = (parameter for name, parameter in adapted.named_parameters() if "lora_B" in name)
    assert changed(adapted, lambda: first.data.add_(1e-3))


def test_one_process_speaks_for_itself():
    assert [on_any_rank(claim, torch.device("cpu")) for claim in (True, False)] == [True, False]

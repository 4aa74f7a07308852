"""Token log-probabilities, entropies and their gradients are those of the full logits, in less memory."""

from __future__ import annotations

import pytest
import torch
from support.builders import make_group, make_prompts

from hapo_lit.policy.scoring import positions, token_logprobs
from hapo_lit.rollout.hf import HFEngine
from hapo_lit.rows import Text


def by_full_logits(policy, text, temperature=1.0):
    """The plain way: all logits, one log-softmax."""
    ids = torch.cat([text.prompt_tokens, text.tokens], 1)
    mask = torch.cat([text.prompt_mask, text.mask], 1)
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    logits = policy(input_ids=ids, attention_mask=mask.long(), position_ids=positions).logits
    width = text.tokens.shape[1]
    logprobs = (logits[:, -width - 1 : -1] / temperature).log_softmax(-1)
    picked = logprobs.gather(-1, text.tokens[..., None]).squeeze(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return torch.where(text.mask, picked, 0.0), torch.where(text.mask, entropy, 0.0)


def gradient(policy, value):
    policy.zero_grad()
    value.backward()
    return torch.cat([parameter.grad.flatten() for parameter in policy.parameters()])


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("logits", [1, 24 * 3, 10**6])
def test_tiles_equal_full_logits_with_gradients(make_policy, architecture, tied, logits):
    policy = make_policy(architecture, tie_word_embeddings=tied).double()
    text = make_group([[0, 1, 0], [1, 0, 0]]).text()
    ours, entropy = token_logprobs(policy, text, 0.7, logits_per_tile=logits)
    plain, plain_entropy = by_full_logits(policy, text, 0.7)
    torch.testing.assert_close(ours, plain, atol=1e-12, rtol=0)
    torch.testing.assert_close(entropy, plain_entropy, atol=1e-12, rtol=0)
    assert not entropy.requires_grad
    weights = torch.rand(ours.shape, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(
        gradient(policy, (ours * weights).sum()),
        gradient(policy, (by_full_logits(policy, text, 0.7)[0] * weights).sum()),
        atol=1e-12,
        rtol=1e-9,
    )


def test_padding_changes_nothing(policy):
    policy.double()
    text = make_group([[0, 1], [1, 0]], lengths=[[2, 5], [3, 1]]).text()
    padded = Text(
        *(torch.nn.functional.pad(value, (3, 0)) for value in text[:2]),
        *(torch.nn.functional.pad(value, (0, 4)) for value in text[2:]),
    )
    ours, theirs = token_logprobs(policy, text)[0], token_logprobs(policy, padded)[0]
    torch.testing.assert_close(ours, theirs[:, : ours.shape[1]], atol=1e-10, rtol=0)
    assert (theirs[:, ours.shape[1] :] == 0).all()
    trimmed = padded.trimmed()
    assert trimmed.tokens.shape[1] == 5
    assert torch.equal(trimmed.prompt_mask, text.trimmed().prompt_mask)


def of_large_logits(make_policy, dtype):
    """A policy whose logits reach 20 and more, where bfloat16 has steps of an eighth."""
    policy = make_policy(tie_word_embeddings=False)
    with torch.no_grad():
        policy.lm_head.weight.mul_(10)
    return policy.to(dtype)


def by_float64(policy, text, mixed):
    """Log-probabilities from the decoder's own last hidden states, with a head in float64, and that head's weight."""
    ids, mask = torch.cat([text.prompt_tokens, text.tokens], 1), torch.cat([text.prompt_mask, text.mask], 1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        hidden = policy.get_decoder()(input_ids=ids, attention_mask=mask.long(), position_ids=positions(mask))[0]
    weight = policy.lm_head.weight.detach().double().requires_grad_()
    logits = hidden[:, -text.tokens.shape[1] - 1 : -1].double() @ weight.T
    assert logits.abs().max() > 20
    logprobs = logits.log_softmax(-1).gather(-1, text.tokens[..., None]).squeeze(-1)
    return torch.where(text.mask, logprobs, 0.0), weight


@pytest.mark.parametrize(("dtype", "mixed"), [(torch.float32, True), (torch.bfloat16, False)])
def test_the_head_is_float32_in_every_precision(make_policy, dtype, mixed):
    policy = of_large_logits(make_policy, dtype)
    text = make_group([[0] * 4] * 6, lengths=[[6, 5, 4, 6]] * 6).text()
    exact, weight = by_float64(policy, text, mixed)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        logprobs, entropy = token_logprobs(policy, text, logits_per_tile=4 * policy.config.vocab_size)
    assert logprobs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprobs.double(), exact, atol=2e-5, rtol=0)
    exact.mean().backward()
    logprobs.mean().backward()
    error = float((policy.lm_head.weight.grad.double() - weight.grad).norm() / weight.grad.norm())
    assert error < (1e-5 if dtype == torch.float32 else 3e-3)  # of 32 tiles: rounded once, not with every tile


@pytest.mark.parametrize(("dtype", "mixed"), [(torch.float32, True), (torch.bfloat16, False)])
def test_the_sampler_and_the_scorer_have_the_same_head(make_policy, dtype, mixed):
    policy = of_large_logits(make_policy, dtype)
    group = make_group([[0, 1], [1, 0]])
    engine = HFEngine(1, seed=3, stop_ids=[2])
    engine.sync(policy)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        sampled = engine.generate(make_prompts(group, [1, 1]), 8, 0)
    exact, _ = by_float64(policy, sampled.text(), mixed)
    torch.testing.assert_close(sampled.behaviour_logprobs.flatten(0, 1).double(), exact.detach(), atol=2e-5, rtol=0)

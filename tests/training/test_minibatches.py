"""A batch split into mini-batches of prompts: an optimiser step for each, the same on any number of processes.

And micro-batches: passes of rows that fit together.
"""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from support.builders import make_group
from support.training import data, fit, hapo, module, phase, weights

from hapo_lit.gates import AlwaysGate
from hapo_lit.protocols import ALONE, Ranks
from hapo_lit.rows import MicroBatchLimit, Text
from hapo_lit.training.update import split_by_prompts
from hapo_lit.training.update_notices import update_notices
from hapo_lit.types import Experience, GateDecision
from hapo_lit.weighting import DropFlat, SequenceMean, TokenMean

PROMPTS = 5


def experience_of(group, weighting, mean=ALONE.mean):
    return Experience(
        group=group,
        advantages=group.rewards - 0.5,
        token_weights=weighting(group, mean, 0),
        decision=GateDecision(torch.ones(len(group.prompt_ids)).bool(), torch.ones(len(group.prompt_ids))),
    )


@pytest.mark.parametrize("weighting", [TokenMean(), SequenceMean(), DropFlat(TokenMean())])
@pytest.mark.parametrize("count", [2, 5])
def test_each_mini_batch_is_weighted_as_if_it_were_the_batch(weighting, count):
    group = make_group([[0, 1, 0], [1, 0, 0], [1, 1, 1], [0, 1, 1], [1, 0, 1]])
    parts = split_by_prompts(experience_of(group, weighting), count, weighting, ALONE)
    assert len(parts) == count
    seen = []
    for part in parts:
        own = (part.token_weights != 0).any(2).any(1).nonzero().flatten()
        seen += own.tolist()
        alone = replace(group, present=group.present & torch.isin(torch.arange(PROMPTS), own)[:, None])
        assert torch.equal(part.token_weights, weighting(alone, ALONE.mean, 0))
        assert torch.equal(part.advantages, group.rewards - 0.5)
    assert seen == ([0, 1, 3, 4] if isinstance(weighting, DropFlat) else [0, 1, 2, 3, 4])


def test_one_mini_batch_is_the_batch_itself():
    experience = experience_of(make_group([[0, 1], [1, 0]]), TokenMean())
    assert split_by_prompts(experience, 1, TokenMean(), ALONE) == [experience]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_parts_of_two_ranks_are_those_of_one(count):
    """Rank r has prompts r, r + 2, ...: together their parts are those of one process, with the same weights."""
    group, weighting = make_group([[0, 1], [1, 0], [1, 1], [0, 1]]), TokenMean()
    alone = split_by_prompts(experience_of(group, weighting), count, weighting, ALONE)
    sums = {}  # of a part's denominator, over both ranks

    def ranked(rank, note):
        place = torch.arange(rank, 4, 2)
        chosen = {field.name: getattr(group, field.name)[place] for field in fields(group)}
        calls = iter(range(count + 1))
        mean = lambda value: note(next(calls), value)  # noqa: E731
        ranks = Ranks(ALONE.gather, mean, ALONE.max, ALONE.barrier, rank, 2)
        return split_by_prompts(experience_of(replace(group, **chosen), weighting, mean), count, weighting, ranks)

    def add(call, value):
        sums[call] = sums.get(call, 0) + value
        return value

    for rank in (0, 1):
        ranked(rank, add)
    for rank in (0, 1):
        for part, whole in zip(ranked(rank, lambda call, _: sums[call] / 2), alone, strict=True):
            torch.testing.assert_close(part.token_weights, 2 * whole.token_weights[rank::2])


def test_a_step_makes_passes_times_mini_batches_optimiser_steps(make_policy, tokenizer):
    for settings, steps in (({}, 1), ({"minibatches": 2}, 2), ({"minibatches": 3, "updates_per_batch": 2}, 6)):
        built = module(make_policy(), tokenizer, phase(hapo(AlwaysGate())), **settings)
        trainer = fit(built, data(tokenizer), steps=1)
        assert trainer.global_step == steps
        assert {float(state["step"]) for state in trainer.optimizers[0].state.values()} == {float(steps)}
        assert built.step == 1


def test_the_gradient_of_the_batch_is_that_of_its_mini_batches_by_their_tokens(make_policy, tokenizer):
    built = module(make_policy(), tokenizer, phase(hapo(AlwaysGate())), minibatches=2)
    experience = built.collect(data(tokenizer).batch(0))
    tokens = [int(experience.group.mask[half].sum()) for half in (slice(0, 2), slice(2, 4))]

    def gradient(of):
        built.policy.zero_grad()
        built.loss(of.rows()).loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in built.policy.parameters()])

    parts = [gradient(part) for part in split_by_prompts(experience, 2, TokenMean(), ALONE)]
    assert all(part.abs().max() > 0 for part in parts)
    mixed = sum(count / sum(tokens) * part for count, part in zip(tokens, parts, strict=True))
    torch.testing.assert_close(mixed, gradient(experience), atol=1e-6, rtol=1e-4)


def test_the_second_mini_batch_has_ratios_that_differ_from_one(make_policy, tokenizer):
    built = module(make_policy(), tokenizer, phase(hapo(AlwaysGate())), minibatches=2)
    fit(built, data(tokenizer), steps=1)
    assert built.metrics["loss/ratio_mean"] != 1
    once = module(make_policy(), tokenizer, phase(hapo(AlwaysGate())))
    fit(once, data(tokenizer), steps=1)
    assert once.metrics["loss/ratio_mean"] == 1
    assert not torch.equal(weights(built), weights(once))


def test_more_mini_batches_than_prompts_are_one_for_each_prompt_and_it_says_so(make_policy, tokenizer):
    runs = []
    for count in (4, 16):
        built = module(make_policy(), tokenizer, phase(hapo(AlwaysGate())), minibatches=count)
        notices = update_notices(built, 4)
        trainer = fit(built, data(tokenizer), steps=1)
        assert trainer.global_step == 4
        runs.append((weights(built), [line for line in notices if "minibatches=16" in line]))
    assert torch.equal(runs[0][0], runs[1][0])
    assert runs[0][1] == []
    assert runs[1][1] == ["module.minibatches=16: a batch has 4 prompts, so it makes 4, of one prompt each"]


def text_of(*lengths):
    """Rows of these lengths of (prompt, response), padded as they are in a batch."""
    prompts, responses = torch.tensor(lengths).T
    width, longest = int(prompts.max()), int(responses.max())
    prompt_mask = torch.arange(width) >= width - prompts[:, None]
    mask = torch.arange(longest) < responses[:, None]
    return Text(prompt_mask.long(), prompt_mask, mask.long(), mask)


def test_micro_batches_are_filled_by_padded_tokens_the_longest_first():
    text = text_of((2, 10), (4, 3), (2, 4), (1, 9), (2, 3), (8, 1))
    filled = [batch.tolist() for batch in text.micro_batches(MicroBatchLimit(rows=100, tokens=24))]
    assert filled == [[0, 3], [2, 1, 4], [5]]  # 2 rows of 2 + 10, 3 of 4 + 4, and 8 + 1 beside any would be too many
    for batch in filled:
        part = text.select(torch.tensor(batch)).trimmed()
        assert len(batch) * (part.tokens.shape[1] + part.prompt_tokens.shape[1]) <= 24
    assert [batch.tolist() for batch in text.micro_batches(MicroBatchLimit(2, 24))] == [[0, 3], [2, 1], [4, 5]]
    alone = text.micro_batches(MicroBatchLimit(rows=100, tokens=1))  # longer than allowed, each by itself
    assert [batch.tolist() for batch in alone] == [[0], [3], [2], [1], [4], [5]]
    assert text.select(torch.tensor([], dtype=torch.int64)).micro_batches(MicroBatchLimit(2, 24)) == []

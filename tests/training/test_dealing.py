"""Rows dealt to ranks by their tokens: each row once, as many passes for all, and nothing else changes."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from support.builders import make_group
from support.thread_ranks import on_ranks
from support.training import hapo, module, phase

from hapo_lit.numerics.tallies import accumulate
from hapo_lit.rows import MicroBatchLimit
from hapo_lit.training.dealing import deal, gathered
from hapo_lit.training.update import micro_batches
from hapo_lit.types import Experience, GateDecision
from hapo_lit.weighting import TokenMean

PROMPTS, GROUP = 8, 4


def lengths_of(count, seed=0, longest=4000):
    """Lengths as responses have them: many short ones and a few that are very long."""
    draw = torch.Generator().manual_seed(seed)
    skewed = (torch.rand(count, generator=draw) ** 4 * longest).long() + 1
    return torch.randint(20, 200, (count,), generator=draw).tolist(), skewed.tolist()


@pytest.mark.parametrize("padding_free", [False, True])
@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize("limit", [MicroBatchLimit(1), MicroBatchLimit(7), MicroBatchLimit(64, 9000)])
def test_every_row_is_dealt_once_within_the_limit_and_no_rank_makes_more_passes(limit, ranks, padding_free):
    limit = limit._replace(padding_free=padding_free)
    prompts, responses = lengths_of(96)
    hands = deal(limit, prompts, responses, ranks)
    assert sorted(row for hand in hands for batch in hand for row in batch) == list(range(96))
    passes = [len(hand) for hand in hands]
    assert max(passes) == -(-len(limit.fill(prompts, responses)) // ranks)  # no more than they must be
    assert min(passes) >= max(passes) - 1
    for hand in hands:
        assert all(len(batch) <= limit.rows for batch in hand)
        if limit.tokens is not None:
            assert all(limit.tokens_of(batch, prompts, responses) <= limit.tokens for batch in hand)


def loads(hands, limit, prompts, responses):
    return [sum(limit.tokens_of(batch, prompts, responses) for batch in hand) for hand in hands]


@pytest.mark.parametrize("seed", range(4))
def test_ranks_have_about_as_many_tokens_where_prompts_of_their_own_are_unequal(seed):
    limit = MicroBatchLimit(16, 16_384)
    prompts, responses = lengths_of(512, seed, longest=8192)
    balanced = loads(deal(limit, prompts, responses, 8), limit, prompts, responses)
    assert max(balanced) < 1.1 * sum(balanced) / 8
    own = []
    for rank in range(8):  # 8 prompts of each rank, whose 8 rows have much the same length
        mine = sorted(range(512), key=lambda row: responses[row])[rank * 64 : (rank + 1) * 64]
        batches = limit.fill([prompts[row] for row in mine], [responses[row] for row in mine])
        own.append(sum(limit.tokens_of([mine[row] for row in batch], prompts, responses) for batch in batches))
    assert max(balanced) < 0.4 * max(own)


def test_one_batch_that_would_fit_a_single_pass_is_shared_by_all_ranks():
    hands = deal(MicroBatchLimit(128), [2] * 6, [30, 10, 10, 10, 10, 1], 2)
    assert [[sorted(batch) for batch in hand] for hand in hands] == [[[1, 2, 3, 4, 5]], [[0]]]  # 5 rows of 12, 1 of 32


def test_a_row_beyond_the_limit_has_a_pass_of_its_own_and_widens_no_other():
    limit, prompts, responses = MicroBatchLimit(64, 100), [10] * 11, [290] + [40] * 10
    passes = [batch for hand in deal(limit, prompts, responses, 2) for batch in hand]
    assert sorted(limit.tokens_of(batch, prompts, responses) for batch in passes) == [100] * 5 + [300]


def test_batches_of_nothing_and_of_fewer_rows_than_ranks():
    limit = MicroBatchLimit(4)
    assert deal(limit, [], [], 2) == [[], []]
    assert deal(limit, [3], [5], 2) == [[[0]], []]


def experience(seed=0):
    """Credited, with teachers, and rows of all lengths; those of prompt 0 cannot contribute."""
    draw = torch.Generator().manual_seed(seed)
    rewards = torch.randint(0, 2, (PROMPTS, GROUP), generator=draw)
    rewards[0] = 1
    lengths = torch.randint(1, 25, (PROMPTS, GROUP), generator=draw)
    teacher = torch.zeros(PROMPTS, GROUP, dtype=torch.int64)
    teacher[2:5, 1] = 1
    group = make_group(rewards.tolist(), teacher.tolist(), lengths=lengths.tolist())
    return Experience(
        group=group,
        advantages=group.rewards - group.rewards.mean(1, keepdim=True),
        token_weights=TokenMean()(group, lambda value: value, 0),
        decision=GateDecision(torch.ones(PROMPTS).bool(), torch.rand(PROMPTS, generator=draw)),
        behaviour_logprobs=group.behaviour_logprobs,
    )


def part_of(whole, rank, world):
    """A rank's prompts, weighed over all ranks: gradients are averaged over them."""
    place = torch.arange(rank, PROMPTS, world)

    def own(carrier):
        return replace(carrier, **{field.name: getattr(carrier, field.name)[place] for field in fields(carrier)})

    return replace(
        whole,
        group=own(whole.group),
        decision=own(whole.decision),
        advantages=whole.advantages[place],
        token_weights=world * whole.token_weights[place],
        behaviour_logprobs=whole.behaviour_logprobs[place],
    )


def outcome(built, rank_batches):
    """Loss and gradient over all ranks, and the tallies, which add up."""
    world, total, tallies = len(rank_batches), 0.0, {}
    built.policy.zero_grad()
    for batches in rank_batches:
        for rows in batches:
            output = built.loss(built.score(rows, policy_moves=True))
            (output.loss / world).backward()
            total += float(output.loss.detach()) / world
            accumulate(tallies, output.metrics)
    return total, torch.cat([parameter.grad.flatten() for parameter in built.policy.parameters()]), tallies


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("limit", [MicroBatchLimit(128), MicroBatchLimit(3), MicroBatchLimit(8, 100)])
def test_loss_gradient_and_metrics_are_those_of_one_process_however_rows_are_dealt(
    make_policy, tokenizer, world, limit
):
    built = module(make_policy(), tokenizer, phase(hapo(), kl=0.1))
    whole = experience()
    alone = [list(whole.rows().split(MicroBatchLimit(128)))]
    loss, gradient, tallies = outcome(built, alone)
    parts = {}
    for balance in (True, False):
        made = on_ranks(
            world,
            lambda ranks, balance=balance: micro_batches(
                part_of(whole, ranks.rank, world), built.phase.loss, limit, ranks, balance
            ),
        )
        parts[balance] = [batches for batches, _ in made]
        assert len({len(batches) for batches in parts[balance]}) == 1
        assert sum(share for _, share in made) / world == 1  # with a KL term every row contributes
        dealt_loss, dealt_gradient, dealt_tallies = outcome(built, parts[balance])
        assert abs(dealt_loss - loss) < 1e-6
        torch.testing.assert_close(dealt_gradient, gradient, atol=1e-6, rtol=0)
        assert dealt_tallies.keys() == tallies.keys()
        for name in tallies:
            torch.testing.assert_close(dealt_tallies[name], _scaled(name, tallies[name], world), atol=1e-5, rtol=1e-6)
    assert len(parts[True][0]) <= len(parts[False][0])


def _scaled(name, tally, world):
    """Sums of |∂loss/∂log π| are of a rank's loss, and in the ranks' mean each counts a share: both sums have it."""
    return world * tally if name == "teacher/gradient_share" else tally


def test_rows_without_a_contribution_stay_where_they_are(make_policy, tokenizer):
    built = module(make_policy(), tokenizer, phase(hapo()))
    whole = experience()
    made = on_ranks(
        2,
        lambda ranks: micro_batches(
            part_of(whole, ranks.rank, 2), built.phase.loss, MicroBatchLimit(5), ranks, balance=True
        ),
    )
    credited = (whole.advantages != 0).sum()
    assert sum(int((rows.token_weights != 0).any(1).sum()) for batches, _ in made for rows in batches) == credited
    assert sum(share for _, share in made) / 2 == pytest.approx(float(credited) / (PROMPTS * GROUP))


def test_rows_are_gathered_as_they_were_whatever_their_widths():
    rows = experience().rows()
    rows = rows._replace(entropy_weights=2 * rows.token_weights)
    first, second = torch.arange(5), torch.arange(5, PROMPTS * GROUP)
    for found in on_ranks(2, lambda ranks: gathered(rows.select((first, second)[ranks.rank]).trimmed(), ranks)):
        text, expected = found.text, rows.trimmed().text
        assert torch.equal(text.mask, expected.mask)
        assert torch.equal(text.prompt_mask, expected.prompt_mask)
        assert torch.equal(text.tokens[text.mask], expected.tokens[text.mask])
        assert torch.equal(text.prompt_tokens[text.prompt_mask], expected.prompt_tokens[text.prompt_mask])
        for name in ("is_teacher", "advantages", "confidence"):
            assert torch.equal(getattr(found, name), getattr(rows, name))
        for name in ("token_weights", "behaviour_logprobs", "entropy_weights"):
            assert torch.equal(getattr(found, name)[text.mask], getattr(rows, name)[rows.text.mask])
        assert found.step == rows.step

"""The weights of LUFFY's and HPT's scripts, on devices with several micro-batches, beside a simulation of them."""

from __future__ import annotations

import pytest
import torch
from support.builders import make_group

from hapo_lit.protocols import ALONE
from hapo_lit.weighting import DeviceSums, DeviceSumsAndMeans

LIMIT, ROWS, BUDGET = 24, 64, 96  # a device's rows; tokens of a micro-batch, 4 x the limit


def device_of(teachers, prompts, seed=0):
    """One device's rows in groups of 8: rollouts of 3 to 18 tokens, teachers of 10 to 24."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 19, (prompts, 8), generator=draw)
    taught = torch.zeros(prompts, 8, dtype=torch.int64)
    taught.view(-1)[torch.randperm(prompts * 8, generator=draw)[:teachers]] = 1
    lengths = torch.where(taught.bool(), torch.randint(10, 25, lengths.shape, generator=draw), lengths)
    return make_group([[0.0] * 8] * prompts, teacher=taught.tolist(), lengths=lengths.tolist(), seed=seed)


def simulated(group, kind, rounds=300):
    """A device's sum over micro-batches of the mean over their tokens of a kind, as the weight of the tokens together.

    Rows are dealt at random to ``ceil(tokens / budget)`` micro-batches; means over no token are left out.
    """
    length, kind = group.mask.sum(2).flatten(), kind.flatten()
    with_prompts = length + group.prompt_mask.sum(1).repeat_interleave(8)
    count = -(-int(with_prompts.sum()) // BUDGET)
    draw = torch.Generator().manual_seed(1)
    found = 0
    for _ in range(rounds):
        for part in torch.randperm(len(length), generator=draw).tensor_split(count):
            found += int(length[part][kind[part]].sum() > 0)
    return found / rounds


@pytest.mark.parametrize("teachers", [1, 3, 20, 64])
def test_nll_and_entropy_weigh_what_they_weigh_in_the_script(teachers):
    group = device_of(teachers, ROWS // 8)
    weighting = DeviceSumsAndMeans(LIMIT, ROWS)
    weights, entropy = weighting(group, ALONE.mean, 0), weighting.entropy_weights(group, ALONE.mean, 0)
    sampled = group.mask & ~group.is_teacher[..., None]
    assert weights[sampled].unique().tolist() == pytest.approx([1 / LIMIT] * (teachers < ROWS))
    assert float(weights[group.is_teacher].sum()) == pytest.approx(simulated(group, group.is_teacher), rel=0.02)
    assert float(entropy.sum()) == pytest.approx(simulated(group, group.present))
    assert entropy[group.mask].unique().numel() == 1


def test_luffys_trace_is_summed_as_its_rollouts_are():
    group = device_of(3, ROWS // 8)
    weights = DeviceSums(LIMIT, ROWS)(group, ALONE.mean, 0)
    assert weights[group.mask].unique().tolist() == pytest.approx([1 / LIMIT])


def test_against_sft_rl_weighs_what_it_weighs_in_the_script():
    """Lengths as in the paper's setting, on one device: 64 rows of 1,000 tokens and a teacher of 4,000."""
    lengths = [[4000] + [0] * 7] + [[1000] * 8] * 8
    present = [[1] + [0] * 7] + [[1] * 8] * 8
    group = make_group([[0.0] * 8] * 9, [[1] + [0] * 7] + [[0] * 8] * 8, present, lengths)
    weights = DeviceSumsAndMeans(8192, 65)(group, ALONE.mean, 0)
    assert float(weights[~group.is_teacher].sum()) == pytest.approx(64 * 1000 / 8192)
    assert float(weights[group.is_teacher].sum()) == pytest.approx(1)  # a teacher alone in its micro-batch


def test_a_batch_of_another_size_is_weighed_as_if_it_filled_devices():
    whole, twice = device_of(3, 8), device_of(3, 8)
    weighting = DeviceSumsAndMeans(LIMIT, ROWS)
    both = type(whole)(
        **{
            name: None if value is None else torch.cat([value, getattr(twice, name)])
            for name, value in vars(whole).items()
        }
    )
    for weigh in (weighting, weighting.entropy_weights):
        torch.testing.assert_close(weigh(both, ALONE.mean, 0)[:8] * 2, weigh(whole, ALONE.mean, 0))


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match=r"rows must be a whole number of at least 1, got 0"):
        DeviceSums(8, rows=0)

"""Draws follow the law of the softmax, tails and padding included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from hapo_lit.numerics.categorical import draw


def uniforms(count, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random(count))


def by_float64(logits, uniforms, temperature):
    """The plain inverse in float64."""
    mass = (logits.double() / temperature).softmax(-1)
    cumulative = mass.cumsum(-1)
    drawn = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)
    return drawn[:, 0], mass.gather(1, drawn).log()[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("size", [1, 7, 512, 10_240, 20_011])
def test_draws_and_log_probabilities_are_those_of_float64(size, temperature):
    logits = 4 * torch.randn(400, size, generator=torch.Generator().manual_seed(size))
    drawn, logprobs = draw(logits, uniforms(400), temperature)
    there, their_logprobs = by_float64(logits, uniforms(400), temperature)
    assert (drawn == there).float().mean() >= 0.995  # an edge between two classes may round to the other
    same = drawn == there
    torch.testing.assert_close(logprobs[same], their_logprobs[same], atol=2e-6, rtol=0)


@pytest.mark.parametrize("size", [300, 3000])
def test_the_law_is_the_softmax_by_chi_square_tails_included(size):
    row = torch.linspace(0, -9, size)[torch.randperm(size, generator=torch.Generator().manual_seed(1))]
    count = 60_000
    drawn = torch.cat([draw(row.expand(2000, -1), uniforms(2000, seed))[0] for seed in range(count // 2000)])
    expected = (row.double().softmax(-1) * count).numpy()
    order = np.argsort(expected)
    bins = np.minimum(np.cumsum(expected[order]) // 20, count // 20 - 1).astype(int)  # some 20 draws in each
    seen = np.bincount(bins, np.bincount(drawn.numpy(), minlength=size)[order])
    hoped = np.bincount(bins, expected[order])
    used = hoped > 0
    assert stats.chisquare(seen[used], hoped[used] * count / hoped[used].sum()).pvalue > 1e-3


@pytest.mark.parametrize("size", [11, 2500])
def test_a_class_without_mass_is_never_drawn(size):
    logits = torch.full((3, size), torch.finfo(torch.float32).min)
    logits[0, 3], logits[1, size - 2], logits[2, [2, 5]] = 1.0, -50.0, 2.0
    numbers = torch.tensor([0.0, 1 - 2**-53, 0.5], dtype=torch.float64)
    for shift in range(3):
        drawn, logprobs = draw(logits, numbers.roll(shift))
        assert drawn[0] == 3
        assert drawn[1] == size - 2
        assert drawn[2] in (2, 5)
        torch.testing.assert_close(logprobs, torch.tensor([0.0, 0.0, -np.log(2)], dtype=torch.float64))


@pytest.mark.parametrize("size", [11, 2500])
def test_logits_that_are_no_numbers_give_some_class(size):
    drawn, logprobs = draw(torch.full((2, size), torch.nan), uniforms(2))
    assert ((drawn >= 0) & (drawn < size)).all()
    assert logprobs.isnan().all()


def test_a_draw_at_the_edge_of_a_block_is_of_a_class_with_mass():
    """Where the sum of a block in float32 and that of what is inside it differ."""
    size = 4096
    logits = torch.full((1, size), torch.finfo(torch.float32).min)
    logits[0, 40:90:3] = torch.randn(17, generator=torch.Generator().manual_seed(0))
    logits[0, 200:260:3] = torch.randn(20, generator=torch.Generator().manual_seed(1))
    mass = (logits.double() - logits.max()).exp()
    edges = mass.cumsum(-1)[0, 30:270].unique() / mass.sum()
    numbers = torch.cat([edges.nextafter(torch.tensor(side, dtype=torch.float64)) for side in (0.0, 2.0)] + [edges])
    drawn, _ = draw(logits.expand(len(numbers), -1), numbers)
    assert (mass[0, drawn] > 0).all()

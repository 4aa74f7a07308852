from dataclasses import fields, replace

import pytest
import torch
from support.builders import make_group

from hapo_lit.protocols import TokenWeighting
from hapo_lit.schedules import Complement, Linear
from hapo_lit.weighting import (
    ConstantLength,
    DeviceSums,
    DeviceSumsAndMeans,
    DropFlat,
    DropTruncated,
    SeparateMeans,
    SequenceMean,
    TokenMean,
)

WEIGHTINGS = {
    "token": TokenMean,
    "sequence": SequenceMean,
    "constant": lambda: ConstantLength(6),
    "drop_truncated": lambda: DropTruncated(SequenceMean()),
    "drop_flat": lambda: DropFlat(TokenMean()),
    "device_sums": lambda: DeviceSums(6),
    "device_sums_and_means": lambda: DeviceSumsAndMeans(6),
    "separate": lambda: SeparateMeans(SequenceMean(), TokenMean()),
}
every_weighting = pytest.mark.parametrize("make", WEIGHTINGS.values(), ids=WEIGHTINGS.keys())


def alone(value):
    return value


@every_weighting
def test_contract(make):
    weighting = make()
    assert isinstance(weighting, TokenWeighting)
    group = make_group([[0, 1], [0, 0]], present=[[1, 1], [1, 0]])
    held = {field.name: getattr(group, field.name).clone() for field in fields(group)}
    weights = weighting(group, alone, 0)
    assert all(torch.equal(getattr(group, name), value) for name, value in held.items())
    assert weights.shape == group.tokens.shape
    assert (weights[~group.mask] == 0).all()
    assert (weights[1, 1] == 0).all()
    assert (weights[group.mask & group.present[..., None]] > 0).all()
    nothing = make_group([[0, 0]], present=[[0, 0]])
    assert (weighting(nothing, alone, 0) == 0).all()


def test_by_hand():
    group = make_group([[0, 1]], lengths=[[1, 3]])
    assert TokenMean()(group, alone, 0)[0].tolist() == [[0.25, 0, 0], [0.25, 0.25, 0.25]]
    assert SequenceMean()(group, alone, 0)[0].flatten().tolist() == pytest.approx([1 / 2, 0, 0, 1 / 6, 1 / 6, 1 / 6])
    assert ConstantLength(6)(group, alone, 0)[0].flatten().tolist() == pytest.approx(
        [1 / 12, 0, 0, 1 / 12, 1 / 12, 1 / 12]
    )


@every_weighting
def test_two_ranks_average_to_the_global_batch(make):
    """Gradients are averaged over ranks: rank losses with global denominators must average to the one-rank loss."""
    teacher = [[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1]]
    group = make_group([[0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 1, 0]], teacher, seed=5)
    losses = torch.rand(group.tokens.shape, generator=torch.Generator().manual_seed(1))
    whole = (make()(group, alone, 0) * losses).sum()
    halves = [
        replace(group, **{field.name: getattr(group, field.name)[cut] for field in fields(group)})
        for cut in (slice(0, 2), slice(2, 4))
    ]
    asked: list[list[torch.Tensor]] = [[], []]
    for half, questions in zip(halves, asked, strict=True):
        make()(half, lambda value, questions=questions: questions.append(value) or value, 0)
    means = [sum(pair) / 2 for pair in zip(*asked, strict=True)]
    parts = []
    for half, loss in zip(halves, losses.split(2), strict=True):
        given = iter(means)
        parts.append((make()(half, lambda value, given=given: next(given), 0) * loss).sum())
    assert float(sum(parts) / 2) == pytest.approx(float(whole), rel=1e-6)


@every_weighting
def test_what_a_single_rank_of_several_has_counts_in_full(make):
    """Two rows of one token on one rank of four: a mean over ranks of rows or tokens is below 1."""
    group = make_group([[0, 1]], [[0, 1]], lengths=[[1, 1]])
    torch.testing.assert_close(make()(group, lambda value: value / 4, 0), 4 * make()(group, alone, 0))


def test_truncated_responses_do_not_count():
    group = make_group([[0, 1]], lengths=[[1, 3]])
    cut = replace(group, finished=torch.tensor([[True, False]]))
    assert DropTruncated(TokenMean())(cut, alone, 0)[0].tolist() == [[1, 0, 0], [0, 0, 0]]
    assert DropTruncated(SequenceMean())(cut, alone, 0)[0].tolist() == [[0.5, 0, 0], [0, 0, 0]]  # still one of two
    assert torch.equal(DropTruncated(TokenMean())(group, alone, 0), TokenMean()(group, alone, 0))


def test_flat_groups_do_not_dilute_the_others():
    group = make_group([[0, 1], [0, 0], [1, 1]], lengths=[[1, 3], [2, 2], [1, 1]])
    weights = DropFlat(TokenMean())(group, alone, 0)
    assert weights[0].tolist() == [[0.25, 0, 0], [0.25, 0.25, 0.25]]
    assert (weights[1:] == 0).all()
    signal = make_group([[0, 1], [1, 0]])
    assert torch.equal(DropFlat(TokenMean())(signal, alone, 0), TokenMean()(signal, alone, 0))


@pytest.mark.parametrize("drop", [DropFlat, DropTruncated])
def test_what_drops_rows_keeps_the_weights_of_entropies(drop):
    group = make_group([[0, 1], [0, 1]])
    inner = DeviceSums(6, rows=8)
    assert torch.equal(drop(inner).entropy_weights(group, alone, 0), inner.entropy_weights(group, alone, 0))
    assert torch.equal(drop(TokenMean()).entropy_weights(group, alone, 0), TokenMean()(group, alone, 0))
    nothing = replace(group, rewards=torch.zeros(2, 2), finished=torch.zeros(2, 2, dtype=torch.bool))
    assert (drop(inner).entropy_weights(nothing, alone, 0) == 0).all()


def test_a_teacher_who_stands_alone_is_not_a_flat_group():
    group = make_group([[1, 0]], teacher=[[1, 0]], present=[[1, 0]])
    assert float(DropFlat(TokenMean())(group, alone, 0).sum()) == pytest.approx(1.0)


def test_rollouts_and_teacher_rows_are_averaged_apart():
    group = make_group([[0, 1], [0, 1]], teacher=[[0, 1], [0, 0]], lengths=[[1, 2], [2, 1]])
    weights = SeparateMeans(TokenMean(), TokenMean(), 0.25, 2.0)(group, alone, 0)
    assert weights.tolist() == [[[0.0625, 0], [1, 1]], [[0.0625, 0.0625], [0.0625, 0]]]
    scheduled = SeparateMeans(TokenMean(), SequenceMean(), Complement(Linear(0.9, 0.1)), Linear(0.9, 0.1), horizon=4)
    for step, share in ((0, 0.9), (2, 0.5), (4, 0.1), (50, 0.1)):
        weights = scheduled(group, alone, step)
        assert float(weights[group.is_teacher].sum()) == pytest.approx(share)
        assert float(weights[~group.is_teacher].sum()) == pytest.approx(1 - share)


def test_without_a_teacher_the_policys_part_is_the_plain_weighting_bit_for_bit():
    group = make_group([[0, 1], [0, 0]])
    assert torch.equal(SeparateMeans(TokenMean(), SequenceMean())(group, alone, 0), TokenMean()(group, alone, 0))


def test_constant_length_refuses_nonsense():
    with pytest.raises(ValueError, match="at least 1"):
        ConstantLength(0)

from dataclasses import fields, replace

import pytest
import torch
from conftest import make_group

from hapo_lit.protocols import TokenWeighting
from hapo_lit.weighting import ConstantLength, SequenceMean, TokenMean

WEIGHTINGS = {"token": TokenMean, "sequence": SequenceMean, "constant": lambda: ConstantLength(6)}
every_weighting = pytest.mark.parametrize("make", WEIGHTINGS.values(), ids=WEIGHTINGS.keys())


def alone(value):
    return value


@every_weighting
def test_contract(make):
    weighting = make()
    assert isinstance(weighting, TokenWeighting)
    group = make_group([[0, 1], [0, 0]], present=[[1, 1], [1, 0]])
    weights = weighting(group, alone)
    assert weights.shape == group.tokens.shape
    assert (weights[~group.mask] == 0).all()
    assert (weights[1, 1] == 0).all()
    assert (weights[group.mask & group.present[..., None]] > 0).all()
    nothing = make_group([[0, 0]], present=[[0, 0]])
    assert (weighting(nothing, alone) == 0).all()


def test_by_hand():
    group = make_group([[0, 1]], lengths=[[1, 3]])
    assert TokenMean()(group, alone)[0].tolist() == [[0.25, 0, 0], [0.25, 0.25, 0.25]]
    assert SequenceMean()(group, alone)[0].flatten().tolist() == pytest.approx([1 / 2, 0, 0, 1 / 6, 1 / 6, 1 / 6])
    assert ConstantLength(6)(group, alone)[0].flatten().tolist() == pytest.approx(
        [1 / 12, 0, 0, 1 / 12, 1 / 12, 1 / 12]
    )


@every_weighting
def test_two_ranks_average_to_the_global_batch(make):
    """Gradients are averaged over ranks: rank losses with global denominators must average to the one-rank loss."""
    group = make_group([[0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 1, 0]], seed=5)
    losses = torch.rand(group.tokens.shape, generator=torch.Generator().manual_seed(1))
    whole = (make()(group, alone) * losses).sum()
    halves = [
        replace(group, **{field.name: getattr(group, field.name)[cut] for field in fields(group)})
        for cut in (slice(0, 2), slice(2, 4))
    ]
    denominators: list[torch.Tensor] = []
    for half in halves:
        make()(half, lambda value: denominators.append(value) or value)
    mean = sum(denominators) / 2
    parts = [(make()(half, lambda _: mean) * loss).sum() for half, loss in zip(halves, losses.split(2), strict=True)]
    assert float(sum(parts) / 2) == pytest.approx(float(whole), rel=1e-6)


def test_constant_length_refuses_nonsense():
    with pytest.raises(ValueError, match="at least 1"):
        ConstantLength(0)

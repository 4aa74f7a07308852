import pytest
import torch

from hapo_lit.numerics.masked import all_equal, bounded_exp, masked_mean, masked_std, masked_sum

VALUES = torch.tensor([[1.0, 2.0, float("nan"), 6.0], [3.0, 3.0, 3.0, 9.0]])
MASK = torch.tensor([[True, True, False, True], [True, True, True, False]])


def test_sum_mean_and_deviation_by_hand():
    assert masked_sum(VALUES, MASK, 1).tolist() == [[9], [9]]
    assert masked_mean(VALUES, MASK, 1).tolist() == [[3], [3]]
    # deviations −2, −1, 3: squares add up to 14
    assert masked_std(VALUES, MASK, 1, ddof=0).flatten().tolist() == pytest.approx([(14 / 3) ** 0.5, 0])
    assert masked_std(VALUES, MASK, 1, ddof=1).flatten().tolist() == pytest.approx([7**0.5, 0])


def test_where_nothing_is_counted_the_results_are_zero():
    none = torch.zeros_like(MASK)
    assert masked_sum(VALUES, none, 1).tolist() == masked_mean(VALUES, none, 1).tolist() == [[0], [0]]
    assert masked_std(VALUES, none, 1, ddof=1).tolist() == [[0], [0]]
    assert all_equal(VALUES, none, 1).all()


def test_equality_is_exact_and_does_not_look_at_what_is_masked():
    assert all_equal(VALUES, MASK, 1).tolist() == [[False], [True]]
    near = torch.tensor([[0.1, 0.1 + 1e-7]])
    assert all_equal(near, torch.tensor([[True, True]]), 1).tolist() == [[False]]


def test_the_bounded_exponential_is_finite_and_so_is_its_square():
    found = bounded_exp(torch.tensor([-1000.0, 0.0, 1.0, 1000.0]))
    assert found.tolist() == pytest.approx([2.0611536e-09, 1, 2.7182818, 485165195.4])
    assert found.square().isfinite().all()

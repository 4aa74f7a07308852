import torch

from hapo_lit.numerics.tallies import accumulate, count_tally, masked_tally, number, plain_tally, tally, tally_of


def test_a_tally_is_a_sum_and_a_count_in_float64_without_a_gradient():
    values = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    for found, expected in (
        (tally(values.sum(), torch.tensor(3)), [7, 3]),
        (tally_of(values.detach()), [7, 3]),
        (tally_of(values.detach() > 1), [2, 3]),
        (masked_tally(values, torch.tensor([True, False, True])), [5, 2]),
        (masked_tally(values > 1, torch.tensor([True, False, True])), [1, 2]),
        (count_tally(values > 1), [2, 0]),
    ):
        assert found.tolist() == expected
        assert found.dtype == torch.float64
        assert not found.requires_grad


def test_what_is_masked_is_not_looked_at():
    values = torch.tensor([float("nan"), 3.0])
    assert masked_tally(values, torch.tensor([False, True])).tolist() == [3, 1]
    assert masked_tally(values, torch.tensor([False, False])).tolist() == [0, 0]


def test_tallies_of_parts_add_up_to_that_of_the_whole():
    values = torch.arange(10.0)
    parts = sum(tally_of(part) for part in values.split(3))
    assert torch.equal(parts, tally_of(values))


def test_tallies_accumulate_and_become_means_or_sums():
    tallies = {"a": plain_tally(1.0, 2.0)}
    accumulate(tallies, {"a": plain_tally(5.0, 1.0), "b": plain_tally(7.0, 0.0)})
    assert {name: number(*value.tolist()) for name, value in tallies.items()} == {"a": 2.0, "b": 7.0}

import torch

from hapo_lit.numerics.tallies import (
    accumulate,
    masked_tally,
    number,
    plain_tallies,
    share_tallies,
    tallies,
    tally,
    tally_of,
)


def test_a_tally_is_a_sum_and_a_count_in_float64_without_a_gradient():
    values = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    for found, expected in (
        (tally(values.sum(), torch.tensor(3)), [7, 3]),
        (tally_of(values.detach()), [7, 3]),
        (tally_of(values.detach() > 1), [2, 3]),
        (masked_tally(values, torch.tensor([True, False, True])), [5, 2]),
        (masked_tally(values > 1, torch.tensor([True, False, True])), [1, 2]),
        (tallies({"a": (values.sum(), torch.tensor(3))})["a"], [7, 3]),
        (share_tallies({"a": values > 1})["a"], [2, 3]),
        (share_tallies({"a": values > 1}, torch.tensor([True, False, True]))["a"], [1, 2]),
        (plain_tallies({"a": (7, 3.0)})["a"], [7, 3]),
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
    measured = plain_tallies({"a": (1.0, 2.0)})
    accumulate(measured, plain_tallies({"a": (5.0, 1.0), "b": (7.0, 0.0)}))
    assert {name: number(*value.tolist()) for name, value in measured.items()} == {"a": 2.0, "b": 7.0}
    assert plain_tallies({}) == {}


def test_many_tallies_at_once_are_each_its_own():
    flags = {"a": torch.tensor([[True, False], [True, True]]), "b": torch.tensor([[False, False], [False, True]])}
    mask = torch.tensor([[True, True], [False, True]])
    for mine in (None, mask):
        found = share_tallies(flags, mine)
        assert list(found) == ["a", "b"]
        for name, values in flags.items():
            assert torch.equal(found[name], tally_of(values) if mine is None else masked_tally(values, mine))
    pairs = {name: (values.sum(), values.float().mean()) for name, values in flags.items()}
    found = tallies(pairs)
    assert all(torch.equal(found[name], tally(*pairs[name])) for name in flags)
    assert flags["a"].tolist() == [[True, False], [True, True]]  # what was given is as it was

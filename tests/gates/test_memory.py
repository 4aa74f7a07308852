import numpy as np
import pytest
import torch

from hapo_lit.gates import Memory


def test_memory_is_a_dictionary_of_counts():
    """A thousand visits with repeats, against the plainest implementation."""
    draw = np.random.default_rng(0)
    for discount in (0.5, 1.0):
        memory, plain = Memory(discount), {}
        pool = draw.integers(-(2**62), 2**62, 700)
        for _ in range(1000):
            ids, won, lost = draw.choice(pool, 7), draw.integers(0, 5, 7), draw.integers(0, 5, 7)
            memory.add(ids, won, lost)
            for prompt in set(ids.tolist()):
                old = plain.get(prompt, (0.0, 0.0))
                new = won[ids == prompt].sum(), lost[ids == prompt].sum()
                plain[prompt] = tuple(discount * before + now for before, now in zip(old, new, strict=True))
        assert len(memory) == len(plain)
        assert memory.counts_of(np.array(list(plain))).tolist() == [list(counts) for counts in plain.values()]
        assert memory.counts_of(np.array([1, 2])).tolist() == [[0, 0], [0, 0]]
        copy = Memory(discount)
        copy.load_state_dict(memory.state_dict())
        assert copy.counts_of(np.array(list(plain))).tolist() == memory.counts_of(np.array(list(plain))).tolist()


def test_memory_survives_ids_that_all_want_one_place():
    ids = np.arange(500) * 2**40  # equal low bits, and few distinct high ones
    memory = Memory(1.0)
    for part in np.split(ids, 5):
        memory.add(part, part % 7, part % 3)
    assert memory.counts_of(ids)[:, 0].tolist() == (ids % 7).tolist()


def test_memory_takes_the_bytes_it_says():
    memory = Memory(1.0)
    for part in np.split(np.random.default_rng(1).integers(0, 2**63 - 1, 200_000), 100):
        memory.add(part, part % 2, part % 3)
    assert memory.nbytes <= 52 * len(memory)
    state = memory.state_dict()
    assert sum(value.nbytes for value in (state["prompt_ids"], state["counts"])) == 24 * len(memory)


def test_the_order_of_visits_leaves_no_trace_in_the_state():
    one, other, ids = Memory(1.0), Memory(1.0), np.arange(1000) * 7919
    one.add(ids, ids % 5, ids % 3)
    for part in np.split(ids[::-1], 10):
        other.add(part, part % 5, part % 3)
    assert str(one.state_dict()) == str(other.state_dict())
    assert torch.equal(one.state_dict()["counts"], other.state_dict()["counts"])


def test_a_discount_above_one_is_refused():
    with pytest.raises(ValueError, match="discount must be in"):
        Memory(1.5)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("count", [63, 64, 65, 128, 256, 512])
def test_memory_always_has_a_free_place_where_a_search_can_end(count):
    memory = Memory(1.0)
    memory.add(np.arange(count), np.ones(count), np.ones(count))
    assert memory.counts_of(np.arange(count, 2 * count)).sum() == 0

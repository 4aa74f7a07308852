"""How many sequences are sampled at once."""

from __future__ import annotations

import pytest

from hapo_lit.device_memory import RolloutBatch, sequences_that_fit


@pytest.mark.parametrize(
    ("most", "room", "at_once"),
    [
        (128, 10_000, 128),
        (128, 1380, 128),
        (128, 1379, 64),  # 127 would fit: two parts are needed, and they are equally large
        (128, 740, 64),
        (128, 739, 43),
        (128, 110, 1),
        (128, 0, 1),  # at least one, even where it does not fit
        (1, 0, 1),
    ],
)
def test_as_few_equal_parts_as_fit(most, room, at_once):
    assert sequences_that_fit(lambda count: 100 + 10 * count, most, room) == at_once


@pytest.mark.parametrize("room", range(120, 9000, 333))
def test_what_is_chosen_fits_where_memory_is_not_quite_linear(room):
    def memory(count):
        return max(100 + 10 * count, 70 * -(-count // 8) + 8 * count)

    chosen = sequences_that_fit(memory, 500, room)
    assert memory(chosen) <= room
    assert chosen == 1 or memory(2 * chosen + 20) > room


def test_the_prompts_of_consecutive_sequences():
    """The first and the last of them may have a part of their group only."""
    assert RolloutBatch.largest(16, 1, 8, 10, 20).prompts == 17
    assert [RolloutBatch(count, 1, 1, 8).prompts for count in (1, 2, 9, 10)] == [1, 2, 2, 3]
    assert RolloutBatch(5, 1, 1).prompts == 5

"""The order of training problems from a stream and from a cached corpus, and what both say of themselves."""

from __future__ import annotations

from collections import Counter

import pytest
from support.corpora import corpus, datamodule, first_batches, row, write

from hapo_lit.data.corpus import CachedCorpus
from hapo_lit.data.ordering import BlockShuffler
from hapo_lit.data.problems import Problem
from hapo_lit.data.reader import LocalFiles, Position


def stream(files, tokenizer, prompts_per_step=4, heldout=None, **settings):
    return datamodule(corpus(files, heldout=heldout), tokenizer, prompts_per_step, **settings)


def test_an_epoch_of_a_stream_deals_every_problem_at_most_once_and_no_batch_twice_the_same(lines, tokenizer):
    kept = {problem.prompt_id for problem, _ in corpus(lines).stream(Position(), Counter())}
    per_epoch = len(kept) // 4
    batches = [ids for ids, _ in first_batches(stream(lines, tokenizer), 3 * per_epoch)]
    for epoch in range(3):
        dealt = [prompt for ids in batches[epoch * per_epoch : (epoch + 1) * per_epoch] for prompt in ids]
        assert len(dealt) == len(set(dealt)) == 4 * per_epoch
        assert set(dealt) <= kept
    assert batches[0] != batches[per_epoch]  # another epoch, another order
    assert [ids for ids, _ in first_batches(stream(lines, tokenizer, seed=1), 1)] != batches[:1]
    assert all(len(set(ids)) == 4 for ids in batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_that_crosses_blocks_holds_a_prompt_once_and_is_resumed(tmp_path, tokenizer, workers):
    """The same six problems again and again, in blocks of seven rows: nearly every batch of four crosses a border."""
    write(tmp_path / "a.jsonl", [row(number % 6 + 2) for number in range(84)])
    heldout = LocalFiles(write(tmp_path / "h.jsonl", [row(500)]))

    def fresh():
        return stream(str(tmp_path / "a.jsonl"), tokenizer, buffer=5, heldout=heldout)

    through = first_batches(fresh(), 30, workers=workers)
    assert all(len(set(ids)) == 4 for ids, _ in through)
    first, second = fresh(), fresh()
    first.setup()
    for step, batch in zip(range(7), first.batches(0, 1), strict=False):
        first.advance(batch, step + 1)
    second.load_state_dict(first.state_dict())
    assert first_batches(second, 10, workers=workers) == through[7:17]
    with pytest.raises(
        ValueError, match=r"a.jsonl: too few rows are left for a batch of prompts_per_step=7: .*duplicate"
    ):
        first_batches(stream(str(tmp_path / "a.jsonl"), tokenizer, 7, heldout=heldout), 1)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_share_every_batch_without_overlap_and_without_loss(lines, tokenizer, world):
    def batches(*rank_and_world):
        return first_batches(stream(lines, tokenizer, prompts_per_step=12, buffer=13), 5, *rank_and_world)

    whole = [ids for ids, _ in batches()]
    shares = [batches(rank, world) for rank in range(world)]
    for index, ids in enumerate(whole):
        dealt = [prompt for share in shares for prompt in share[index][0]]
        assert sorted(dealt) == sorted(ids)
        assert len(set(dealt)) == 12
    assert len({tuple(cursor for _, cursor in share) for share in shares}) == 1  # one cursor for all
    if world == 4:
        with pytest.raises(ValueError, match="not divisible by 5 processes"):
            first_batches(stream(lines, tokenizer, prompts_per_step=12, buffer=13), 1, 0, 5)


def test_a_buffer_smaller_than_a_batch_is_refused(lines, tokenizer):
    with pytest.raises(ValueError, match=r"data.buffer=3 must hold a batch of 4"):
        stream(lines, tokenizer, buffer=3).setup()


def test_a_stream_reads_no_further_than_it_must(lines):
    """One block at a time is in memory, and nothing behind it."""
    source = corpus(lines)
    source.heldout()
    delivered = []

    class Counting:
        name = "counting"

        def rows(self, start):
            for content in LocalFiles(lines).rows(start):
                delivered.append(content)
                yield content

    source.reader = Counting()
    blocks = BlockShuffler(source, lambda problems: [True] * len(problems), 4, 8, 0)
    batches = blocks.batches(blocks.start)
    next(batches)
    assert 8 <= len(delivered) <= 14


def test_prompts_that_are_too_long_are_left_out_of_both_orders(tmp_path, tokenizer):
    rows = [row(number) for number in range(2, 30)] + [row(10**12 + number) for number in range(6)]
    file = write(tmp_path / "a.jsonl", rows)
    heldout = LocalFiles(write(tmp_path / "h.jsonl", [row(500)]))
    long = {Problem(content["problem"], "", "").prompt_id for content in rows[-6:]}
    for source in (
        corpus(file, heldout=heldout),
        CachedCorpus(corpus(file, heldout=heldout), str(tmp_path / "c"), False),
    ):
        data = datamodule(source, tokenizer, max_prompt_tokens=18)
        dealt = {prompt for ids, _ in first_batches(data, 14) for prompt in ids}
        assert len(dealt) == 28
        assert not dealt & long
    assert data.describe()["prompt_too_long"] == 6


def test_the_facts_of_a_stream_are_those_of_its_first_problems(lines, tokenizer):
    data = stream(lines, tokenizer)
    facts = data.describe()
    assert facts["train_problems"] == 0
    assert facts["heldout_problems"] == 3
    assert facts["teacher_usable"] > 20
    assert facts["teacher_accepted"] == facts["teacher_accuracy"] == 1.0
    assert "kept" in data.dropped()
    prompt, teacher = data.sample()
    assert "Compute" in prompt
    assert "boxed" in teacher


def test_labels_reach_the_batch_from_a_stream_and_from_a_cached_corpus(tokenizer, tmp_path):
    write(tmp_path / "a.jsonl", [{**row(number), "level": f"Level {number % 3}"} for number in range(2, 42)])
    streamed = corpus(str(tmp_path / "a.jsonl"))
    for source in (streamed, CachedCorpus(streamed, str(tmp_path / "cache"), progress=False)):
        data = datamodule(source, tokenizer)
        assert sorted(data.difficulties) == ["Level 0", "Level 1", "Level 2"]
        assert set(next(iter(data.train_dataloader())).difficulties) <= set(data.difficulties)

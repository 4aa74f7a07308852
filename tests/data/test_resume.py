"""Resuming at any batch is the same as running through; other data are refused."""

from __future__ import annotations

import os

import pytest
from support.corpora import LINES, corpus, datamodule, first_batches, write_three

from hapo_lit.data.corpus import CachedCorpus
from hapo_lit.data.filters import NoAnswer
from hapo_lit.data.templates import PlainTemplate
from hapo_lit.errors import ResumeError


def fresh(kind, files, tokenizer, tmp_path):
    if kind == "cached":
        return datamodule(CachedCorpus(corpus(files), str(tmp_path / "cache"), progress=False), tokenizer)
    return datamodule(corpus(files), tokenizer, buffer=7 if kind == "stream" else 64)


def resumed(make, stop, rank, world):
    """A datamodule that continues where another one was after ``stop`` batches."""
    first, second = make(), make()
    first.setup()
    for step, batch in zip(range(stop), first.batches(rank, world), strict=False):
        first.advance(batch, step + 1)
    second.load_state_dict(first.state_dict())
    assert second.consumed == stop
    return second


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("kind", ["stream", "stream in one block", "cached"])
def test_resuming_at_any_batch_is_the_same_as_running_through(lines, tokenizer, tmp_path, kind, world):
    def make():
        return fresh(kind, lines, tokenizer, tmp_path)

    rank, total = world - 1, 20  # more than two epochs
    through = first_batches(make(), total, rank, world)
    for stop in range(total):
        rest = first_batches(resumed(make, stop, rank, world), min(4, total - stop), rank, world)
        assert rest == through[stop : stop + 4]


@pytest.mark.parametrize("stop", [5, 8])
def test_a_stream_of_parquet_and_arrow_is_resumed_within_a_file(files, tokenizer, tmp_path, stop):
    def make():
        return fresh("stream", files, tokenizer, tmp_path)

    through = first_batches(make(), stop + 4)
    assert first_batches(resumed(make, stop, 0, 1), 4) == through[stop:]


@pytest.mark.parametrize("kind", ["stream", "cached"])
def test_loader_processes_change_neither_the_order_nor_where_it_is_resumed(lines, tokenizer, tmp_path, kind):
    """Within the first epoch and within the second."""

    def make():
        return fresh(kind, lines, tokenizer, tmp_path)

    through = first_batches(make(), 14, 1, 2)
    assert first_batches(make(), 14, 1, 2, workers=2) == through
    for stop in (3, 10):
        assert first_batches(resumed(make, stop, 1, 2), 4, 1, 2, workers=2) == through[stop : stop + 4]


def with_template(data, template):
    data.template = template
    return data


def test_changed_data_are_refused(tokenizer, tmp_path):
    files = write_three(tmp_path, LINES)

    def stream(**settings):
        return datamodule(corpus(files), tokenizer, **settings)

    state = stream().state_dict()
    for other, name in (
        (stream(seed=1), "seed 0 then, 1 now"),
        (stream(buffer=9), "buffer 8 then, 9 now"),
        (stream(prompts_per_step=5), "prompts_per_step 4 then, 5 now"),
        (datamodule(corpus(files, filters=[NoAnswer()]), tokenizer), "fingerprint .* then, .* now"),
        (stream(max_prompt_tokens=30), "max_prompt_tokens 40 then, 30 now"),
        (with_template(stream(), PlainTemplate("Please: {problem}")), "template .*Please"),
    ):
        with pytest.raises(ResumeError, match=name):
            other.load_state_dict(state)
    os.utime(tmp_path / "a.jsonl", ns=(1, 1))
    stream().load_state_dict(state)
    one = tmp_path / "a.jsonl"
    one.write_text(one.read_text().replace("7", "8", 1))
    with pytest.raises(ResumeError, match="the training data changed"):
        stream().load_state_dict(state)


def test_the_data_of_a_checkpoint_that_knows_files_by_their_time_are_not_compared(tokenizer, tmp_path, capsys):
    data = datamodule(corpus(write_three(tmp_path, LINES)), tokenizer)
    state = {**data.state_dict(), "fingerprint": "0" * 32}
    data.load_state_dict(state)
    assert "knows its data files by their time: not compared" in capsys.readouterr().err
    with pytest.raises(ResumeError, match="seed 0 then, 1 now"):
        datamodule(corpus(str(tmp_path / "*.*")), tokenizer, seed=1).load_state_dict(state)

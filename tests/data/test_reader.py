"""Rows from files and from the hub, with their origins, and what is said of those that cannot be read."""

from __future__ import annotations

import json
import os
from collections import Counter
from types import SimpleNamespace

import huggingface_hub
import pandas as pd
import pyarrow.parquet as pq
import pytest
from support.corpora import corpus, row, write

from hapo_lit.data.corpus import Corpus
from hapo_lit.data.outcomes import BAD_ROW
from hapo_lit.data.reader import Hub, LocalFiles, Origin, Position, Unreadable, hub_or_files
from hapo_lit.data.schemas import Plain


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".arrow"])
def test_every_format_gives_its_rows_with_their_origins_and_reads_on_from_any(tmp_path, suffix):
    rows = [row(number) for number in range(2, 9)]
    for name in ("a", "b"):
        write(tmp_path / f"{name}{suffix}", rows)
    reader = LocalFiles(str(tmp_path / f"*{suffix}"))
    read = list(reader.rows(Position()))
    assert [dict(content) for content, _, _ in read] == rows + rows
    assert read[8][1] == Origin(str(tmp_path / f"b{suffix}"), 2)
    assert str(read[8][1]).endswith(f"b{suffix}, row 2")
    for index, (_, _, after) in enumerate(read):
        assert [dict(content) for content, _, _ in reader.rows(after)] == (rows + rows)[index + 1 :]


def test_what_cannot_be_read_is_named_before_training(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'gone\*.jsonl' does not exist; set data.path"):
        LocalFiles("gone*.jsonl")
    (tmp_path / "data.txt").write_text("")
    with pytest.raises(ValueError, match=r"data.txt: cannot tell the format of '\.txt'; use .jsonl"):
        LocalFiles(str(tmp_path / "data.txt"))
    whole = write(tmp_path / "whole.parquet", [row(2)])
    torn = tmp_path / "torn.parquet"
    torn.write_bytes((tmp_path / "whole.parquet").read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"torn.parquet is damaged or no parquet file"):
        LocalFiles([whole, str(torn)])
    (tmp_path / "torn.arrow").write_bytes(b"no arrow at all")
    with pytest.raises(ValueError, match=r"torn.arrow is damaged or no arrow file"):
        LocalFiles(str(tmp_path / "torn.arrow"))
    other = write(tmp_path / "other.parquet", [{"question": "x", "answer": "1"}])
    with pytest.raises(ValueError, match=r"other.parquet has no column 'problem'; it has question, answer"):
        Corpus(LocalFiles(other), Plain("problem"))
    (tmp_path / "object.json").write_text('{"problem": "x"}')
    (tmp_path / "marked.json").write_text('[{"problem": "x"}]', encoding="utf-8-sig")  # as some editors save it
    assert [row for row, *_ in LocalFiles(str(tmp_path / "marked.json")).rows(Position())] == [{"problem": "x"}]
    with pytest.raises(ValueError, match=r"object.json cannot be read after row 0: it holds no list of rows"):
        list(LocalFiles(str(tmp_path / "object.json")).rows(Position()))


def test_broken_lines_are_named_or_skipped_and_counted(tmp_path):
    lines = [
        json.dumps(row(2)),
        '{"problem": "x", "solu',
        "",
        "[1, 2]",
        json.dumps(row(3, answer=[1])),
        json.dumps(row(4)),
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    contents = [content for content, _, _ in LocalFiles(str(tmp_path / "a.jsonl")).rows(Position())]
    assert [isinstance(content, Unreadable) for content in contents] == [False, True, True, False, False]
    stop, tally = corpus(str(tmp_path / "a.jsonl")), Counter()
    with pytest.raises(
        ValueError, match=r"a.jsonl, row 2: no JSON: .*; on_bad_row=skip, in data.source or .* leaves such rows out"
    ):
        list(stop.candidates(stop.reader, Position(), tally))
    skip = corpus(str(tmp_path / "a.jsonl"), on_bad_row="skip")
    assert len(list(skip.candidates(skip.reader, Position(), tally))) == 2
    assert tally[BAD_ROW] == 3
    (tmp_path / "b.jsonl").write_text(json.dumps(row(3, answer=[1])))
    bad = corpus(str(tmp_path / "b.jsonl"))
    with pytest.raises(ValueError, match=r"b.jsonl, row 1: .*answer.*list"):
        list(bad.candidates(bad.reader, Position(), tally))


def test_blank_lines_are_skipped_and_counted_as_lines(tmp_path):
    lines = ["", json.dumps(row(2)), "  \t", json.dumps(row(3)), "\r", "not a row", json.dumps(row(4)), "", ""]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    reader = LocalFiles(str(tmp_path / "a.jsonl"))
    read = list(reader.rows(Position()))
    assert [origin.row for _, origin, _ in read] == [2, 4, 6, 7]
    for index, (_, _, after) in enumerate(read):
        assert [origin.row for _, origin, _ in reader.rows(after)] == [2, 4, 6, 7][index + 1 :]
    skip, tally = corpus(str(tmp_path / "a.jsonl"), on_bad_row="skip"), Counter()
    assert len(list(skip.candidates(skip.reader, Position(), tally))) == 3
    assert tally == {BAD_ROW: 1}


def test_lines_that_no_parser_takes_are_bad_rows_and_not_the_end(tmp_path):
    lines = [
        b"\xef\xbb\xbf" + json.dumps(row(2)).encode(),  # a byte-order mark is no fault
        b'{"problem": "na\xefve", "answer": "1"}',
        b'{"problem": ' + b"[" * 100_000,
        b'{"problem": "x", "answer": ' + b"9" * 5000 + b"}",
        json.dumps(row(3)).encode(),
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    source, tally = corpus(str(tmp_path / "a.jsonl"), on_bad_row="skip"), Counter()
    assert [candidate.answer for candidate, _ in source.candidates(source.reader, Position(), tally)] == ["1", "2"]
    assert tally == {BAD_ROW: 3}


def test_empty_and_half_damaged_tables(tmp_path):
    pd.DataFrame([row(2)])[:0].to_parquet(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", [row(3)])
    assert [content["answer"] for content, _, _ in LocalFiles(str(tmp_path / "*.parquet")).rows(Position())] == ["2"]
    rows = [row(number, solution=os.urandom(40).hex()) for number in range(2, 902)]
    pd.DataFrame(rows).to_parquet(tmp_path / "c.parquet", row_group_size=300)
    torn = bytearray((tmp_path / "c.parquet").read_bytes())
    middle = pq.read_metadata(tmp_path / "c.parquet").row_group(1).column(1)
    start = middle.dictionary_page_offset or middle.data_page_offset
    torn[start : start + middle.total_compressed_size] = b"\xff" * middle.total_compressed_size
    (tmp_path / "c.parquet").write_bytes(torn)
    delivered = []
    with pytest.raises(ValueError, match=r"c.parquet cannot be read after row \d+"):
        delivered.extend(LocalFiles(str(tmp_path / "c.parquet")).rows(Position()))


def test_the_hub_is_read_through_datasets(monkeypatch):
    """The loading code itself, on a data set that ``datasets`` makes in place of one from the network."""
    import datasets

    calls = []

    def load(*arguments, **settings):
        calls.append((arguments, settings))
        return datasets.IterableDataset.from_generator(lambda: iter([row(n) for n in range(2, 7)]))

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: SimpleNamespace(sha="c0ffee"))
    reader = hub_or_files("AI-MO/NuminaMath-1.5", None, revision="main")
    assert isinstance(reader, Hub)
    read = list(reader.rows(Position()))
    assert calls == [(("AI-MO/NuminaMath-1.5", None), {"split": "train", "revision": "c0ffee", "streaming": True})]
    assert reader.fingerprint() == "AI-MO/NuminaMath-1.5:None:train:c0ffee"
    assert [content["answer"] for content, _, _ in read] == ["1", "2", "3", "4", "5"]
    assert read[1][1:] == (Origin("AI-MO/NuminaMath-1.5", 2), Position(0, 2))
    assert [content["answer"] for content, _, _ in reader.rows(Position(0, 3))] == ["4", "5"]


def test_a_hub_that_fails_is_named_with_the_row(monkeypatch):
    import datasets

    def unreachable(*_, **__):
        raise ConnectionError("no route")

    def breaking():
        yield from [row(2)] * 300
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(
        ValueError, match=r"'a/b' cannot be read from the hub after row 0 \(no route\); .* data.path reads"
    ):
        list(Hub("a/b").rows(Position()))
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: SimpleNamespace(sha="c0ffee"))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.IterableDataset.from_generator(breaking))
    with pytest.raises(ValueError, match=r"after row 256 \(reset by peer\)"):
        list(Hub("a/b").rows(Position()))

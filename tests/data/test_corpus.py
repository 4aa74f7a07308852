"""Rows from files to batches: readers, filters' tallies, held-out problems, prepared files, streams, resume."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from functools import partial
from types import SimpleNamespace

import huggingface_hub
import pandas as pd
import pyarrow
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from hapo_lit.data.corpus import BAD_ROW, DUPLICATE, HELD_OUT, KEPT, CachedCorpus, Corpus, tally_line
from hapo_lit.data.datamodule import MathDataModule
from hapo_lit.data.filters import NoAnswer, Proof
from hapo_lit.data.loading import BatchStream, start_worker
from hapo_lit.data.ordering import BlockShuffler
from hapo_lit.data.problems import Problem
from hapo_lit.data.reader import Hub, LocalFiles, Origin, Position, Unreadable, hub_or_files
from hapo_lit.data.schemas import Plain
from hapo_lit.data.teachers import CachedTeachers, TrustedTeachers, VerifiedTeachers
from hapo_lit.data.templates import PlainTemplate
from hapo_lit.errors import ResumeError
from hapo_lit.verify.exact import ExactVerifier
from hapo_lit.verify.verifier import MathVerifier


def row(number, **changes):
    return {
        "problem": f"Compute {number}-1.",
        "solution": rf"\boxed{{{number - 1}}}",
        "answer": str(number - 1),
        **changes,
    }


def write(path, rows):
    """Rows in the format of the path's suffix."""
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path, row_group_size=3)
    elif path.suffix == ".arrow":
        table = pyarrow.Table.from_pylist(rows)
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, 3)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return str(path)


@pytest.fixture
def files(tmp_path):
    """Forty problems in three files of three formats, with a proof, a duplicate and an answer that is missing."""
    rows = [row(number) for number in range(2, 42)]
    write(tmp_path / "a.jsonl", rows[:14])
    write(tmp_path / "b.parquet", [*rows[14:27], row(99, answer="proof"), row(3)])
    write(tmp_path / "c.arrow", [*rows[27:], row(98, answer="notfound")])
    return str(tmp_path / "*.*")


def corpus(files, **settings):
    settings = {"filters": [NoAnswer(), Proof()], "heldout_share": 0.1, "heldout_size": 3, **settings}
    return Corpus(LocalFiles(files), Plain(), **settings)


def module(source, tokenizer, prompts_per_step=4, **settings):
    settings = {"buffer": 8, "max_prompt_tokens": 40, "max_response_tokens": 40, **settings}
    return MathDataModule(
        source, tokenizer, PlainTemplate(), settings.pop("check", TrustedTeachers()), ExactVerifier(), prompts_per_step,
        settings.pop("max_prompt_tokens"), settings.pop("max_response_tokens"), **settings,
    )  # fmt: skip


def take(data, count, rank=0, world=1, workers=0):
    """The next batches of a datamodule as a loader deals them: prompt ids, and where the data stand after each."""
    data.setup()
    stream = BatchStream(partial(data.batches, rank, world))
    loader = DataLoader(stream, batch_size=None, num_workers=workers, worker_init_fn=start_worker)
    batches = iter(loader)
    found = [next(batches) for _ in range(count)]
    return [(batch.prompt_ids.tolist(), batch.cursor) for batch in found]


# -- readers


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".arrow"])
def test_every_format_gives_its_rows_with_their_places_and_reads_on_from_any(tmp_path, suffix):
    rows = [row(number) for number in range(2, 9)]
    for name in ("a", "b"):
        write(tmp_path / f"{name}{suffix}", rows)
    reader = LocalFiles(str(tmp_path / f"*{suffix}"))
    every = list(reader.rows(Position()))
    assert [dict(content) for content, _, _ in every] == rows + rows
    assert every[8][1] == Origin(str(tmp_path / f"b{suffix}"), 2)
    assert str(every[8][1]).endswith(f"b{suffix}, row 2")
    for index, (_, _, after) in enumerate(every):
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
        Corpus(LocalFiles(other), Plain())
    (tmp_path / "object.json").write_text('{"problem": "x"}')
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
    assert [isinstance(content, Unreadable) for content in contents] == [False, True, True, True, False, False]
    stop, tally = corpus(str(tmp_path / "a.jsonl")), Counter()
    with pytest.raises(
        ValueError, match=r"a.jsonl, row 2: no JSON: .*; on_bad_row=skip, in data.source or .* leaves such rows out"
    ):
        list(stop.candidates(stop.reader, Position(), tally))
    skip = corpus(str(tmp_path / "a.jsonl"), on_bad_row="skip")
    assert len(list(skip.candidates(skip.reader, Position(), tally))) == 2
    assert tally[BAD_ROW] == 4
    (tmp_path / "b.jsonl").write_text(json.dumps(row(3, answer=[1])))
    bad = corpus(str(tmp_path / "b.jsonl"))
    with pytest.raises(ValueError, match=r"b.jsonl, row 1: .*answer.*list"):
        list(bad.candidates(bad.reader, Position(), tally))


def test_the_hub_is_read_through_datasets(monkeypatch):
    """The loading code itself, on a data set that ``datasets`` makes in place of one from the network."""
    import datasets

    asked = []

    def load(*arguments, **settings):
        asked.append((arguments, settings))
        return datasets.IterableDataset.from_generator(lambda: iter([row(n) for n in range(2, 7)]))

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: SimpleNamespace(sha="c0ffee"))
    reader = hub_or_files("AI-MO/NuminaMath-1.5", None, revision="main")
    assert isinstance(reader, Hub)
    every = list(reader.rows(Position()))
    assert asked == [(("AI-MO/NuminaMath-1.5", None), {"split": "train", "revision": "c0ffee", "streaming": True})]
    assert reader.fingerprint() == "AI-MO/NuminaMath-1.5:None:train:c0ffee"
    assert [content["answer"] for content, _, _ in every] == ["1", "2", "3", "4", "5"]
    assert every[1][1:] == (Origin("AI-MO/NuminaMath-1.5", 2), Position(0, 2))
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
    assert [each.answer for each, _ in source.candidates(source.reader, Position(), tally)] == ["1", "2"]
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


def test_all_of_a_held_out_file_leaves_the_training_set_however_few_are_judged_on(files, tmp_path):
    held = write(tmp_path.parent / f"{tmp_path.name}.jsonl", [row(number) for number in range(2, 12)])
    apart, tally = corpus(files, heldout=LocalFiles(held), heldout_size=4), Counter()
    trained = {problem.answer for problem, _ in apart.stream(Position(), tally)}
    assert len(apart.heldout()) == 4
    assert not trained & {str(number - 1) for number in range(2, 12)}


def test_a_stream_that_fits_in_one_block_goes_on_from_the_end_of_its_epoch(files, tokenizer):
    through = take(module(corpus(files), tokenizer, buffer=64), 24)
    for stop in range(1, 20):
        resumed = module(corpus(files), tokenizer, buffer=64)
        resumed.load_state_dict({**resumed.state_dict(), "cursor": through[stop - 1][1], "consumed": stop})
        assert take(resumed, 4) == through[stop : stop + 4]


def test_a_fingerprint_changes_with_files_filters_and_columns(files, tmp_path):
    base = corpus(files).fingerprint()
    assert corpus(files).fingerprint() == base
    assert corpus(files, filters=[NoAnswer()]).fingerprint() != base
    assert corpus(files, heldout_share=0.2).fingerprint() != base
    assert (
        Corpus(LocalFiles(files), Plain(solution="answer"), [NoAnswer(), Proof()], None, 3, 0.1).fingerprint() != base
    )
    os.utime(tmp_path / "a.jsonl", ns=(1, 1))
    assert corpus(files).fingerprint() != base


# -- problems


def test_every_row_is_kept_or_counted_with_its_reason(files):
    source, tally = corpus(files), Counter()
    kept = [problem for problem, _ in source.stream(Position(), tally)]
    assert tally == {KEPT: len(kept), HELD_OUT: 41 - len(kept), "proof": 1, "no_answer": 1}
    assert 0 < tally[HELD_OUT] < 15
    assert tally_line(tally).startswith(f"{len(kept)} kept, ")


def test_held_out_problems_are_never_trained_on(files, tmp_path):
    source = corpus(files, heldout_size=100)
    held, trained = source.heldout(), [problem for problem, _ in source.stream(Position(), Counter())]
    assert not {problem.problem for problem in held} & {problem.problem for problem in trained}
    assert {problem.problem for problem in held} | {problem.problem for problem in trained} == {
        row(number)["problem"] for number in range(2, 42)
    }
    # of another file: by normalised text, whatever its spacing and case
    other = write(tmp_path.parent / "heldout.jsonl", [row(5, problem="compute  5-1"), row(1000)])
    apart, tally = corpus(files, heldout=LocalFiles(other)), Counter()
    assert [problem.answer for problem in apart.heldout()] == ["4", "999"]
    assert "Compute 5-1." not in {problem.problem for problem, _ in apart.stream(Position(), tally)}
    assert tally[HELD_OUT] == 1


def test_a_prepared_file_holds_every_problem_once_and_is_written_once(files, tmp_path):
    prepared = CachedCorpus(corpus(files), str(tmp_path / "cache"), progress=False)
    problems = prepared.train()
    assert len(problems) == len({problem.problem for problem in problems}) == prepared.report()[KEPT]
    assert Counter(prepared.report())[DUPLICATE] + prepared.report()[HELD_OUT] + len(problems) == 41
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert len(written) == 2
    again = CachedCorpus(corpus(files), str(tmp_path / "cache"), progress=False)
    assert list(again.train()) == list(problems)
    assert again.report() == prepared.report()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == written


def test_a_prepared_file_that_was_not_finished_is_written_again(files, tmp_path):
    cache = tmp_path / "cache"
    problems = list(CachedCorpus(corpus(files), str(cache), progress=False).train())
    next(cache.glob("*.json")).unlink()
    next(cache.glob("*.arrow")).write_bytes(b"torn")
    assert list(CachedCorpus(corpus(files), str(cache), progress=False).train()) == problems


def test_nothing_left_is_an_error_that_says_why(tmp_path, tokenizer):
    file = write(tmp_path / "a.jsonl", [row(number, answer="proof") for number in range(2, 9)] + [row(10), row(11)])
    heldout = LocalFiles(write(tmp_path / "h.jsonl", [row(10), row(11)]))
    prepared = CachedCorpus(corpus(file, heldout=heldout), str(tmp_path / "cache"), progress=False)
    with pytest.raises(ValueError, match=r"a.jsonl: no row is left to train on: 7 proof, 2 held_out"):
        prepared.train()
    with pytest.raises(ValueError, match=r"a.jsonl: too few rows are left for a batch: 7 proof, 2 held_out"):
        take(module(corpus(file, heldout=heldout), tokenizer), 1)
    with pytest.raises(ValueError, match="gives no held-out problem"):
        corpus(file, filters=[Proof(), NoAnswer()], heldout_share=1e-9).heldout()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_bad_row": "ignore"}, "on_bad_row must be stop or skip"),
        ({"heldout_share": 0.0}, "heldout_share must be between 0 and 1"),
        ({"heldout_size": 0}, "heldout_size must be at least 1"),
    ],
)
def test_nonsense_is_refused(files, settings, message):
    with pytest.raises(ValueError, match=message):
        corpus(files, **settings)


# -- streams


def stream(files, tokenizer, **settings):
    return module(corpus(files), tokenizer, **settings)


def test_an_epoch_of_a_stream_deals_every_problem_at_most_once_and_no_batch_twice_the_same(files, tokenizer):
    kept = {problem.prompt_id for problem, _ in corpus(files).stream(Position(), Counter())}
    per_epoch = len(kept) // 4
    batches = [ids for ids, _ in take(stream(files, tokenizer), 3 * per_epoch)]
    for epoch in range(3):
        dealt = [prompt for ids in batches[epoch * per_epoch : (epoch + 1) * per_epoch] for prompt in ids]
        assert len(dealt) == len(set(dealt)) == 4 * per_epoch
        assert set(dealt) <= kept
    assert batches[0] != batches[per_epoch]  # another epoch, another order
    assert [ids for ids, _ in take(stream(files, tokenizer, seed=1), 1)] != batches[:1]
    assert all(len(set(ids)) == 4 for ids in batches)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_share_every_batch_without_overlap_and_without_loss(files, tokenizer, world):
    whole = [ids for ids, _ in take(stream(files, tokenizer, prompts_per_step=12, buffer=13), 5)]
    shares = [take(stream(files, tokenizer, prompts_per_step=12, buffer=13), 5, rank, world) for rank in range(world)]
    for index, ids in enumerate(whole):
        dealt = [prompt for share in shares for prompt in share[index][0]]
        assert sorted(dealt) == sorted(ids)
        assert len(set(dealt)) == 12
    assert len({tuple(mark for _, mark in share) for share in shares}) == 1  # one position for all
    if world == 4:
        with pytest.raises(ValueError, match="not divisible by 5 processes"):
            take(stream(files, tokenizer, prompts_per_step=12, buffer=13), 1, 0, 5)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["stream", "prepared"])
def test_going_on_from_any_batch_is_the_same_as_running_through(files, tokenizer, tmp_path, workers, world, kind):
    def fresh():
        source = corpus(files)
        if kind == "prepared":
            return module(CachedCorpus(source, str(tmp_path / "cache"), progress=False), tokenizer)
        return module(source, tokenizer, buffer=7)

    rank, total = world - 1, 12 if workers else 20
    through = take(fresh(), total, rank, world, workers)
    for stop in range(total):
        first, second = fresh(), fresh()
        first.setup()
        if stop:
            batches = first.batches(rank, world)
            for step in range(stop):
                first.advance(next(batches), step + 1)
        second.load_state_dict(first.state_dict())
        assert second.consumed == stop
        assert take(second, min(4, total - stop), rank, world, workers) == through[stop : stop + 4]


def with_template(data, template):
    data.template = template
    return data


def test_changed_data_are_not_gone_on_with(files, tokenizer, tmp_path):
    state = stream(files, tokenizer).state_dict()
    for other, name in (
        (stream(files, tokenizer, seed=1), "seed 0 then, 1 now"),
        (stream(files, tokenizer, buffer=9), "buffer 8 then, 9 now"),
        (stream(files, tokenizer, prompts_per_step=5), "prompts_per_step 4 then, 5 now"),
        (module(corpus(files, filters=[NoAnswer()]), tokenizer), "fingerprint .* then, .* now"),
        (stream(files, tokenizer, max_prompt_tokens=30), "max_prompt_tokens 40 then, 30 now"),
        (with_template(stream(files, tokenizer), PlainTemplate("Please: {problem}")), "template .*Please"),
    ):
        with pytest.raises(ResumeError, match=name):
            other.load_state_dict(state)
    os.utime(tmp_path / "a.jsonl", ns=(1, 1))
    with pytest.raises(ResumeError, match="the training data changed"):
        stream(files, tokenizer).load_state_dict(state)


def test_a_buffer_smaller_than_a_batch_is_refused(files, tokenizer):
    with pytest.raises(ValueError, match=r"data.buffer=3 must hold a batch of 4"):
        stream(files, tokenizer, buffer=3).setup()


def test_a_stream_reads_no_further_than_it_must(files):
    """Flat memory: one block at a time, and nothing behind it."""
    source = corpus(files)
    source.heldout()
    seen = []

    class Counting:
        name = "counting"

        def rows(self, start):
            for each in LocalFiles(files).rows(start):
                seen.append(each[1])
                yield each

    source.reader = Counting()
    blocks = BlockShuffler(source, lambda problems: [True] * len(problems), 4, 8, 0)
    batches = blocks.batches(blocks.start)
    next(batches)
    assert 8 <= len(seen) <= 14


def test_prompts_that_are_too_long_are_left_out_of_both_orders(tmp_path, tokenizer):
    rows = [row(number) for number in range(2, 30)] + [row(10**12 + number) for number in range(6)]
    file = write(tmp_path / "a.jsonl", rows)
    heldout = LocalFiles(write(tmp_path / "h.jsonl", [row(500)]))
    long = {Problem(each["problem"], "", "").prompt_id for each in rows[-6:]}
    for source in (
        corpus(file, heldout=heldout),
        CachedCorpus(corpus(file, heldout=heldout), str(tmp_path / "c"), False),
    ):
        data = module(source, tokenizer, max_prompt_tokens=18)
        dealt = {prompt for ids, _ in take(data, 14) for prompt in ids}
        assert len(dealt) == 28
        assert not dealt & long
    assert data.describe()["prompt_too_long"] == 6


# -- teachers


def test_of_several_solutions_the_longest_that_fits_and_is_right_is_taken(tokenizer):
    from hapo_lit.data.collate import encode

    solutions = (r"\boxed{5}", r"7-2-0=05;\boxed{5}", r"7-2-0=05;" * 9 + r"\boxed{5}", r"7-2-0=06;7-2-0=06;\boxed{6}")
    problem = Problem("Compute 7-2.", solutions[0], "5", solutions[1:])
    tally = Counter()
    check = VerifiedTeachers(ExactVerifier())
    (item,) = encode([problem], tokenizer, PlainTemplate(), check, 40, 40, tally)
    assert tokenizer.decode(item.teacher_tokens, skip_special_tokens=True) == solutions[1]
    assert item.teacher_reward == 1.0
    assert tally == {"teacher_usable": 1}
    wrong = Problem("Compute 7-2.", solutions[3], "5")
    assert encode([wrong], tokenizer, PlainTemplate(), check, 40, 40, tally)[0].teacher_reward == 0.0
    assert tally["teacher_rejected"] == 1


def test_verdicts_are_asked_for_once_and_survive_on_disk(tmp_path):
    asked = []

    class Counting(VerifiedTeachers):
        def __call__(self, problems):
            asked.extend(problems)
            return super().__call__(problems)

    problems = [Problem("a", r"\boxed{1}", "1"), Problem("b", r"\boxed{2}", "1"), Problem("c", r"\boxed{1}", "1")]
    path = str(tmp_path / "deep" / "teachers.sqlite")
    assert CachedTeachers(Counting(ExactVerifier()), path)(problems) == [1.0, 0.0, 1.0]
    assert len(asked) == 2  # the third has the first one's solution and answer
    assert CachedTeachers(Counting(ExactVerifier()), path)(problems) == [1.0, 0.0, 1.0]
    assert len(asked) == 3  # only the rejected one again: it may have been a missed deadline
    assert CachedTeachers(TrustedTeachers(), path)(problems) == [1.0, 1.0, 1.0]  # another check, other verdicts
    assert CachedTeachers(Counting(ExactVerifier()), path)(problems) == [1.0, 0.0, 1.0]


def test_teachers_are_verified_by_algebra_in_loader_processes(files, tokenizer, tmp_path):
    """The verifier's own processes are children of the loader's."""
    check = CachedTeachers(VerifiedTeachers(MathVerifier()), str(tmp_path / "teachers.sqlite"))
    data = module(corpus(files), tokenizer, check=check, workers=1)
    batch = next(iter(data.train_dataloader()))
    assert batch.teacher_usable.all()
    assert data.waited > 0


def test_templates_write_teachers_as_the_policy_would(tokenizer):
    from hapo_lit.data.templates import ChatTemplate

    think = ChatTemplate(begun="<think>\n", response="{solution}")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}|{% endfor %}"
    assert think.prompt(tokenizer, "7") == "7|<think>\n"
    assert think.response("<think>\nso</think>5") == "so</think>5"
    assert PlainTemplate(response="<think>{solution}</think>").response("x") == "<think>x</think>"
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}|{% endfor %}{{ '<think>\n' }}"
    assert think.prompt(tokenizer, "7") == "7|<think>\n"
    with pytest.raises(ValueError, match=r"no \{solution\} in it"):
        PlainTemplate(response="x")
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template; choose template=plain"):
        think.prompt(tokenizer, "7")


def test_the_facts_of_a_stream_are_those_of_its_first_problems(files, tokenizer):
    data = stream(files, tokenizer)
    facts = data.describe()
    assert facts["train_problems"] == 0
    assert facts["heldout_problems"] == 3
    assert facts["teacher_usable"] > 20
    assert facts["teacher_accepted"] == facts["teacher_accuracy"] == 1.0
    assert "kept" in data.dropped()
    prompt, teacher = data.sample()
    assert "Compute" in prompt
    assert "boxed" in teacher


def test_waiting_for_data_is_measured(files, tokenizer):
    class Slow(TrustedTeachers):
        def __call__(self, problems):
            time.sleep(0.05)
            return super().__call__(problems)

    data = stream(files, tokenizer, check=Slow())
    batches = iter(data.train_dataloader())
    next(batches)
    assert data.waited >= 0.05
    assert isinstance(next(batches).tokens, torch.Tensor)


def test_labels_reach_the_batch_from_a_stream_and_from_a_prepared_file(tokenizer, tmp_path):
    write(tmp_path / "a.jsonl", [{**row(number), "level": f"Level {number % 3}"} for number in range(2, 42)])
    streamed = corpus(str(tmp_path / "a.jsonl"))
    for source in (streamed, CachedCorpus(streamed, str(tmp_path / "cache"), progress=False)):
        data = module(source, tokenizer)
        assert sorted(data.difficulties) == ["Level 0", "Level 1", "Level 2"]
        assert set(next(iter(data.train_dataloader())).difficulties) <= set(data.difficulties)

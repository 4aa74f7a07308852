"""From rows to problems: what is kept, dropped and held out, and the file that a cached corpus is read from."""

from __future__ import annotations

import os
import threading
from collections import Counter

import pytest
from support.corpora import LINES, corpus, datamodule, first_batches, row, write, write_three

from hapo_lit.data.corpus import CachedCorpus, Corpus
from hapo_lit.data.filters import NoAnswer, Proof
from hapo_lit.data.outcomes import DUPLICATE, HELD_OUT, KEPT, tally_line
from hapo_lit.data.reader import LocalFiles, Position
from hapo_lit.data.schemas import Plain
from hapo_lit.errors import PartError


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
    # those of another file are compared by normalised text, without spacing and case
    other = write(tmp_path / "heldout.jsonl", [row(5, problem="compute  5-1"), row(1000)])
    apart, tally = corpus(files, heldout=LocalFiles(other)), Counter()
    assert [problem.answer for problem in apart.heldout()] == ["4", "999"]
    assert "Compute 5-1." not in {problem.problem for problem, _ in apart.stream(Position(), tally)}
    assert tally[HELD_OUT] == 1


def test_all_of_a_held_out_file_is_kept_out_of_training_however_few_are_evaluated(files, tmp_path):
    held = write(tmp_path / "heldout.jsonl", [row(number) for number in range(2, 12)])
    apart, tally = corpus(files, heldout=LocalFiles(held), heldout_size=4), Counter()
    trained = {problem.answer for problem, _ in apart.stream(Position(), tally)}
    assert len(apart.heldout()) == 4
    assert not trained & {str(number - 1) for number in range(2, 12)}


def test_a_fingerprint_changes_with_files_filters_and_columns(tmp_path):
    files = write_three(tmp_path, LINES)
    base = corpus(files).fingerprint()
    assert corpus(files).fingerprint() == base
    assert corpus(files, filters=[NoAnswer()]).fingerprint() != base
    assert corpus(files, heldout_share=0.2).fingerprint() != base
    assert (
        Corpus(LocalFiles(files), Plain(solution="answer"), [NoAnswer(), Proof()], None, 3, 0.1).fingerprint() != base
    )
    one = tmp_path / "a.jsonl"
    one.write_text(one.read_text().replace("7", "8", 1))  # as many bytes
    assert corpus(files).fingerprint() != base


def test_a_fingerprint_is_that_of_the_contents_wherever_they_are(tmp_path):
    (tmp_path / "here").mkdir()
    base = corpus(write_three(tmp_path / "here", LINES)).fingerprint()
    key = corpus(write_three(tmp_path / "here", LINES)).cache_key
    os.utime(tmp_path / "here" / "a.jsonl", ns=(1, 1))
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "there" / "a.jsonl").rename(tmp_path / "there" / "aa.jsonl")
    assert corpus(str(tmp_path / "there" / "*.*")).fingerprint() == base
    assert corpus(str(tmp_path / "there" / "*.*")).cache_key == key


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_bad_row": "ignore"}, "on_bad_row must be stop or skip"),
        ({"heldout_share": 0.0}, "heldout_share must be between 0 and 1"),
        ({"heldout_size": 0}, "heldout_size must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(files, settings, message):
    with pytest.raises(ValueError, match=message):
        corpus(files, **settings)


def test_nothing_left_is_an_error_that_says_why(tmp_path, tokenizer):
    file = write(tmp_path / "a.jsonl", [row(number, answer="proof") for number in range(2, 9)] + [row(10), row(11)])
    heldout = LocalFiles(write(tmp_path / "h.jsonl", [row(10), row(11)]))
    cached = CachedCorpus(corpus(file, heldout=heldout), str(tmp_path / "cache"), progress=False)
    with pytest.raises(ValueError, match=r"a.jsonl: no row is left to train on: 7 proof, 2 held_out"):
        cached.train()
    with pytest.raises(
        ValueError, match=r"a.jsonl: too few rows are left for a batch of prompts_per_step=4: 7 proof, 2 held_out"
    ):
        first_batches(datamodule(corpus(file, heldout=heldout), tokenizer), 1)
    with pytest.raises(ValueError, match=r"gives no held-out problem \(7 proof, 2 kept\)"):
        corpus(file, filters=[Proof(), NoAnswer()], heldout_share=1e-9).heldout()


def test_a_cached_corpus_holds_every_problem_once_and_is_written_once(files, tmp_path):
    cached = CachedCorpus(corpus(files), str(tmp_path / "cache"), progress=False)
    problems = cached.train()
    assert len(problems) == len({problem.problem for problem in problems}) == cached.report()[KEPT]
    assert Counter(cached.report())[DUPLICATE] + cached.report()[HELD_OUT] + len(problems) == 41
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert len(written) == 2
    again = CachedCorpus(corpus(files), str(tmp_path / "cache"), progress=False)
    assert list(again.train()) == list(problems)
    assert again.report() == cached.report()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == written


SHAPE = """
from hapo_lit.data.schemas import Plain

class Shape(Plain):
    def __call__(self, row):
        return super().__call__({**row, "problem": "Now: " + row["problem"]})
"""


def test_another_schema_of_ones_own_prepares_again_and_holds_out_what_it_says(lines, mine, tmp_path):
    """Old problems under a new schema would be trained on and held out at once."""

    def sides(schema):
        source = Corpus(LocalFiles(lines), schema, [NoAnswer(), Proof()], None, 100, 0.3)
        cached = CachedCorpus(source, str(tmp_path / "cache"), progress=False)
        return {p.answer for p in cached.train()}, {p.answer for p in cached.heldout()}, cached.fingerprint()

    before = sides(mine(SHAPE).Shape())
    train, held, fingerprint = sides(mine(SHAPE.replace("Now", "Please compute")).Shape())
    assert not train & held
    assert held != before[1]
    assert fingerprint != before[2]
    assert sides(mine(SHAPE.replace("class", "\nclass")).Shape()) == before  # other code, the same problems: resumable


def test_a_corpus_with_a_part_that_has_no_source_is_prepared_every_time(lines, tmp_path):
    schema = Plain()
    schema.lock = threading.Lock()
    source = Corpus(LocalFiles(lines), schema, [NoAnswer(), Proof()], None, 3, 0.1)
    cached = CachedCorpus(source, str(tmp_path / "cache"), progress=False)
    assert list(cached.train()) == list(CachedCorpus(corpus(lines), str(tmp_path / "other"), progress=False).train())
    assert not (tmp_path / "cache").exists()
    assert cached.notes()[-1] == "prepared problems are not kept: schema.lock (lock) has no source file to hash"


def test_a_cached_corpus_that_was_not_finished_is_written_again(files, tmp_path):
    cache = tmp_path / "cache"
    problems = list(CachedCorpus(corpus(files), str(cache), progress=False).train())
    next(cache.glob("*.json")).unlink()
    next(cache.glob("*.arrow")).write_bytes(b"torn")
    assert list(CachedCorpus(corpus(files), str(cache), progress=False).train()) == problems


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("suffix", ["arrow", "json"])
def test_prepared_files_in_which_a_byte_changed_are_named_and_made_again(files, tmp_path, suffix, capsys):
    cache = tmp_path / "cache"
    whole = CachedCorpus(corpus(files), str(cache), progress=False)
    problems, held, said = list(whole.train()), whole.heldout(), whole.fingerprint()
    (file,) = cache.glob(f"*.{suffix}")
    content = file.read_bytes()
    for place in range(0, len(content), len(content) // 15):
        flip(file, place)
        again = CachedCorpus(corpus(files), str(cache), progress=False)
        assert (list(again.train()), again.heldout(), again.fingerprint()) == (problems, held, said)
        line = capsys.readouterr().err
        assert line.startswith(f"warning: {file} is damaged (")
        assert line.endswith(": its problems are prepared again\n")
        assert file.read_bytes() == content
    CachedCorpus(corpus(files), str(cache), progress=False).heldout()
    assert capsys.readouterr().err == ""


class HasNoReason:
    def __call__(self, candidate):
        return False


class GivesRows:
    columns = ()

    def __call__(self, row):
        return dict(row)


def test_the_parts_of_a_corpus_are_checked(lines):
    with pytest.raises(PartError, match=r"data.source.filters: .*HasNoReason lacks reason;"):
        corpus(lines, filters=[HasNoReason()])
    with pytest.raises(PartError, match=r"data.source.schema: builtins.object lacks columns, __call__;"):
        Corpus(LocalFiles(lines), object())
    with pytest.raises(PartError, match=r"data.source.reader: builtins.object lacks name, require, rows, fingerprint;"):
        Corpus(object(), Plain())
    with pytest.raises(PartError, match=r"GivesRows.__call__ must return a hapo_lit.data.schemas.Candidate"):
        list(Corpus(LocalFiles(lines), GivesRows()).stream(Position(), Counter()))


def test_a_source_of_ones_own_gives_problems(tokenizer):
    class GivesNumbers:
        def train(self):
            return [1, 2]

        def heldout(self):
            return []

        def report(self):
            return {}

    with pytest.raises(PartError, match=r"data.source: builtins.object lacks train, heldout, report;"):
        datamodule(object(), tokenizer)
    with pytest.raises(PartError, match=r"data.source.train must return hapo_lit.data.problems.Problem, and"):
        datamodule(GivesNumbers(), tokenizer).setup()

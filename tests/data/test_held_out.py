"""Which problems are held out, how many, and what is said of it."""

from __future__ import annotations

from collections import Counter

import pytest
import scipy.stats
from support.corpora import corpus, datamodule, row, write

from hapo_lit.data.corpus import CachedCorpus
from hapo_lit.data.filters import NoAnswer, OverlapsEvaluation
from hapo_lit.data.outcomes import HELD_OUT, KEPT
from hapo_lit.data.reader import LocalFiles, Position


def rows(count, first=2):
    return [row(number) for number in range(first, first + count)]


def cached(tmp_path, training, heldout=None, **settings):
    reader = heldout and LocalFiles(write(tmp_path / "heldout.jsonl", heldout))
    source = corpus(
        write(tmp_path / "train.jsonl", training),
        **{"heldout": reader, "heldout_size": None, "heldout_share": None, **settings},
    )
    return CachedCorpus(source, str(tmp_path / "cache"), progress=False)


def test_a_held_out_file_is_used_whole_and_a_limit_is_named(tmp_path):
    heldout = [*rows(500, 1000), row(1000)]  # a problem twice
    whole = cached(tmp_path, rows(9), heldout)
    assert [problem.answer for problem in whole.heldout()] == [content["answer"] for content in heldout]
    assert whole.notes() == [f"held out: 501 problems of {tmp_path / 'heldout.jsonl'}"]
    first = cached(tmp_path, rows(9), heldout, heldout_size=100)
    assert len(first.heldout()) == 100
    assert first.notes() == [
        f"held out: the first 100 of 501 problems of {tmp_path / 'heldout.jsonl'} (heldout_size=100)"
    ]
    judged = cached(tmp_path, rows(9), [*rows(5, 1000), row(7, answer="notfound")])
    assert judged.notes()[0].endswith("heldout.jsonl; its rows: 5 kept, 1 no_answer")


def test_an_overlap_is_found_by_normalised_text_reported_and_removed_unless_it_is_to_stay(tmp_path):
    heldout = [row(3, problem="1. Compute 3-1."), row(4, problem="compute  4 - 1"), *rows(5, 1000)]
    removed = cached(tmp_path, rows(9), heldout)
    assert {problem.answer for problem in removed.train()} == {"1", *map(str, range(4, 10))}
    assert removed.notes()[-1] == "overlap: 2 training rows are among the held-out problems and are left out"
    kept = cached(tmp_path, rows(9), heldout, overlap="keep")
    assert len(kept.train()) == 9
    assert kept.notes()[-1] == "overlap: 2 training rows are among the held-out problems and are trained on"
    assert "overlap: " not in "".join(cached(tmp_path, rows(9), rows(5, 1000)).notes())


def test_a_held_out_file_may_be_an_evaluation_set(tmp_path):
    heldout = rows(5)
    filters = [NoAnswer(), OverlapsEvaluation([content["problem"] for content in heldout])]
    source = cached(tmp_path, rows(20), heldout, filters=filters)
    assert len(source.heldout()) == 5
    assert source.report() == {KEPT: 15, "overlaps_evaluation": 5}


def test_prompts_that_are_too_long_to_evaluate_on_are_counted(tmp_path, tokenizer):
    source = cached(tmp_path, rows(9), [*rows(5, 1000), row(10**12)])
    data = datamodule(source, tokenizer, max_prompt_tokens=18)
    assert data.describe()["heldout_problems"] == 5
    assert data.notes()[-1] == (
        "held out: 1 problems have prompts of more than max_prompt_tokens=18 and are not evaluated on"
    )


@pytest.mark.parametrize(
    ("count", "share"), [(1, None), (3, 0.2), (20, 0.2), (60, 0.2), (80, 0.2), (700, 0.1), (1500, 0.05), (4000, 0.02)]
)
def test_a_small_set_holds_out_a_larger_share(tmp_path, count, share):
    source = corpus(write(tmp_path / "a.jsonl", rows(count)), heldout_size=None, heldout_share=None)
    held, tally = source.heldout(), Counter()
    trained = {problem.problem for problem, _ in source.stream(Position(), tally)}
    assert not trained & {problem.problem for problem in held}
    assert tally[HELD_OUT] == len(held)
    assert len(held) + len(trained) == count
    if share is not None:
        assert 0 < len(held) <= 1.7 * share * count + 1
        assert len(held) >= 0.5 * share * count - 1
        assert source.notes()[0].endswith(f"chosen by a hash of their text (heldout_share: {share:g})")


@pytest.mark.parametrize(("count", "width"), [(2, 81), (16, 44), (50, 27)])
def test_a_small_held_out_set_is_warned_of_with_its_interval(tmp_path, count, width):
    warning = cached(tmp_path, rows(9), rows(count, 1000)).notes()[-1]
    assert warning.startswith(
        f"warning: accuracy over {count} held-out problems has a 95 % interval that is up to {width} "
    )
    one = scipy.stats.binomtest(count // 2, count).proportion_ci(method="wilson")
    assert width == pytest.approx(100 * (one.high - one.low), abs=0.6)
    assert len(cached(tmp_path, rows(9), rows(100, 1000)).notes()) == 1


def test_a_large_set_holds_out_no_more_than_a_limit_which_is_named(tmp_path):
    source = corpus(write(tmp_path / "a.jsonl", rows(400)), heldout_size=3, heldout_share=0.1)
    assert len(source.heldout()) == 3
    assert source.notes()[0].endswith("(heldout_share: 0.1), no more than 3 of them (heldout_size)")

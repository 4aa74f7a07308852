"""Rows with other column names than ours, and GSM8K's raw form."""

from __future__ import annotations

from collections import Counter

import pytest
from support.corpora import write

from hapo_lit.data.corpus import CachedCorpus, Corpus
from hapo_lit.data.reader import LocalFiles, Position, problem_texts
from hapo_lit.data.schemas import BadRow, Candidate, Plain

GSM8K = {
    "question": "Natalia sold clips to 48 of her friends in April, and half as many in May. How many in all?",
    "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nAltogether 48+24 = <<48+24=72>>72 clips.\n#### 72",
}
STEPS = "Natalia sold 48/2 = 24 clips in May.\nAltogether 48+24 = 72 clips.\nThe answer is \\boxed{72}"


def test_gsm8ks_raw_form_is_read_as_it_is(tmp_path):
    assert Plain()(GSM8K) == Candidate(GSM8K["question"], (STEPS,), "72")
    assert Plain(problem="question", solution="answer")(GSM8K) == Plain()(GSM8K)
    assert Plain()({**GSM8K, "answer": "It is 1,234,567.\n####  1,234,567 "}).answer == "1234567"
    assert Plain()({**GSM8K, "answer": "#### 5"}) == Candidate(GSM8K["question"], (), "5")
    assert Plain()({**GSM8K, "solution": "mine"}).solutions == ("mine",)
    assert Plain()({"problem": "x", "answer": "the #### sign"}).answer == "the #### sign"
    source = Corpus(LocalFiles(write(tmp_path / "a.parquet", [GSM8K] * 3)), Plain())
    assert source.notes()[0] == (
        "columns: problem from 'question', solution and answer from 'answer', which ends in '#### answer' as GSM8K's do"
    )


@pytest.mark.parametrize(
    ("names", "row", "message"),
    [
        ({}, {"query": "a", "answer": "1"}, "it has query, answer; rename with data.columns.problem=query"),
        ({"problem": "qestion"}, GSM8K, "no column 'qestion'; .* data.columns.problem=question"),
        ({}, {"problem": "a", "rationale": "b"}, "neither a column .* data.columns.solution=rationale"),
        ({"answer": "gold"}, {"problem": "a", "final_answer": "b"}, "no column 'gold'; .* data.columns.answer=final_"),
        ({}, {"x": "a", "y": "1"}, "it has x, y; rename with data.columns.problem=NAME"),
    ],
)
def test_a_wrong_name_is_answered_with_the_renaming_and_not_with_skipping(tmp_path, names, row, message):
    with pytest.raises(BadRow, match=message):
        Plain(**names)(row)
    source = Corpus(LocalFiles(write(tmp_path / "a.jsonl", [row] * 3)), Plain(**names))
    with pytest.raises(ValueError, match=rf"a.jsonl, row 1: {'.*'}{message}") as error:
        list(source.stream(Position(), Counter()))
    assert "on_bad_row" not in str(error.value)
    source = Corpus(LocalFiles(write(tmp_path / "a.jsonl", [row] * 3)), Plain(**names), on_bad_row="skip")
    with pytest.raises(ValueError, match=f"3 bad_row; the first bad row is .*a.jsonl, row 1: .*{message}"):
        CachedCorpus(source, str(tmp_path / "cache"), progress=False).train()


def test_an_evaluation_set_may_have_another_name_for_its_problems(tmp_path):
    files = [write(tmp_path / "a.jsonl", [GSM8K]), write(tmp_path / "b.jsonl", [{"problem": "x", "query": "y"}])]
    assert problem_texts(files) == [GSM8K["question"], "x"]
    assert problem_texts(files[1], "query") == ["y"]
    with pytest.raises(ValueError, match=r"c.jsonl, row 1: no column 'problem'; .*data.columns.problem=query"):
        problem_texts(write(tmp_path / "c.jsonl", [{"query": "y"}]))

"""What is found in a source, against rows made by hand."""

from __future__ import annotations

import re

import pytest
from support.corpora import write

from hapo_lit.data import inspection
from hapo_lit.data.arithmetic import Arithmetic, Level, NoErrors
from hapo_lit.data.corpus import CachedCorpus, Corpus
from hapo_lit.data.filters import (
    AnswerUnparsable,
    Figure,
    MarkedInvalid,
    MultipleChoice,
    NoAnswer,
    Proof,
    fingerprint64,
)
from hapo_lit.data.inspection import inspect
from hapo_lit.data.reader import LocalFiles
from hapo_lit.data.schemas import Numina15, Plain
from hapo_lit.data.teachers import VerifiedTeachers
from hapo_lit.data.templates import PlainTemplate
from hapo_lit.verify.exact import ExactVerifier

SHARE = 0.02
"""Of the problems are held out."""


def look(source, tokenizer, limit=200):
    return inspect(source, tokenizer, PlainTemplate(), VerifiedTeachers(ExactVerifier()), limit, 100, seed=0)


def questions(count, held=0):
    """So many questions that stay in training, and so many that their hash holds out."""
    texts = [f"Compute {number}-1." for number in range(2, 600)]
    out = [text for text in texts if fingerprint64(text) % 2**32 < SHARE * 2**32]
    return [text for text in texts if text not in out][:count], out[:held]


def plain(text, **change):
    answer = str(int(re.findall(r"\d+", text)[0]) - 1)
    return {"problem": text, "solution": rf"1;\boxed{{{answer}}}", "answer": answer, **change}


def corpus(path, rows, **settings):
    settings = {"filters": [NoAnswer()], "heldout_share": SHARE, "on_bad_row": "skip", **settings}
    return Corpus(LocalFiles(write(path, rows)), settings.pop("schema", Plain()), **settings)


def cached(tmp_path, rows, **settings):
    return CachedCorpus(corpus(tmp_path / "my.jsonl", rows, **settings), str(tmp_path / "cache"), progress=False)


def test_every_row_is_counted_by_what_became_of_it(tmp_path, tokenizer):
    kept, held = questions(6, held=2)
    rows = [plain(text) for text in kept[:3]]
    rows += [plain(kept[0].upper()), plain(held[0]), plain(held[1])]
    rows += [plain(kept[3], solution=r"\boxed{7777}"), plain(kept[4], solution=""), plain(kept[5], solution="1;" * 99)]
    rows += [plain(text + " Explain." * 30) for text in kept[:1]]
    rows += [plain("Compute.1", answer="", solution="no box"), {"problem": 5, "answer": "1"}, {"problem": " "}]
    found = look(cached(tmp_path, rows), tokenizer)
    assert +found.rows == {
        "kept": 6,
        "held_out": 2,
        "bad_row": 2,
        "duplicate": 1,
        "no_answer": 1,
        "prompt_too_long": 1,
    }
    assert [example.encoded.teacher_outcome.removeprefix("teacher_") for example in found.examples] == [
        *("usable", "usable", "usable", "rejected", "absent", "too_long")
    ]
    assert sorted(found.teacher_tokens) == [6, 6, 6, 7, 199]  # with the end of the sequence
    assert len(found.prompt_tokens) == len(found.answer_characters) == 7
    assert not found.stopped
    assert not found.lacks_heldout


def test_the_rows_of_a_stream_and_where_it_is_left(tmp_path, tokenizer, monkeypatch):
    kept, _ = questions(60)
    flags = {"problem_is_valid": "Yes", "solution_is_valid": "Yes", "question_type": "math-word-problem"}
    rows = [{**plain(text), **flags, "source": "olympiads"} for text in kept]
    rows[1]["solution_is_valid"] = "No"
    rows[2]["answer"], rows[3]["question_type"] = "notfound", "proof"
    rows[4]["question_type"], rows[5]["problem"] = "MCQ", rows[5]["problem"] + " See the figure below."
    rows[6]["answer"], rows[7]["problem"] = r"\frac{1", rows[8]["problem"]
    filters = [MarkedInvalid(), NoAnswer(), Proof(), MultipleChoice(), Figure(), AnswerUnparsable()]
    source = corpus(tmp_path / "n.parquet", rows, schema=Numina15(), filters=filters)
    found = look(source, tokenizer)
    dropped = [*(part.reason for part in filters), "duplicate"]
    assert found.rows == {"kept": 53, **dict.fromkeys(dropped, 1)}
    assert {example.source for example in found.examples} == {"olympiads"}
    assert not found.stopped
    monkeypatch.setattr(inspection, "STREAM_ROWS", 9)
    found = look(source, tokenizer)
    assert found.stopped
    assert (found.rows.total(), found.rows["kept"]) == (9, 2)


def test_more_problems_than_are_judged_are_still_all_counted(tmp_path, tokenizer, monkeypatch):
    kept, held = questions(50, held=1)
    monkeypatch.setattr(inspection, "EXAMPLES", 20)
    found = look(cached(tmp_path, [plain(text) for text in (*kept, *held)]), tokenizer)
    assert found.rows["kept"] == len(found.prompt_tokens) == 50
    shown = {example.problem.problem for example in found.examples}
    assert len(shown) == len(found.examples) == 20
    assert shown <= set(kept)
    assert shown != set(kept[:20])  # from all of the file


def test_problems_to_hold_out_may_be_lacking(tmp_path, tokenizer):
    kept, _ = questions(3)
    rows = [plain(text) for text in kept]
    assert look(cached(tmp_path, rows), tokenizer).lacks_heldout
    apart = LocalFiles(write(tmp_path / "apart.jsonl", [plain(kept[0])]))
    found = look(cached(tmp_path, rows, heldout=apart), tokenizer)
    assert found.rows["held_out"] == 1
    assert not found.lacks_heldout


def test_nothing_left_is_an_error_that_says_why(tmp_path, tokenizer):
    rows = [{"problem": "a", "answer": ""}, {"problem": 1, "answer": ""}, {"problem": "b", "answer": ""}]
    with pytest.raises(
        ValueError, match=r"my.jsonl: no row is left to train on: 2 no_answer, 1 bad_row; the first bad row"
    ):
        look(cached(tmp_path, rows), tokenizer)
    with pytest.raises(ValueError, match=r"my.jsonl, row 2: column 'problem': expected text, found int"):
        look(cached(tmp_path, rows, on_bad_row="stop"), tokenizer)
    source = Arithmetic([Level("-", 2)], 5, 2, NoErrors(), seed=0)
    with pytest.raises(
        ValueError, match=r"^Arithmetic: no row is left to train on: 5 prompt_too_long; all 5 prompts have"
    ):
        look(source, tokenizer, limit=3)

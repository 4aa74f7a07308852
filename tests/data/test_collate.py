"""Problems as token ids and as padded batches."""

from __future__ import annotations

from collections import Counter

import pytest

from hapo_lit.data.collate import collate, encode, fingerprint
from hapo_lit.data.problems import Problem
from hapo_lit.data.teachers import TrustedTeachers, VerifiedTeachers
from hapo_lit.data.templates import PlainTemplate
from hapo_lit.data.tokens import token_ids
from hapo_lit.verify.exact import ExactVerifier

PROBLEMS = [
    Problem("Compute 7-2.", r"7-2-0=05;\boxed{5}", "5"),
    Problem("Compute 17-12.", r"\boxed{6}", "5"),
    Problem("Compute 8-2.", "", "6"),
    Problem("Compute 9-2.", r"9-2-0=07;" * 9 + r"\boxed{7}", "7"),
]


def encoded(tokenizer, check=None, **limits):
    limits = {"max_prompt_tokens": 30, "max_response_tokens": 60, **limits}
    tally = Counter()
    items = encode(
        PROBLEMS, tokenizer, PlainTemplate(), check or VerifiedTeachers(ExactVerifier()), tally=tally, **limits
    )
    assert tally.total() == len(PROBLEMS)
    return items


def test_teachers_that_are_wrong_missing_or_too_long_may_not_be_used(tokenizer):
    assert [item.teacher_reward for item in encoded(tokenizer)] == [1.0, 0.0, 0.0, 0.0]
    assert [item.teacher_reward for item in encoded(tokenizer, TrustedTeachers())] == [1.0, 1.0, 0.0, 0.0]
    assert [bool(item.teacher_tokens) for item in encoded(tokenizer)] == [True, True, False, False]
    assert encoded(tokenizer)[0].teacher_tokens[-1] == tokenizer.eos_token_id


def test_what_became_of_each_problem_is_counted(tokenizer):
    tally = Counter()
    encode(PROBLEMS, tokenizer, PlainTemplate(), VerifiedTeachers(ExactVerifier()), 9, 60, tally)
    assert tally == {"prompt_too_long": 1, "teacher_usable": 1, "teacher_absent": 1, "teacher_too_long": 1}
    with pytest.raises(ValueError, match="there are no problems"):
        encode([], tokenizer, PlainTemplate(), VerifiedTeachers(ExactVerifier()), 9, 60, tally)


def test_long_prompts_are_dropped_and_none_left_is_an_error(tokenizer):
    assert len(encoded(tokenizer, max_prompt_tokens=8)) == 3
    with pytest.raises(
        ValueError,
        match=r"all 4 prompts have more than max_prompt_tokens=3 tokens \(8 to 10 with the tokenizer .*24 tokens\)",
    ):
        encoded(tokenizer, max_prompt_tokens=3)


def test_prompts_are_padded_on_the_left_and_teachers_on_the_right(tokenizer):
    batch = collate(encoded(tokenizer)[:2])
    assert batch.mask[:, -1].all()
    assert batch.mask.sum(1).tolist() == [8, 10]
    assert batch.teacher_mask[:, 0].all()
    for row, problem in enumerate(PROBLEMS[:2]):
        text = tokenizer.decode(batch.tokens[row][batch.mask[row]].tolist(), skip_special_tokens=True)
        assert text == problem.problem + "\n"
        assert tokenizer.decode(batch.teacher_tokens[row].tolist(), skip_special_tokens=True) == problem.solution
    assert batch.prompt_ids.tolist() == [problem.prompt_id for problem in PROBLEMS[:2]]
    assert batch.teacher_usable.tolist() == [True, False]


def test_a_batch_without_any_teacher_still_has_a_shape(tokenizer):
    batch = collate(encoded(tokenizer)[2:])
    assert batch.teacher_tokens.shape == (2, 1)
    assert not batch.teacher_mask.any()


def test_prompt_ids_depend_on_the_text_alone():
    assert Problem("a", "x", "1").prompt_id == Problem(" a\n", "y", "2").prompt_id
    assert Problem("a", "", "").prompt_id != Problem("b", "", "").prompt_id
    assert 0 <= Problem("a", "", "").prompt_id < 2**63


@pytest.mark.parametrize("special", [True, False])
def test_tokens_are_those_the_tokenizer_itself_gives(tokenizer, special):
    texts = [problem.problem + problem.solution for problem in PROBLEMS] + ["", "<bos>7<eos>"]
    assert token_ids(tokenizer, texts, special) == tokenizer(texts, add_special_tokens=special)["input_ids"]
    tokenizer(texts, padding=True, truncation=True, max_length=3)  # which leaves its traces in the backend
    assert token_ids(tokenizer, texts, special) == tokenizer(texts, add_special_tokens=special)["input_ids"]
    assert token_ids(tokenizer, [], special) == []


def test_fingerprint_sees_every_field(tokenizer):
    base = encoded(tokenizer)
    for change in ({"answer": "9"}, {"teacher_reward": 0.5}, {"tokens": [1]}, {"prompt_id": 3}):
        assert fingerprint([base[0]._replace(**change), *base[1:]]) != fingerprint(base)
    assert fingerprint(base[::-1]) != fingerprint(base)


def test_a_label_is_not_what_the_policy_sees(tokenizer):
    base = encoded(tokenizer)
    assert fingerprint([base[0]._replace(difficulty="hard"), *base[1:]]) == fingerprint(base)

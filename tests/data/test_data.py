from collections import Counter

import pytest
import torch

from hapo_lit.data.arithmetic import Arithmetic, IndependentErrors, Level
from hapo_lit.data.collate import collate, encode, fingerprint, token_ids
from hapo_lit.data.datamodule import MathDataModule
from hapo_lit.data.problems import Problem
from hapo_lit.data.teachers import TrustedTeachers, VerifiedTeachers
from hapo_lit.data.templates import ChatTemplate, PlainTemplate
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


def module(tokenizer, size=10, step=4, check=None, **settings):
    return MathDataModule(
        Arithmetic([Level("-", 3)], size, 6, IndependentErrors(0.1), seed=0),
        tokenizer,
        PlainTemplate(),
        check or VerifiedTeachers(ExactVerifier()),
        ExactVerifier(),
        step,
        30,
        72,
        heldout_batch=4,
        **settings,
    )


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
    with pytest.raises(ValueError, match="all 4 prompts are longer than 3 tokens"):
        encoded(tokenizer, max_prompt_tokens=3)


def test_prompts_are_padded_on_the_left_and_teachers_on_the_right(tokenizer):
    batch = collate(encoded(tokenizer)[:2], tokenizer.pad_token_id)
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
    batch = collate(encoded(tokenizer)[2:], tokenizer.pad_token_id)
    assert batch.teacher_tokens.shape == (2, 1)
    assert not batch.teacher_mask.any()


def test_prompt_ids_depend_on_the_text_alone():
    assert Problem("a", "x", "1").prompt_id == Problem(" a\n", "y", "2").prompt_id
    assert Problem("a", "", "").prompt_id != Problem("b", "", "").prompt_id
    assert 0 <= Problem("a", "", "").prompt_id < 2**63


def test_templates(tokenizer):
    assert PlainTemplate("Q: {problem}").prompt(tokenizer, "1") == "Q: 1"
    with pytest.raises(ValueError, match=r"no \{problem\} in it"):
        PlainTemplate("Q:")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }};{% endfor %}{% if add_generation_prompt %}={% endif %}"
    )
    assert ChatTemplate(system="1").prompt(tokenizer, "2") == "1;2;="


@pytest.mark.parametrize("special", [True, False])
def test_tokens_are_those_the_tokenizer_itself_gives(tokenizer, special):
    texts = [problem.problem + problem.solution for problem in PROBLEMS] + ["", "<bos>7<eos>"]
    assert token_ids(tokenizer, texts, special) == tokenizer(texts, add_special_tokens=special)["input_ids"]
    tokenizer(texts, padding=True, truncation=True, max_length=3)  # which leaves its traces in the backend
    assert token_ids(tokenizer, texts, special) == tokenizer(texts, add_special_tokens=special)["input_ids"]
    assert token_ids(tokenizer, [], special) == []


def test_every_epoch_is_a_permutation_of_its_own_and_no_prompt_comes_twice_in_a_batch(tokenizer):
    data = module(tokenizer, size=10, step=4)
    batches = [data.batch(index).prompt_ids.tolist() for index in range(40)]  # twenty epochs of two batches
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        assert len({*first, *second}) == 8
    assert batches[0] != batches[2]
    counts = torch.tensor(sum(batches, [])).unique(return_counts=True)[1]  # noqa: RUF017
    assert len(counts) == 10  # what waits at the end of one epoch comes in another


def test_more_prompts_per_step_than_problems_is_an_error(tokenizer):
    with pytest.raises(ValueError, match="prompts_per_step=11, but there are only 10 training problems"):
        module(tokenizer, size=10, step=11).setup()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_each_batch_without_overlap(tokenizer, world):
    data = module(tokenizer)
    for index in range(6):
        shares = [data.batch(index, rank, world).prompt_ids.tolist() for rank in range(world)]
        assert sorted(prompt for share in shares for prompt in share) == sorted(data.batch(index).prompt_ids.tolist())
    with pytest.raises(ValueError, match="prompts_per_step=4 is not divisible by 3 processes"):
        data.batch(0, 0, 3)


def test_the_stream_goes_on_at_the_next_batch(tokenizer):
    data = module(tokenizer)
    stream = iter(data.train_dataloader())
    seen = [next(stream).prompt_ids.tolist() for _ in range(7)]
    again = iter(module(tokenizer).train_dataloader())
    for step in range(3):
        data.advance(next(again), step + 1)
    resumed = module(tokenizer)
    resumed.load_state_dict(data.state_dict())
    stream = iter(resumed.train_dataloader())
    assert [next(stream).prompt_ids.tolist() for _ in range(4)] == seen[3:]


def test_changed_data_is_refused_on_resume(tokenizer):
    state = module(tokenizer).state_dict()
    with pytest.raises(ValueError, match="training data changed since the checkpoint was written"):
        module(tokenizer, size=11).load_state_dict(state)
    with pytest.raises(ValueError, match=r"\(seed 0 then, 1 now\)"):
        module(tokenizer, seed=1).load_state_dict(state)


def test_heldout_comes_once_in_batches(tokenizer):
    data = module(tokenizer)
    sizes = [len(batch.answers) for batch in data.val_dataloader()]
    assert sizes == [4, 2]
    assert data.describe()["heldout_problems"] == 6


def test_the_teacher_is_measured_whether_it_is_believed_or_not(tokenizer):
    strict, trusting = module(tokenizer, 60).describe(), module(tokenizer, 60, check=TrustedTeachers()).describe()
    assert strict["teacher_accuracy"] == trusting["teacher_accuracy"] == pytest.approx(strict["teacher_accepted"])
    assert 0.5 < strict["teacher_accuracy"] < 0.9
    assert trusting["teacher_accepted"] == 1.0


def test_fingerprint_sees_every_field(tokenizer):
    base = encoded(tokenizer)
    for change in ({"answer": "9"}, {"teacher_reward": 0.5}, {"tokens": [1]}, {"prompt_id": 3}):
        assert fingerprint([base[0]._replace(**change), *base[1:]]) != fingerprint(base)
    assert fingerprint(base[::-1]) != fingerprint(base)


def test_labels_travel_with_the_batch_and_the_most_frequent_ones_are_told_apart(tokenizer, monkeypatch):
    source = Arithmetic([Level("-", 1), Level("-", 2), Level("-", 3, 4.0)], 60, 6, IndependentErrors(0.1), seed=0)
    data = MathDataModule(
        source, tokenizer, PlainTemplate(), VerifiedTeachers(ExactVerifier()), ExactVerifier(), 4, 30, 60
    )
    batch = data.batch(0)
    digits = {label: int(label[0]) for label in ("1-digit", "2-digit", "3-digit")}
    texts = [tokenizer.decode(row[mask], skip_special_tokens=True) for row, mask in zip(batch.tokens, batch.mask)]  # noqa: B905
    assert [digits[label] for label in batch.difficulties] == [
        max(map(len, text.removeprefix("Compute ").rstrip(".\n").split("-"))) for text in texts
    ]
    assert set(data.difficulties) == set(digits)
    assert data.difficulties[0] == "3-digit"
    del data.difficulties
    monkeypatch.setattr("hapo_lit.data.datamodule.MAX_LABELS", 1)
    assert data.difficulties == ("3-digit",)


def test_a_label_is_not_what_the_policy_sees(tokenizer):
    base = encoded(tokenizer)
    assert fingerprint([base[0]._replace(difficulty="hard"), *base[1:]]) == fingerprint(base)

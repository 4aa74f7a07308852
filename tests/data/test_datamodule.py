"""The datamodule on a source in memory: batches, ranks, resume, held-out problems, and what it says of them."""

from __future__ import annotations

from datetime import datetime

import pytest
import torch

from hapo_lit.cli.data_report import print_data_report
from hapo_lit.data.arithmetic import Arithmetic, IndependentErrors, Level
from hapo_lit.data.datamodule import MathDataModule
from hapo_lit.data.problems import Problem
from hapo_lit.data.teachers import TrustedTeachers, VerifiedTeachers
from hapo_lit.data.templates import ChatTemplate, PlainTemplate
from hapo_lit.verify.exact import ExactVerifier
from hapo_lit.verify.verifier import MathVerifier


def arithmetic(tokenizer, size=10, step=4, check=None, **settings):
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


def test_every_epoch_is_a_permutation_of_its_own_and_no_prompt_comes_twice_in_a_batch(tokenizer):
    data = arithmetic(tokenizer, size=10, step=4)
    batches = [data.batch(index).prompt_ids.tolist() for index in range(40)]  # twenty epochs of two batches
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        assert len({*first, *second}) == 8
    assert batches[0] != batches[2]
    counts = torch.tensor(sum(batches, [])).unique(return_counts=True)[1]  # noqa: RUF017
    assert len(counts) == 10  # what waits at the end of one epoch comes in another


def test_more_prompts_per_step_than_problems_is_an_error(tokenizer):
    with pytest.raises(ValueError, match="prompts_per_step=11, but there are only 10 training problems"):
        arithmetic(tokenizer, size=10, step=11).setup()


class Listed:
    """A list of problems, in memory or read one by one."""

    def __init__(self, problems):
        self.problems = problems

    def train(self):
        return self.problems

    def heldout(self):
        return [Problem("Compute 1-1.", "", "0")]

    def report(self):
        return {}

    def fingerprint(self):
        return ""


@pytest.mark.parametrize("sequence", [list, tuple])
def test_a_prompt_comes_once_in_a_batch_however_often_it_is_in_the_list(tokenizer, sequence):
    problems = [Problem(f"Compute {number % 5}-0.", "", str(number)) for number in range(20)]

    def of(step, **settings):
        check, verifier = TrustedTeachers(), ExactVerifier()
        return MathDataModule(
            Listed(sequence(problems)), tokenizer, PlainTemplate(), check, verifier, step, 30, 72, **settings
        )

    data = of(4)
    for index in range(10):
        both = [data.batch(index, rank, 2).prompt_ids.tolist() for rank in range(2)]
        assert len({*both[0], *both[1]}) == 4
    assert set(data.batch(0).answers) <= set("01234")  # the first row of each prompt
    assert data.notes()[-1] == "duplicates: 15 training problems are left out, whose prompts occur before"
    with pytest.raises(ValueError, match="prompts_per_step=6, but there are only 5 training problems"):
        of(6).setup()
    if sequence is list:
        assert of(20, repeats=True).training_set.size == 20


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_each_batch_without_overlap(tokenizer, world):
    data = arithmetic(tokenizer)
    for index in range(6):
        shares = [data.batch(index, rank, world).prompt_ids.tolist() for rank in range(world)]
        assert sorted(prompt for share in shares for prompt in share) == sorted(data.batch(index).prompt_ids.tolist())
    with pytest.raises(ValueError, match="prompts_per_step=4 is not divisible by 3 processes"):
        data.batch(0, 0, 3)


def test_the_stream_goes_on_at_the_next_batch(tokenizer):
    data = arithmetic(tokenizer)
    stream = iter(data.train_dataloader())
    seen = [next(stream).prompt_ids.tolist() for _ in range(7)]
    again = iter(arithmetic(tokenizer).train_dataloader())
    for step in range(3):
        data.advance(next(again), step + 1)
    resumed = arithmetic(tokenizer)
    resumed.load_state_dict(data.state_dict())
    stream = iter(resumed.train_dataloader())
    assert [next(stream).prompt_ids.tolist() for _ in range(4)] == seen[3:]


def test_changed_data_is_refused_on_resume(tokenizer):
    state = arithmetic(tokenizer).state_dict()
    with pytest.raises(ValueError, match="training data changed since the checkpoint was written"):
        arithmetic(tokenizer, size=11).load_state_dict(state)
    with pytest.raises(ValueError, match=r"\(seed 0 then, 1 now\)"):
        arithmetic(tokenizer, seed=1).load_state_dict(state)


CLOCK = "{% for m in messages %}{{ m.content }};{% endfor %}{{ strftime_now('%d%m%Y') }}=\n"


def test_a_template_with_a_clock_keeps_the_day_of_the_runs_start(tokenizer):
    def on(day, template=CLOCK):
        data = arithmetic(tokenizer)
        tokenizer.chat_template, data.template = template, ChatTemplate()
        data.template.date = datetime(2026, 3, day)
        return data

    first = on(14)
    prompts, heldout = first.batch(2).tokens, next(iter(first.val_dataloader())).tokens
    assert "14032026=" in tokenizer.decode(prompts[0])
    state = first.state_dict()
    resumed = on(15)
    assert not torch.equal(resumed.batch(2).tokens, prompts)
    resumed.load_state_dict(state)
    assert torch.equal(resumed.batch(2).tokens, prompts)
    assert torch.equal(next(iter(resumed.val_dataloader())).tokens, heldout)
    plain = CLOCK.partition("{{ strf")[0]
    timeless = on(14, plain)
    timeless.setup()
    assert "date" not in timeless.state_dict()
    on(15, plain).load_state_dict(timeless.state_dict())
    tokenizer.chat_template = None


def test_heldout_comes_once_in_batches(tokenizer):
    data = arithmetic(tokenizer)
    sizes = [len(batch.answers) for batch in data.val_dataloader()]
    assert sizes == [4, 2]
    assert data.describe()["heldout_problems"] == 6


def test_the_teacher_is_measured_whether_it_is_believed_or_not(tokenizer):
    strict, trusting = (
        arithmetic(tokenizer, 60).describe(),
        arithmetic(tokenizer, 60, check=TrustedTeachers()).describe(),
    )
    assert strict["teacher_accuracy"] == trusting["teacher_accuracy"] == pytest.approx(strict["teacher_accepted"])
    assert 0.5 < strict["teacher_accuracy"] < 0.9
    assert trusting["teacher_accepted"] == 1.0


def test_what_its_verifier_cannot_read_of_the_answers_is_counted_and_said(tokenizer, capsys):
    answers = ["5", r"a \oplus b", "6"]
    problems = [Problem(f"Compute {number}-2.", "1;", answer) for number, answer in enumerate(answers, 7)]
    data = MathDataModule(
        Listed(problems), tokenizer, PlainTemplate(), TrustedTeachers(), MathVerifier(workers=1), 1, 30, 72
    )
    facts = data.describe()
    assert facts["references_unread"] == 1
    print_data_report(data, facts)
    assert "warning: 1 reference answers cannot be read: a response is right only if" in capsys.readouterr().err


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

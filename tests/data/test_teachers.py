"""Which solution becomes the teacher, verdicts on disk, and verifying in loader processes."""

from __future__ import annotations

import time
from collections import Counter

import torch
from support.corpora import corpus, datamodule

from hapo_lit.data.collate import encode
from hapo_lit.data.problems import Problem
from hapo_lit.data.teachers import CachedTeachers, TrustedTeachers, VerifiedTeachers
from hapo_lit.data.templates import PlainTemplate
from hapo_lit.verify.exact import ExactVerifier
from hapo_lit.verify.verifier import MathVerifier


def test_of_several_solutions_the_longest_that_fits_and_is_right_is_taken(tokenizer):
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
    checked = []

    class Counting(VerifiedTeachers):
        def __call__(self, problems):
            checked.extend(problems)
            return super().__call__(problems)

    problems = [Problem("a", r"\boxed{1}", "1"), Problem("b", r"\boxed{2}", "1"), Problem("c", r"\boxed{1}", "1")]
    path = str(tmp_path / "deep" / "teachers.sqlite")
    assert CachedTeachers(Counting(ExactVerifier()), path)(problems) == [1.0, 0.0, 1.0]
    assert len(checked) == 2  # the third has the first one's solution and answer
    assert CachedTeachers(Counting(ExactVerifier()), path)(problems) == [1.0, 0.0, 1.0]
    assert len(checked) == 3  # only the rejected one again: it may have been a missed deadline
    assert CachedTeachers(TrustedTeachers(), path)(problems) == [1.0, 1.0, 1.0]  # another check, other verdicts
    assert CachedTeachers(Counting(ExactVerifier()), path)(problems) == [1.0, 0.0, 1.0]


def test_teachers_are_verified_by_algebra_in_loader_processes(lines, tokenizer, tmp_path):
    """The verifier's own processes are children of the loader's."""
    check = CachedTeachers(VerifiedTeachers(MathVerifier()), str(tmp_path / "teachers.sqlite"))
    data = datamodule(corpus(lines), tokenizer, check=check, workers=1)
    batch = next(iter(data.train_dataloader()))
    assert batch.teacher_usable.all()
    assert data.waited > 0


def test_waiting_for_data_is_measured(lines, tokenizer):
    class Slow(TrustedTeachers):
        def __call__(self, problems):
            time.sleep(0.05)
            return super().__call__(problems)

    data = datamodule(corpus(lines), tokenizer, check=Slow())
    batches = iter(data.train_dataloader())
    next(batches)
    assert data.waited >= 0.05
    assert isinstance(next(batches).tokens, torch.Tensor)

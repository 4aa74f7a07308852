"""Which solution becomes the teacher, verdicts on disk, and verifying in loader processes."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
import torch
from support.corpora import corpus, datamodule

from hapo_lit.data.collate import collate, encode
from hapo_lit.data.problems import Problem
from hapo_lit.data.teachers import CachedTeachers, TrustedTeachers, VerifiedTeachers
from hapo_lit.data.templates import PlainTemplate
from hapo_lit.errors import VerifierError
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


def earned(judgement):
    return judgement.rewards.tolist()


class Counting(VerifiedTeachers):
    """Keeps what it was asked in a list outside, which is none of its settings."""

    def __call__(self, problems):
        CHECKED.extend(problems)
        return super().__call__(problems)


CHECKED = []


def test_verdicts_are_asked_for_once_and_survive_on_disk(tmp_path):
    CHECKED.clear()
    problems = [Problem("a", r"\boxed{1}", "1"), Problem("b", r"\boxed{2}", "1"), Problem("a", r"\boxed{1}", "1")]
    path = str(tmp_path / "deep" / "teachers")
    assert earned(CachedTeachers(Counting(ExactVerifier()), path)(problems)) == [1.0, 0.0, 1.0]
    assert len(CHECKED) == 2  # the third is the first
    assert earned(CachedTeachers(Counting(ExactVerifier()), path)(problems)) == [1.0, 0.0, 1.0]
    assert len(CHECKED) == 3  # only the rejected one again: it may have been a missed deadline
    assert earned(CachedTeachers(TrustedTeachers(), path)(problems)) == [1.0, 1.0, 1.0]  # another check, other verdicts
    assert earned(CachedTeachers(Counting(ExactVerifier()), path)(problems)) == [1.0, 0.0, 1.0]


class FormCounts(ExactVerifier):
    """0.1 for any box, 0.9 more for the right one, and short solutions earn more than 1."""

    def __call__(self, responses, answers):
        graded = [0.1 * (r"\boxed" in response) + 0.2 * (len(response) < 10) for response in responses]
        right = super().__call__(responses, answers)
        return torch.tensor(graded) + 0.9 * right, right == 1


def test_wrong_teachers_that_earn_something_are_not_usable(tokenizer, tmp_path):
    problems = [Problem("a", r"\boxed{1}", "1"), Problem("b", r"\boxed{2}", "1"), Problem("c", r"007;\boxed{1}", "1")]
    for check in (VerifiedTeachers(FormCounts()), CachedTeachers(VerifiedTeachers(FormCounts()), str(tmp_path / "x"))):
        for _ in range(2):
            items = encode(problems, tokenizer, PlainTemplate(), check, 40, 40, tally := Counter())
            assert [item.teacher_usable for item in items] == [True, False, True]
            assert [item.teacher_reward for item in items] == pytest.approx([1.2, 0.0, 1.0])
            assert tally == {"teacher_usable": 2, "teacher_rejected": 1}
    batch = collate(items)
    assert batch.teacher_usable.tolist() == [True, False, True]
    assert batch.questions(1).problems == ["a", "b", "c"]


NEEDLE = """
import torch

class Needle:
    def __init__(self, word):
        self.word = word

    def __call__(self, responses, answers):
        return torch.tensor([float(self.word in response) for response in responses])

    def metrics(self):
        return {}
"""


def test_a_verifier_with_another_setting_or_other_code_asks_again(mine, tmp_path):
    problems = [Problem("a", r"\boxed{1}", "1")]

    def verdicts(verifier):
        return earned(CachedTeachers(VerifiedTeachers(verifier), str(tmp_path / "kept"))(problems))

    needle = mine(NEEDLE).Needle
    assert verdicts(needle("boxed")) == [1.0]
    assert verdicts(needle("NEVER_THERE")) == [0.0]
    assert verdicts(needle("boxed")) == [1.0]
    assert verdicts(mine(NEEDLE.replace("in response)", "in response) * 0.5")).Needle("boxed")) == [0.5]
    assert verdicts(MathVerifier()) == verdicts(MathVerifier(workers=2)) == [1.0]


def test_a_verdict_belongs_to_its_problem(mine, tmp_path):
    class ByText(TrustedTeachers):
        def __call__(self, problems):
            return torch.tensor([float("easy" in problem.problem) for problem in problems])

    check = CachedTeachers(ByText(), str(tmp_path / "kept"))
    assert earned(check([Problem("easy", "1", "1"), Problem("hard", "1", "1")])) == [1.0, 0.0]


def test_what_cannot_be_hashed_is_not_kept_and_one_line_says_so(mine, tmp_path):
    verifier = mine(NEEDLE).Needle("boxed")
    verifier.lock = threading.Lock()
    check = CachedTeachers(VerifiedTeachers(verifier), str(tmp_path / "kept"))
    assert earned(check([Problem("a", r"\boxed{1}", "1")])) == [1.0]
    assert not (tmp_path / "kept").exists()
    assert check.notes() == ["verdicts on teachers are not kept: check.verifier.lock (lock) has no source file to hash"]


def test_teachers_are_verified_by_algebra_in_loader_processes(lines, tokenizer, tmp_path):
    """The verifier's own processes are children of the loader's."""
    check = CachedTeachers(VerifiedTeachers(MathVerifier()), str(tmp_path / "teachers"))
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


def test_a_teacher_check_whose_rewards_are_no_numbers_is_named(tokenizer):
    def check(problems):
        return torch.full((len(problems),), float("nan")), torch.ones(len(problems), dtype=torch.bool)

    with pytest.raises(VerifierError, match=r"check gave the reward nan to response 1 of 1, and rewards must be fin"):
        encode([Problem("7-2?", "5", "5")], tokenizer, PlainTemplate(), check, 40, 40, Counter())

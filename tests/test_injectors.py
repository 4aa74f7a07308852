from dataclasses import fields

import pytest
import torch
from conftest import make_group, make_prompts

from hapo_lit.injectors import NoInjection, ReplaceGroup, ReplaceSlot, ReplaceWorst
from hapo_lit.protocols import Injector

INJECTORS = {"none": NoInjection, "worst": ReplaceWorst, "slot": ReplaceSlot, "group": ReplaceGroup}
every_injector = pytest.mark.parametrize("make", INJECTORS.values(), ids=INJECTORS.keys())
TEACHER = 23


def snapshot(carrier):
    return {
        field.name: value.clone()
        for field in fields(carrier)
        if isinstance(value := getattr(carrier, field.name), torch.Tensor)
    }


def untouched(before, after, prompt):
    """The rows of one prompt hold what they held; the group may have grown around them."""
    rows, width = before.rewards.shape[1], before.tokens.shape[2]
    for name in ("rewards", "finished", "is_teacher", "present"):
        assert torch.equal(getattr(after, name)[prompt, :rows], getattr(before, name)[prompt])
    assert torch.equal(after.mask[prompt, :rows, :width], before.mask[prompt])
    assert torch.equal(after.tokens[prompt, :rows, :width], before.tokens[prompt])
    assert not after.mask[prompt, :rows, width:].any()
    assert not after.present[prompt, rows:].any()


@every_injector
def test_contract(make):
    injector = make()
    assert isinstance(injector, Injector)
    group = make_group([[0, 1, 0], [0, 0, 0], [0, 0, 0]])
    prompts = make_prompts(group, [1, 1, 0])
    held = snapshot(group), snapshot(prompts)
    after = injector(group, prompts, torch.tensor([False, True, True]))
    for carrier, values in zip((group, prompts), held, strict=True):
        assert all(torch.equal(getattr(carrier, name), value) for name, value in values.items())
    untouched(group, after, 0)  # closed
    untouched(group, after, 2)  # open, but the verifier rejected its teacher
    assert int(after.is_teacher.sum()) == (0 if make is NoInjection else 1)
    assert after.rewards[after.is_teacher].tolist() == ([] if make is NoInjection else [1.0])
    if make is not NoInjection:
        at = after.is_teacher[1].nonzero().item()
        assert after.tokens[1, at].tolist() == [TEACHER] * 9
        assert after.mask[1, at].all()
        assert after.finished[1, at]
        assert after.present[1, at]
        assert (after.behaviour_logprobs[1, at] == 0).all()


@every_injector
def test_all_closed_gives_the_same_rows(make):
    group = make_group([[0, 1, 0], [0, 0, 0]])
    after = make()(group, make_prompts(group, [1, 1]), torch.tensor([False, False]))
    untouched(group, after, 0)
    untouched(group, after, 1)
    assert not after.is_teacher.any()


def test_replace_worst_takes_the_least_reward_and_the_first_of_ties():
    group = make_group([[1, 0, 0], [1, 1, 0], [1, 1, 1]])
    after = ReplaceWorst()(group, make_prompts(group, [1, 1, 1]), torch.ones(3, dtype=torch.bool))
    assert after.is_teacher.int().tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert after.rewards.sum(1).tolist() == [2, 3, 3]  # S + 1 wherever a failure exists


def test_replace_worst_never_takes_an_absent_row():
    group = make_group([[0, 1, 1]], present=[[0, 1, 1]])
    after = ReplaceWorst()(group, make_prompts(group, [1]), torch.tensor([True]))
    assert after.is_teacher.int().tolist() == [[0, 1, 0]]


def test_replace_slot_pays_for_one_rollout_less_and_leaves_an_absent_row_without_help():
    injector = ReplaceSlot()
    assert injector.rollouts(8) == 7
    group = make_group([[0, 1], [0, 0]])
    after = injector(group, make_prompts(group, [1, 1]), torch.tensor([True, False]))
    assert after.rewards.shape == (2, 3)
    assert after.present.int().tolist() == [[1, 1, 1], [1, 1, 0]]
    assert after.is_teacher.int().tolist() == [[0, 0, 1], [0, 0, 0]]


def test_replace_group_leaves_the_teacher_alone_in_the_loss():
    group = make_group([[1, 0, 0], [0, 1, 0]])
    after = ReplaceGroup()(group, make_prompts(group, [1, 1]), torch.tensor([True, False]))
    assert after.present.int().tolist() == [[1, 0, 0], [1, 1, 1]]
    assert after.is_teacher.int().tolist() == [[1, 0, 0], [0, 0, 0]]
    assert not after.mask[0, 1:].any()


def test_a_teacher_shorter_than_the_rollouts_is_padded():
    group = make_group([[0, 0]], lengths=[[6, 5]])
    after = ReplaceWorst()(group, make_prompts(group, [1], teacher_length=2), torch.tensor([True]))
    assert after.mask[0, 0].tolist() == [True, True, False, False, False, False]
    assert after.mask[0, 1].sum() == 5

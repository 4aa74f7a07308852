from dataclasses import fields, replace

import pytest
import torch
from support.builders import make_group, make_prompts

from hapo_lit.injectors import (
    Append,
    DrawnTied,
    LeastLikely,
    NoInjection,
    ReplaceGroup,
    ReplaceRandom,
    ReplaceSlot,
    ReplaceWorst,
)
from hapo_lit.protocols import Injector

INJECTORS = {
    "none": NoInjection,
    "worst": ReplaceWorst,
    "worst_least_likely": lambda: ReplaceWorst(LeastLikely()),
    "worst_drawn": lambda: ReplaceWorst(DrawnTied()),
    "random": ReplaceRandom,
    "slot": ReplaceSlot,
    "append": Append,
    "group": ReplaceGroup,
}
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
    after = injector(group, prompts, torch.tensor([False, True, True]), 0)
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
    after = make()(group, make_prompts(group, [1, 1]), torch.tensor([False, False]), 0)
    untouched(group, after, 0)
    untouched(group, after, 1)
    assert not after.is_teacher.any()


def test_replace_worst_takes_the_least_reward_and_the_first_of_ties():
    group = make_group([[1, 0, 0], [1, 1, 0], [1, 1, 1]])
    after = ReplaceWorst()(group, make_prompts(group, [1, 1, 1]), torch.ones(3, dtype=torch.bool), 0)
    assert after.is_teacher.int().tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert after.rewards.sum(1).tolist() == [2, 3, 3]  # S + 1 wherever a failure exists


@every_injector
def test_the_order_of_prompts_does_not_matter(make):
    group = make_group([[0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1]])
    prompts, open = make_prompts(group, [1, 1, 0, 1]), torch.tensor([True, True, True, False])
    back = torch.tensor([3, 1, 0, 2])
    moved = (
        replace(carrier, **{name: value[back] for name, value in snapshot(carrier).items()})
        for carrier in (group, prompts)
    )
    there, here = make()(group, prompts, open, 5), make()(*moved, open[back], 5)
    assert all(torch.equal(value[back], snapshot(here)[name]) for name, value in snapshot(there).items())


def test_ties_are_broken_by_the_lowest_log_probability():
    group = make_group([[0, 0, 1], [1, 1, 1]], lengths=[[2, 2, 1], [1, 1, 1]])
    behaviour = torch.tensor([[[-1.0, -1], [-3, 0], [-9, 0]], [[-1, 0], [-2, 0], [-0.5, 0]]])
    group = replace(group, behaviour_logprobs=behaviour)
    prompts, open = make_prompts(group, [1, 1]), torch.ones(2, dtype=torch.bool)
    after = ReplaceWorst(LeastLikely())(group, prompts, open, 0)
    assert after.is_teacher.int().tolist() == [[0, 1, 0], [0, 1, 0]]
    with pytest.raises(ValueError, match="needs an engine that reports log-probabilities; use DrawnTied"):
        ReplaceWorst(LeastLikely())(replace(group, behaviour_logprobs=None), prompts, open, 0)


def test_drawn_ties_are_uniform_and_a_function_of_seed_prompt_and_step():
    count = 6000
    group = make_group([[0, 1, 0, 0]] * count, lengths=[[1] * 4] * count)
    prompts, open = make_prompts(group, [1] * count, 1), torch.ones(count, dtype=torch.bool)

    def chosen(seed, step):
        return ReplaceWorst(DrawnTied(seed))(group, prompts, open, step).is_teacher

    share = chosen(0, 0).float().mean(0)
    assert share[1] == 0
    assert share[[0, 2, 3]].tolist() == pytest.approx([1 / 3] * 3, abs=5 * (2 / 9 / count) ** 0.5)
    assert torch.equal(chosen(0, 0), chosen(0, 0))
    for other in (chosen(1, 0), chosen(0, 1)):
        assert float((other & chosen(0, 0)).any(1).float().mean()) == pytest.approx(1 / 3, abs=0.04)


def test_replace_random_loses_a_success_as_often_as_it_should():
    # S + 1 with probability (N − S)/N, else S
    count = 6000
    group = make_group([[1, 0, 0, 1]] * count, lengths=[[1] * 4] * count)
    prompts, open = make_prompts(group, [1] * count, 1), torch.ones(count, dtype=torch.bool)
    successes = ReplaceRandom()(group, prompts, open, 3).rewards.sum(1)
    assert set(successes.tolist()) == {2.0, 3.0}
    assert float((successes == 3).float().mean()) == pytest.approx(0.5, abs=5 * (0.25 / count) ** 0.5)


def test_append_keeps_every_rollout():
    injector = Append()
    assert injector.rollouts(8) == 8
    group = make_group([[0, 1], [0, 0], [0, 0]])
    after = injector(group, make_prompts(group, [1, 1, 0]), torch.tensor([True, False, True]), 0)
    assert after.present.int().tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 0]]
    assert after.is_teacher.int().tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert after.rewards.tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 0]]


def test_replace_worst_never_takes_an_absent_row():
    group = make_group([[0, 1, 1]], present=[[0, 1, 1]])
    after = ReplaceWorst()(group, make_prompts(group, [1]), torch.tensor([True]), 0)
    assert after.is_teacher.int().tolist() == [[0, 1, 0]]


def test_replace_slot_pays_for_one_rollout_less_and_leaves_an_absent_row_without_help():
    injector = ReplaceSlot()
    assert injector.rollouts(8) == 7
    group = make_group([[0, 1], [0, 0]])
    after = injector(group, make_prompts(group, [1, 1]), torch.tensor([True, False]), 0)
    assert after.rewards.shape == (2, 3)
    assert after.present.int().tolist() == [[1, 1, 1], [1, 1, 0]]
    assert after.is_teacher.int().tolist() == [[0, 0, 1], [0, 0, 0]]


def test_replace_group_leaves_the_teacher_alone_in_the_loss():
    group = make_group([[1, 0, 0], [0, 1, 0]])
    after = ReplaceGroup()(group, make_prompts(group, [1, 1]), torch.tensor([True, False]), 0)
    assert after.present.int().tolist() == [[1, 0, 0], [1, 1, 1]]
    assert after.is_teacher.int().tolist() == [[1, 0, 0], [0, 0, 0]]
    assert not after.mask[0, 1:].any()


def test_a_teacher_shorter_than_the_rollouts_is_padded():
    group = make_group([[0, 0]], lengths=[[6, 5]])
    after = ReplaceWorst()(group, make_prompts(group, [1], teacher_length=2), torch.tensor([True]), 0)
    assert after.mask[0, 0].tolist() == [True, True, False, False, False, False]
    assert after.mask[0, 1].sum() == 5


def test_a_success_makes_room_only_where_there_is_no_failure():
    """The first group's success earns least, say for its length; the second has none but successes."""
    group = make_group([[-0.5, 0.1, 0.0], [0.8, 1.0, 0.9]])
    group = replace(group, successes=torch.tensor([[True, False, False], [True, True, True]]))
    after = ReplaceWorst()(group, make_prompts(group, [1, 1]), torch.tensor([True, True]), 0)
    assert after.is_teacher.tolist() == [[False, False, True], [True, False, False]]
    assert after.successes.tolist() == [[True, False, True], [True, True, True]]
    grown = Append()(group, make_prompts(group, [1, 0]), torch.tensor([True, True]), 0)
    assert grown.successes[:, -1].tolist() == [True, False]

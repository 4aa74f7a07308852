import ast
import doctest
import inspect
from dataclasses import FrozenInstanceError, is_dataclass, replace

import pytest
import torch
from support.builders import make_group, make_prompts

from hapo_lit import rows, types
from hapo_lit.rows import MicroBatchLimit
from hapo_lit.types import Experience, GateDecision


def experience(group):
    return Experience(
        group=group,
        advantages=torch.arange(group.rewards.numel(), dtype=torch.float32).reshape(group.rewards.shape),
        token_weights=group.mask.float(),
        decision=GateDecision(torch.ones(len(group.rewards), dtype=torch.bool), torch.rand(len(group.rewards))),
    )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rewards", torch.zeros(2, 4), r"RolloutGroup.rewards has shape \(2, 4\), expected \(2, 3\)"),
        ("mask", torch.zeros(2, 3, 6), r"RolloutGroup.mask has dtype torch.float32, expected torch.bool"),
        ("prompt_ids", torch.zeros(2), r"prompt_ids has dtype torch.float32, expected torch.int64"),
        ("present", [1], "RolloutGroup.present must be a tensor, got list"),
        ("tokens", torch.zeros(2, 3), r"must be \[P, G, T\], got \(2, 3\)"),
        ("behaviour_logprobs", torch.zeros(2, 3, 1), r"behaviour_logprobs has shape \(2, 3, 1\), expected \(2, 3, 6\)"),
    ],
)
def test_a_malformed_group_is_refused_with_both_shapes(field, value, message):
    group = make_group([[0, 1, 0], [0, 0, 0]], lengths=[[6, 2, 3], [1, 1, 1]])
    with pytest.raises(ValueError, match=message):
        replace(group, **{field: value})


def test_prompt_batch_checks_answers_and_ranks():
    prompts = make_prompts(make_group([[0, 1], [0, 0]]), [1, 1])
    with pytest.raises(ValueError, match="3 entries for 2 prompts"):
        replace(prompts, answers=("1", "2", "3"))
    with pytest.raises(ValueError, match=r"must be \[P, S\] and \[P, T\]"):
        replace(prompts, tokens=torch.zeros(2, dtype=torch.int64))


def test_carriers_are_frozen_and_move_whole():
    value = experience(make_group([[0, 1], [0, 0]]))
    with pytest.raises(FrozenInstanceError):
        value.advantages = value.advantages + 1
    moved = value.to("meta")
    assert moved.advantages.is_meta
    assert moved.group.tokens.is_meta
    assert moved.decision.open.is_meta
    assert moved.behaviour_logprobs is None
    assert value.to("cpu") is value  # which every step asks for


def test_success_counts_leave_out_teachers_and_absent_rows():
    group = make_group([[1, 1, 0, 1]], teacher=[[1, 0, 0, 0]], present=[[1, 1, 1, 0]])
    successes, trials = group.success_counts()
    assert (successes.tolist(), trials.tolist()) == ([1], [2])


def test_verdicts_come_back_in_flattened_order_and_absent_rows_earn_nothing():
    group = make_group([[0, 0], [0, 0]], present=[[1, 1], [1, 0]])
    assert group.with_rewards(torch.tensor([1.0, 0.0, 0.0, 1.0])).rewards.tolist() == [[1, 0], [0, 0]]


def test_a_response_that_never_ended_earns_nothing():
    group = make_group([[0, 0]])
    group = replace(group, finished=torch.tensor([[True, False]]))
    assert group.with_rewards(torch.tensor([1.0, 1.0])).rewards.tolist() == [[1, 0]]


def test_a_response_that_never_ended_is_no_success_and_keeps_its_loss():
    group = make_group([[0, 0, 0]])
    group = replace(group, finished=torch.tensor([[True, False, False]]))
    found = group.with_rewards(torch.tensor([0.3, 0.3, -0.5]), torch.tensor([True, True, False]))
    assert found.rewards[0].tolist() == pytest.approx([0.3, 0.0, -0.5])
    assert found.successes.tolist() == [[True, False, False]]
    assert [count.tolist() for count in found.success_counts()] == [[1], [3]]


def test_without_a_word_on_it_a_success_earns_exactly_one():
    group = make_group([[0.1, 1.0, 1.5]])
    assert group.successes.tolist() == [[False, True, False]]
    assert replace(group, rewards=group.rewards - 0.5).successes.tolist() == [[False, True, False]]
    assert make_prompts(make_group([[0], [0]]), [0.1, 1]).teacher_usable.tolist() == [False, True]


def test_rows_keep_each_response_beside_its_prompt_and_its_credit():
    group = make_group([[0, 1, 0], [1, 0, 0]])
    found = experience(group).rows()
    assert found.size == 6
    for row in range(6):
        prompt, sample = divmod(row, 3)
        assert torch.equal(found.text.prompt_tokens[row], group.prompt_tokens[prompt])
        assert torch.equal(found.text.tokens[row], group.tokens[prompt, sample])
        assert found.advantages[row] == row


@pytest.mark.parametrize("size", [1, 2, 4, 100])
def test_split_loses_no_row_and_trims_only_padding(size):
    whole = experience(make_group([[0, 1, 0], [1, 0, 0]], seed=3)).rows()
    parts = list(whole.split(MicroBatchLimit(size)))
    assert sum(part.size for part in parts) == whole.size
    assert all(part.size <= size for part in parts)
    assert sum(float(part.token_weights.sum()) for part in parts) == pytest.approx(float(whole.token_weights.sum()))
    for part in parts:
        assert part.text.mask.any(0).all()
        assert part.text.prompt_mask.any(0).all()
    seen = sorted(float(advantage) for part in parts for advantage in part.advantages)
    assert seen == sorted(whole.advantages.tolist())


def test_split_of_no_rows_is_empty():
    found = experience(make_group([[0, 1]])).rows()
    assert list(found.select(torch.zeros(2, dtype=torch.bool)).split(MicroBatchLimit(4))) == []


def carriers(module):
    """The classes of a module that hold tensors, in the order of the file."""
    own = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
    return [value for value in own if isinstance(value, type) and (is_dataclass(value) or hasattr(value, "_fields"))]


CARRIERS = {
    types: ["PromptBatch", "RolloutGroup", "GateDecision", "Experience"],
    rows: ["Questions", "Judgement", "MicroBatchLimit", "Text", "Rows", "LossOutput"],
}


@pytest.mark.parametrize("module", CARRIERS, ids=lambda module: module.__name__)
def test_every_field_of_every_carrier_is_documented(module):
    names = [carrier.__name__ for carrier in carriers(module)]
    assert names == CARRIERS[module]
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef) and node.name in names:
            for field, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign):
                    assert isinstance(after, ast.Expr), f"{node.name}.{field.target.id} has no docstring"


@pytest.mark.parametrize("module", CARRIERS, ids=lambda module: module.__name__)
def test_every_carrier_shows_an_instance_and_the_examples_run(module):
    """In the order of the file: an example may use the values of those before it."""
    known, runner = dict(vars(module)), doctest.DocTestRunner()
    for carrier in carriers(module):
        example = doctest.DocTestParser().get_doctest(carrier.__doc__, known, carrier.__name__, None, 0)
        assert f"{carrier.__name__}(" in carrier.__doc__
        printed = []
        runner.run(example, out=printed.append, clear_globs=False)
        assert not runner.summarize(verbose=False).failed, "".join(printed)
        known |= example.globs


def test_labels_are_as_many_as_prompts_or_none():
    prompts = make_prompts(make_group([[0, 1], [1, 0]]), [1, 1])
    assert prompts.difficulties == ()
    assert replace(prompts, difficulties=("a", "b")).difficulties == ("a", "b")
    with pytest.raises(ValueError, match=r"PromptBatch\.difficulties has 1 entries for 2 prompts"):
        replace(prompts, difficulties=("a",))

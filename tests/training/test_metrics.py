import pytest
import torch
from support.builders import ScriptedEngine, ScriptedVerifier, make_group, make_prompts

from hapo_lit.advantages import GroupNormalised
from hapo_lit.algorithm import Hapo, Supervised
from hapo_lit.errors import PartError
from hapo_lit.gates import FailureGate
from hapo_lit.injectors import ReplaceWorst
from hapo_lit.protocols import ALONE
from hapo_lit.training.metrics import GradientShare, anneal_tallies, over_ranks, reward_tallies, tallied
from hapo_lit.weighting import TokenMean


def collect(algorithm, prompts):
    return algorithm.collect(prompts, 0, lambda group: [""] * group.rewards.numel(), ALONE)


def anneal_metrics(experience):
    return over_ranks(anneal_tallies(experience), ALONE, torch.device("cpu"))


def test_a_step_by_hand():
    rewards = [[0, 0], [1, 1], [1, 0], [0, 0]]
    lengths = [[2, 2], [1, 3], [2, 2], [4, 4]]
    group = make_group(rewards, lengths=lengths)
    algorithm = Hapo(
        2,
        ScriptedEngine(group),
        ScriptedVerifier(rewards),
        FailureGate(1),
        ReplaceWorst(),
        GroupNormalised(),
        TokenMean(),
    )
    metrics = anneal_metrics(collect(algorithm, make_prompts(group, [1, 1, 1, 0], teacher_length=6)))
    assert metrics == {
        "reward/mean": 3 / 8,
        "success/rate": 3 / 8,
        "gate/open_rate": 0.75,
        "teacher/use": 0.5,  # the last group is open, but its teacher was rejected
        "teacher/rows": 2.0,
        "teacher/row_share": 2 / 8,
        "teacher/refused": 1.0,
        "teacher/beside_success": 0.25,
        "teacher/token_share": pytest.approx(12 / (6 + 2 + 4 + 2 + 6 + 8)),
        "signal/all_wrong": 0.5,
        "signal/all_right": 0.25,
        "signal/flat_before": 0.75,
        "signal/flat": 0.75,  # group 2 had one failure: replacing it flattens the group
        "response/length": 20 / 8,
        "response/truncated": 0.0,
    }


def test_a_supervised_step_has_no_rollout_metrics():
    prompts = make_prompts(make_group([[0], [0]]), [1, 0])
    assert anneal_metrics(collect(Supervised(TokenMean()), prompts)) == {
        "teacher/use": 0.5,
        "teacher/rows": 1.0,
        "teacher/row_share": 1.0,  # the prompt without a usable teacher is an absent row
        "teacher/token_share": 1.0,
    }


def test_tallies_become_means_totals_and_empty_ones_zero():
    tallies = {"mean": [3.0, 2.0], "empty": [0.0, 0.0], "total": [7.0, 0.0]}
    numbers = over_ranks({name: torch.tensor(value) for name, value in tallies.items()}, ALONE, torch.device("cpu"))
    assert numbers == {"mean": 1.5, "empty": 0.0, "total": 7.0}
    assert over_ranks({}, ALONE, torch.device("cpu")) == {}


def test_over_ranks_means_are_weighted_and_totals_add_up():
    """Two ranks, the other one with three prompts of which one counts."""
    mine = {"share": torch.tensor([1.0, 1.0])} | tallied({"rollout/tokens": 5.0, "time/step": 2.0})
    other = {"share": torch.tensor([1.0, 3.0])} | tallied({"rollout/tokens": 7.0, "time/step": 4.0})
    theirs = torch.stack([other[name].double() for name in sorted(other)])
    ranks = ALONE._replace(gather=lambda own: torch.cat([own, theirs]))
    assert over_ranks(mine, ranks, torch.device("cpu")) == {"share": 0.5, "rollout/tokens": 12.0, "time/step": 3.0}


def test_other_names_on_another_rank_are_an_error_and_another_order_is_not():
    tallies = {name: torch.tensor([value, 1.0]) for name, value in (("mine/a", 1.0), ("mine/b", 2.0))}
    backwards = dict(reversed(tallies.items()))

    def ranks(other):
        """Two of them, of which the other has a copy of what this one has, or other names."""
        return ALONE._replace(
            gather=lambda own: torch.cat([own, own if own.is_floating_point() else own + other]), world=2
        )

    assert list(over_ranks(backwards, ranks(0), torch.device("cpu")).items()) == [("mine/b", 2.0), ("mine/a", 1.0)]
    with pytest.raises(PartError, match=r"metrics of other names.*those of process 0 are mine/a, mine/b"):
        over_ranks(tallies, ranks(1), torch.device("cpu"))


def test_rewards_by_difficulty_are_of_rollouts_and_add_up_over_ranks():
    """Here 1 of 4 and 2 of 2, of the third label none; on the other rank 3 of 4 of the third."""
    rewards = [[0, 0], [1, 0], [1, 1]]
    group = make_group(rewards)
    parts = (ScriptedEngine(group), ScriptedVerifier(rewards), FailureGate(1), ReplaceWorst(), GroupNormalised())
    experience = collect(Hapo(2, *parts, TokenMean()), make_prompts(group, [1, 1, 1]))
    labels = ("4-digit", "5-digit", "Number Theory")
    tallies = reward_tallies(experience, ("4-digit", "4-digit", "5-digit"), labels)
    assert [tally.tolist() for tally in tallies.values()] == [[1, 4], [2, 2], [0, 0]]
    alone = over_ranks(tallies, ALONE, torch.device("cpu"))
    assert alone == {"reward/4-digit": 0.25, "reward/5-digit": 1.0}  # 0 of nothing is not 0
    theirs = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    ranks = ALONE._replace(gather=lambda own: torch.cat([own, theirs]))
    assert over_ranks(tallies, ranks, torch.device("cpu")) == {**alone, "reward/Number_Theory": 0.75}
    assert reward_tallies(experience, ("4-digit", "4-digit", "else"), ("4-digit",)).keys() == {"reward/4-digit"}
    assert reward_tallies(experience, (), labels) == {}


def test_a_supervised_step_has_no_reward_by_difficulty():
    prompts = make_prompts(make_group([[0], [0]]), [1, 1])
    assert reward_tallies(collect(Supervised(TokenMean()), prompts), ("a", "b"), ("a", "b")) == {}


def test_gradient_share_by_hand():
    """∂loss/∂log π = 2, −1 on the policy's row and 3, 0 on the teacher's: 3 of 6; a second micro-batch adds its own."""
    logprobs = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    share = GradientShare()
    share.watch(logprobs, torch.tensor([False, True]))
    assert share.seen() == {}  # before a backward pass
    (logprobs * torch.tensor([[2.0, -1.0], [3.0, 0.0]])).sum().backward()
    assert logprobs.grad.tolist() == [[2, -1], [3, 0]]
    share.watch(other := torch.zeros(1, 2, requires_grad=True), torch.tensor([True]))
    (4 * other).sum().backward()
    assert share.seen()["teacher/gradient_share"].tolist() == [3 + 8, 6 + 8]
    assert share.seen() == {}  # told once
    share.watch(logprobs.detach(), torch.tensor([False, True]))  # as where the policy is only scored

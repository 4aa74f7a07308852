from dataclasses import replace

import pytest
import torch
from support.builders import ScriptedEngine, ScriptedVerifier, make_group, make_prompts

from hapo_lit.advantages import GroupCentred, GroupNormalised
from hapo_lit.algorithm import Hapo, Supervised
from hapo_lit.gates import AlwaysGate, BetaGate, FailureGate, Memory, NeverGate
from hapo_lit.injectors import NoInjection, ReplaceSlot, ReplaceWorst
from hapo_lit.protocols import ALONE, Algorithm
from hapo_lit.schedules import Linear
from hapo_lit.weighting import SeparateMeans, TokenMean


def hapo(rewards, gate, injector=None, size=None, advantage=None):
    return Hapo(
        group_size=size or len(rewards[0]),
        engine=ScriptedEngine(make_group(rewards)),
        verifier=ScriptedVerifier(rewards),
        gate=gate,
        injector=injector or ReplaceWorst(),
        advantage=advantage or GroupNormalised(eps=0.0),
        weighting=TokenMean(),
    )


def collect(algorithm, prompts, ranks=ALONE):
    """The page runs with lambdas."""
    return algorithm.collect(
        prompts,
        step=0,
        decode=lambda group: [""] * group.rewards.numel(),
        ranks=ranks,
    )


def test_algorithm_one_by_hand():
    rewards = [[0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    algorithm = hapo(rewards, BetaGate(0.2))
    assert isinstance(algorithm, Algorithm)
    experience = collect(algorithm, make_prompts(make_group(rewards), [1, 1, 1]))
    # c = 1/6, 5/6, 2/6 against 0.2: only the first group is helped
    assert experience.decision.open.tolist() == [True, False, False]
    assert experience.decision.confidence.tolist() == pytest.approx([1 / 6, 5 / 6, 2 / 6])
    assert experience.rollouts.rewards.tolist() == rewards
    assert experience.group.rewards.tolist() == [[1, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    assert experience.group.is_teacher.int().tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert experience.advantages.tolist() == [
        pytest.approx(row) for row in ([1.5, -0.5, -0.5, -0.5], [0] * 4, [1.5, -0.5, -0.5, -0.5])
    ]
    assert float(experience.token_weights.sum()) == pytest.approx(1.0)


def test_the_gate_learns_from_the_policys_answers_before_it_decides():
    seen = []

    class Witness(BetaGate):
        def observe(self, prompt_ids, successes, trials):
            seen.append(("observe", successes.tolist(), trials.tolist()))
            super().observe(prompt_ids, successes, trials)

        def __call__(self, prompt_ids, rewards):
            seen.append(("decide",))
            return super().__call__(prompt_ids, rewards)

    rewards = [[0, 0], [1, 0]]
    collect(hapo(rewards, Witness(0.6)), make_prompts(make_group(rewards), [1, 1]))
    assert seen == [("observe", [0, 1], [2, 2]), ("decide",)]


def test_counts_are_gathered_over_ranks_before_the_gate_learns_them():
    rewards = [[0, 0], [1, 0]]
    gate = BetaGate(0.5, memory=Memory(1.0))
    both = ALONE._replace(gather=lambda values: torch.cat([values, values]))
    collect(hapo(rewards, gate), make_prompts(make_group(rewards), [1, 1]), both)
    assert gate.state_dict()["counts"].tolist() == [[0, 4], [2, 2]]


def test_a_rejected_teacher_is_never_injected_even_by_an_open_gate():
    rewards = [[0, 0], [0, 0]]
    experience = collect(hapo(rewards, AlwaysGate()), make_prompts(make_group(rewards), [0, 1]))
    assert experience.group.is_teacher.any(1).tolist() == [False, True]
    assert (experience.advantages[0] == 0).all()


def test_a_gate_that_never_opens_is_the_algorithm_without_a_teacher_bit_for_bit():
    rewards = [[0, 1, 0], [0, 0, 0]]
    prompts = make_prompts(make_group(rewards), [1, 1])
    closed = collect(hapo(rewards, NeverGate(), ReplaceWorst()), prompts)
    without = collect(hapo(rewards, AlwaysGate(), NoInjection()), prompts)
    assert torch.equal(closed.advantages, without.advantages)
    assert torch.equal(closed.token_weights, without.token_weights)
    assert torch.equal(closed.group.tokens, without.group.tokens)


def test_a_fixed_slot_samples_one_response_less():
    rewards = [[1, 0, 0]]
    experience = collect(
        hapo(rewards, AlwaysGate(), ReplaceSlot(), 4, GroupCentred()), make_prompts(make_group(rewards), [1])
    )
    assert experience.rollouts.rewards.shape == (1, 3)
    assert experience.advantages.tolist() == [[0.5, -0.5, -0.5, 0.5]]


def test_luffy_without_a_teacher_is_its_base_with_one_rollout_less_bit_for_bit():
    rewards = [[1, 0, 0], [0, 0, 0], [1, 1, 0]]
    prompts = make_prompts(make_group(rewards), [0, 0, 0])
    luffy = collect(hapo(rewards, AlwaysGate(), ReplaceSlot(), 4, GroupCentred()), prompts)
    base = collect(hapo(rewards, NeverGate(), NoInjection(), 3, GroupCentred()), prompts)
    assert not luffy.group.present[:, 3].any()
    assert torch.equal(luffy.advantages[:, :3], base.advantages)
    assert (luffy.advantages[:, 3] == 0).all()
    assert torch.equal(luffy.token_weights[:, :3], base.token_weights)
    assert (luffy.token_weights[:, 3] == 0).all()


@pytest.mark.parametrize(("size", "injector"), [(1, NoInjection()), (1, ReplaceWorst()), (1, ReplaceSlot())])
def test_a_group_of_one_is_refused(size, injector):
    with pytest.raises(ValueError, match=f"group_size={size} leaves nothing to compare.*set group_size to 2"):
        Hapo(size, None, None, NeverGate(), injector, GroupNormalised(), TokenMean())


def test_supervised_learning_samples_nothing_and_drops_unusable_teachers():
    prompts = make_prompts(make_group([[0], [0], [0]]), [1, 0, 1])
    experience = collect(Supervised(TokenMean()), prompts)
    assert experience.rollouts is None
    assert experience.group.present[:, 0].tolist() == [True, False, True]
    assert experience.advantages[:, 0].tolist() == [1, 0, 1]
    assert float(experience.token_weights.sum()) == pytest.approx(1.0)
    assert (experience.token_weights[1] == 0).all()
    assert experience.rows().is_teacher.tolist() == [True, False, True]


def test_an_algorithm_says_what_it_is_made_of():
    algorithm, supervised = hapo([[0, 0, 0]], NeverGate(), ReplaceSlot(), size=4), Supervised(TokenMean())
    assert algorithm.rollouts_per_prompt == 3  # the fourth row is the teacher's
    assert supervised.rollouts_per_prompt == 0
    assert isinstance(supervised, Algorithm)
    assert [supervised.engine, supervised.gate, supervised.injector] == [None] * 3
    algorithm.sleep()
    algorithm.close()
    assert algorithm.engine.asleep
    assert algorithm.engine.closed
    supervised.sleep()
    supervised.close()


def test_without_its_teacher_a_batch_is_credited_as_if_the_gate_had_stayed_closed():
    rewards = [[0, 1, 0], [0, 0, 0]]
    prompts = make_prompts(make_group(rewards), [1, 1])
    weighting = SeparateMeans(TokenMean(), TokenMean(), Linear(1.0, 0.0), 1.0, horizon=4)

    def at_step_three(gate):
        algorithm = hapo(rewards, gate)
        algorithm.weighting = weighting
        experience = algorithm.collect(prompts, 3, lambda group: [""] * group.rewards.numel(), ALONE)
        return algorithm, experience, algorithm.without_teacher(experience, ALONE)

    _, plain, _ = at_step_three(NeverGate())
    _, helped, without = at_step_three(AlwaysGate())
    assert helped.group.is_teacher.any()
    assert not torch.equal(helped.advantages, without.advantages)
    for name in ("advantages", "token_weights"):
        assert torch.equal(getattr(without, name), getattr(plain, name))
    assert torch.equal(without.group.tokens, plain.group.tokens)
    assert without.step == 3
    assert float(without.token_weights.sum()) == pytest.approx(0.25)
    assert Supervised(TokenMean()).without_teacher(helped, ALONE) is None


@pytest.mark.parametrize("is_trainer", [True, False])
def test_log_probabilities_of_an_engine_count_only_if_it_is_not_the_trainer(is_trainer):
    rewards = [[0, 1], [1, 0]]
    algorithm = hapo(rewards, NeverGate())
    algorithm.engine = ScriptedEngine(make_group(rewards), is_trainer)
    experience = collect(algorithm, make_prompts(make_group(rewards), [1, 1]))
    assert (experience.behaviour_logprobs is None) == is_trainer
    assert (experience.rows().behaviour_logprobs is None) == is_trainer
    assert experience.rollouts.behaviour_logprobs is not None


class FormCounts(ScriptedVerifier):
    """0.1 for the form, 1 for the answer, both for both: rewards are graded, and the answer alone is a success."""

    def __call__(self, responses, answers):
        rewards = super().__call__(responses, answers)
        return rewards, rewards >= 1


def test_gate_and_injector_see_successes_and_advantages_see_rewards():
    """Paid for its form alone no group is right: both are helped, and the worst failure makes room."""
    rewards = [[0.1, 0.1, 0.0], [1.1, 0.1, 1.0]]
    seen = []

    class Witness(FailureGate):
        def observe(self, prompt_ids, successes, trials):
            seen.append(successes.tolist())

        def __call__(self, prompt_ids, successes):
            seen.append(successes.tolist())
            return super().__call__(prompt_ids, successes)

    algorithm = hapo(rewards, Witness(), advantage=GroupCentred())
    algorithm.verifier = FormCounts(rewards)
    experience = collect(algorithm, make_prompts(make_group(rewards), [1.1, 1.1]))
    assert seen == [[0, 2], [[0, 0, 0], [1, 0, 1]]]
    assert experience.decision.open.tolist() == [True, False]
    assert not experience.teacher_usable.any()  # made by hand without saying so, and 1.1 is not exactly 1
    assert experience.group.rewards.flatten().tolist() == pytest.approx([0.1, 0.1, 0.0, 1.1, 0.1, 1.0])
    assert experience.advantages[1].tolist() == pytest.approx([1.1 - 2.2 / 3, 0.1 - 2.2 / 3, 1.0 - 2.2 / 3])
    prompts = replace(make_prompts(make_group(rewards), [1.1, 1.1]), teacher_usable=torch.tensor([True, True]))
    experience = collect(algorithm, prompts)
    assert experience.group.is_teacher.tolist() == [[False, False, True], [False, False, False]]
    assert experience.group.rewards[0].tolist() == pytest.approx([0.1, 0.1, 1.1])
    assert experience.group.successes.tolist() == [[False, False, True], [True, False, True]]
    supervised = collect(Supervised(TokenMean()), replace(prompts, teacher_usable=torch.tensor([True, False])))
    assert supervised.group.present[:, 0].tolist() == [True, False]

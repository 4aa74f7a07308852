import pytest

from hapo_lit.advantages import GroupNormalised
from hapo_lit.algorithm import Hapo, Supervised
from hapo_lit.errors import ResumeError
from hapo_lit.gates import NeverGate
from hapo_lit.injectors import ReplaceGroup, ReplaceWorst
from hapo_lit.losses import Surrogate
from hapo_lit.schedules import Constant, Linear
from hapo_lit.teacher import NegativeLogLikelihood, UnitRatio
from hapo_lit.training.phases import Phase, Phases
from hapo_lit.weighting import TokenMean


def phase(steps=None, rate=None, fresh=True):
    return Phase(
        Supervised(TokenMean()),
        loss=Surrogate(NegativeLogLikelihood()),
        learning_rate=rate or Constant(1.0),
        steps=steps,
        fresh_optimizer=fresh,
    )


def test_phases_follow_one_another_each_with_its_own_schedule():
    first, second = phase(4, Linear(1.0, 0.0)), phase(rate=Linear(10.0, 0.0))
    phases = Phases(14, {"first": first, "second": second})
    assert [phases.at(step) for step in (0, 3, 4, 13)] == [first, first, second, second]
    assert [phases.learning_rate(step) for step in (0, 1, 3, 4, 5, 13)] == pytest.approx([1, 0.75, 0.25, 10, 9, 1])
    assert [step for step in range(14) if phases.begins_fresh(step)] == [4]


def test_an_optimiser_may_go_on_across_phases():
    phases = Phases(10, {"first": phase(4), "second": phase(fresh=False)})
    assert not any(phases.begins_fresh(step) for step in range(10))


@pytest.mark.parametrize("budgets", [(4,), (4, 4), (10, None), (12, None), (None, 4), (None, None), ()], ids=str)
def test_budgets_that_do_not_add_up_are_refused(budgets):
    with pytest.raises(ValueError, match="do not add up to steps=10"):
        Phases(10, {str(index): phase(steps) for index, steps in enumerate(budgets)})


@pytest.mark.parametrize("steps", ["ten", 0, 1.5])
def test_steps_must_be_a_count(steps):
    with pytest.raises(ValueError, match="whole number"):
        Phases(steps, {"only": phase()})


def test_state_of_another_sequence_is_refused():
    phases = Phases(10, {"first": phase(4), "second": phase()})
    phases.load_state_dict(phases.state_dict())
    for other in (Phases(10, {"only": phase()}), Phases(12, {"first": phase(4), "second": phase()})):
        with pytest.raises(ResumeError, match=r"begin and end at steps .* this one at \[0, 4, 10\]"):
            phases.load_state_dict(other.state_dict())


def test_a_teacher_alone_in_its_group_needs_a_term_without_advantage():
    def pair(injector, teacher):
        algorithm = Hapo(4, None, None, NeverGate(), injector, GroupNormalised(), TokenMean())
        return Phase(algorithm, Surrogate(teacher), Constant(1.0))

    pair(ReplaceGroup(), NegativeLogLikelihood())
    pair(ReplaceWorst(), UnitRatio())
    with pytest.raises(ValueError, match=r"UnitRatio weighs a teacher by its advantage.*set teacher=nll"):
        pair(ReplaceGroup(), UnitRatio())

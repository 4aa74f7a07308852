import pytest

from hapo_lit.advantages import GroupNormalised
from hapo_lit.algorithm import Hapo, Supervised
from hapo_lit.errors import PartError, ResumeError
from hapo_lit.gates import BetaGate, NeverGate
from hapo_lit.injectors import ReplaceGroup, ReplaceWorst
from hapo_lit.losses import Surrogate
from hapo_lit.schedules import Constant, Linear, Step
from hapo_lit.teacher import NegativeLogLikelihood, UnitRatio
from hapo_lit.training.phases import Phase, Phases
from hapo_lit.weighting import TokenMean


def phase(steps=None, rate=None, fresh=True, rate_steps=None):
    return Phase(
        Supervised(TokenMean()),
        loss=Surrogate(NegativeLogLikelihood()),
        learning_rate=rate or Constant(1.0),
        steps=steps,
        fresh_optimizer=fresh,
        learning_rate_steps=rate_steps,
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
    for other in (Phases(10, {"only": phase()}), Phases(10, {"first": phase(5), "second": phase()})):
        with pytest.raises(ResumeError, match=r"begin at steps .* this one at \[0, 4\]"):
            phases.load_state_dict(other.state_dict())


def test_a_teacher_alone_in_its_group_needs_a_term_without_advantage():
    def pair(injector, teacher):
        algorithm = Hapo(4, None, None, NeverGate(), injector, GroupNormalised(), TokenMean())
        return Phase(algorithm, Surrogate(teacher), Constant(1.0))

    pair(ReplaceGroup(), NegativeLogLikelihood())
    pair(ReplaceWorst(), UnitRatio())
    with pytest.raises(ValueError, match=r"UnitRatio weighs a teacher by its advantage.*set teacher=nll"):
        pair(ReplaceGroup(), UnitRatio())


# -- a run of another length


def gated(threshold, horizon):
    gate = BetaGate(threshold=threshold, horizon=horizon, seed=0)
    algorithm = Hapo(4, None, None, gate, ReplaceWorst(), GroupNormalised(), TokenMean())
    return Phase(algorithm, loss=Surrogate(UnitRatio()), learning_rate=Constant(1.0))


@pytest.mark.parametrize("rate", [Constant(1e-6), Step(1e-6, 1e-7, at=0.9)])
def test_a_run_may_become_longer_where_it_would_have_been_the_same(rate):
    """The step that comes later in the longer run had not come in the shorter one."""
    Phases(20, {"only": phase(rate=rate)}).check_length(then=10, done=9)
    Phases(20, {"first": phase(4, Linear(1.0, 0.0)), "second": phase(rate=rate)}).check_length(then=10, done=9)


def test_a_schedule_over_steps_of_its_own_is_no_hindrance():
    longer = phase(rate=Linear(1.0, 0.0), rate_steps=8)
    phases = Phases(20, {"only": longer})
    assert [phases.learning_rate(step) for step in (0, 4, 8, 19)] == [1.0, 0.5, 0.0, 0.0]
    phases.check_length(then=10, done=10)


def test_a_learning_rate_that_would_have_been_another_is_named_with_its_values():
    said = (
        "steps changed from 10 to 20, over which the learning rate runs: at step 2 it was 0.9 and would have been 0.95"
    )
    with pytest.raises(ResumeError, match=said):
        Phases(20, {"only": phase(rate=Linear(1.0, 0.0))}).check_length(then=10, done=5)
    Phases(20, {"only": phase(rate=Linear(1.0, 0.0))}).check_length(then=10, done=1)  # the first step is the same


def test_so_is_any_other_schedule_over_the_run():
    with pytest.raises(
        ResumeError, match=r"over which gate.threshold runs: it would have had other values; resume with"
    ):
        Phases(20, {"only": gated(Linear(0.8, 0.2), 20)}).check_length(then=10, done=5)
    Phases(20, {"only": gated(Linear(0.8, 0.2), 7)}).check_length(then=10, done=5)
    Phases(20, {"only": gated(0.3, 20)}).check_length(then=10, done=5)


@pytest.mark.parametrize("steps", [0, 2.5, "all"])
def test_the_steps_of_a_learning_rate_must_be_a_count(steps):
    with pytest.raises(ValueError, match="learning_rate_steps must be a whole number"):
        phase(rate_steps=steps)


@pytest.mark.parametrize("rate", [Linear(1e-3, -1e-3), lambda progress: float("nan") if progress else 1e-3])
def test_no_learning_rate_of_a_run_is_below_0_or_no_number(rate):
    with pytest.raises(PartError, match=r"learning_rate: .* gives .* at step \d of 4, and a rate is a finite number"):
        Phases(4, {"whole": phase(rate=rate)})

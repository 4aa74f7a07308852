from math import inf, log, nan

import pytest
import torch
from support.builders import make_rows

from hapo_lit.protocols import TeacherTerm
from hapo_lit.schedules import Linear
from hapo_lit.teacher import (
    ClippedRatio,
    ConfidenceWeighted,
    Literal,
    MixedPolicyRatio,
    NegativeLogLikelihood,
    Phi,
    ShapedRatio,
    UnitRatio,
)

TERMS = {
    "unit": UnitRatio,
    "shaped": ShapedRatio,
    "literal": Literal,
    "confidence": lambda: ConfidenceWeighted(Literal()),
    "confidence_shaped": lambda: ConfidenceWeighted(ShapedRatio()),
    "clipped": ClippedRatio,
    "nll": lambda: NegativeLogLikelihood(0.5),
    "nll_scheduled": lambda: NegativeLogLikelihood(Linear(1.0, 0.0), horizon=10),
    "phi": Phi,
    "mixed_policy": MixedPolicyRatio,
}
every_term = pytest.mark.parametrize("make", TERMS.values(), ids=TERMS.keys())


def weight(term, probability, advantage=1.0, **settings):
    """d value / d log π at one token, and the value."""
    logprob = torch.tensor([[probability]], dtype=torch.float64).log().requires_grad_()
    value = term(logprob, make_rows([advantage], is_teacher=[True], **settings))
    (gradient,) = torch.autograd.grad(value.sum(), logprob)
    return float(gradient), float(value.detach())


@every_term
@pytest.mark.parametrize("scored", [True, False])
def test_contract(make, scored):
    term = make()
    assert isinstance(term, TeacherTerm)
    logprobs = -torch.rand(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    before = logprobs.clone()
    logprobs.requires_grad_()
    old = (before + 0.05).clamp(max=0).flatten().tolist() if scored else None
    value = term(logprobs, make_rows([1.0, 0.0, -2.0], old=old, is_teacher=[True] * 3, width=5, step=3))
    assert value.shape == (3, 5)
    assert torch.equal(logprobs.detach(), before)
    (gradient,) = torch.autograd.grad(value.sum(), logprobs)
    assert gradient.isfinite().all()
    if term.needs_advantage:
        assert (gradient[1] == 0).all()
    else:
        assert (gradient[1] != 0).all()


@every_term
def test_certain_and_impossible_tokens_stay_finite(make):
    logprobs = torch.tensor([[0.0, -900.0]], dtype=torch.float64, requires_grad=True)
    value = make()(logprobs, make_rows([1.0], is_teacher=[True], width=2))
    (gradient,) = torch.autograd.grad(value.sum(), logprobs)
    assert value.isfinite().all()
    assert gradient.isfinite().all()


def test_unit_ratio_weighs_every_token_by_the_advantage():
    for probability in (1e-6, 0.1, 1.0):
        assert weight(UnitRatio(), probability, 1.5) == pytest.approx((1.5, 1.5))


@pytest.mark.parametrize("probability", [1e-6, 0.01, 0.1, 0.5, 1.0])
def test_shaping_weight_is_s_pi_over_pi_plus_s_squared(probability):
    gradient, value = weight(ShapedRatio(0.1), probability, 2.0)
    assert gradient == pytest.approx(2 * 0.1 * probability / (probability + 0.1) ** 2)
    assert value == pytest.approx(2 * probability / (probability + 0.1))


def test_shaping_peaks_at_its_shape_and_vanishes_for_rare_tokens():
    assert weight(ShapedRatio(0.1), 0.1)[0] == pytest.approx(0.25)
    assert weight(ShapedRatio(0.1), 1.0)[0] == pytest.approx(0.083, abs=5e-4)
    assert weight(ShapedRatio(0.1), 1e-4)[0] == pytest.approx(1e-4 / 0.1, rel=2e-2)


@pytest.mark.parametrize("probability", [0.01, 0.3, 0.9])
def test_shaping_has_two_limits(probability):
    # s → 0: π/(π+s) → 1, and its gradient times π/s → 1, so that  (π/s) · weight  is the unit ratio's
    assert weight(ShapedRatio(1e-9), probability)[0] * probability / 1e-9 == pytest.approx(1.0, rel=1e-6)
    # s → ∞: s · π/(π+s) → π, the identity: importance weighting of a teacher that was certain
    gradient, value = weight(ShapedRatio(1e9), probability)
    assert (gradient * 1e9, value * 1e9) == (pytest.approx(probability), pytest.approx(probability))


def test_literal_is_shaping_without_the_advantage():
    assert weight(Literal(0.1), 0.3, advantage=-7.0) == weight(ShapedRatio(0.1), 0.3, advantage=1.0)


def test_confidence_fades_the_teacher_as_the_gate_gains_trust():
    plain = weight(ShapedRatio(), 0.3, 2.0)
    for confidence in (0.0, 0.2, 1.0):
        found = weight(ConfidenceWeighted(ShapedRatio()), 0.3, 2.0, confidence=confidence)
        assert found == pytest.approx([(1 - confidence) * value for value in plain])


@pytest.mark.parametrize(
    ("probability", "advantage", "value", "gradient"),
    [(0.2, 1.0, 1.0, 1.0), (0.3, 1.0, 1.2, 0.0), (0.1, -1.0, -0.8, 0.0), (0.4, -1.0, -2.0, -2.0)],
)
def test_clipped_ratio_is_ppo(probability, advantage, value, gradient):
    assert weight(ClippedRatio(), probability, advantage, old=[log(0.2)]) == pytest.approx((gradient, value))


def test_clipped_ratio_on_policy_is_the_unit_ratio():
    assert weight(ClippedRatio(), 0.3, -2.0) == weight(UnitRatio(), 0.3, -2.0)


def test_nll_ignores_the_advantage_and_may_follow_a_schedule():
    assert weight(NegativeLogLikelihood(0.5), 0.25, -3.0)[0] == 0.5
    scheduled = NegativeLogLikelihood(Linear(1.0, 0.0), horizon=10)
    assert [weight(scheduled, 0.25, step=step)[0] for step in (0, 5, 10, 99)] == [1.0, 0.5, 0.0, 0.0]
    with pytest.raises(ValueError, match=r"teacher.coefficient is a schedule and needs a horizon"):
        NegativeLogLikelihood(Linear(1.0, 0.0))


@pytest.mark.parametrize("probability", [1e-6, 0.1, 0.5, 0.9, 1.0])
def test_phi_weighs_by_p_one_minus_p(probability):
    assert weight(Phi(0.1), probability, -3.0)[0] == pytest.approx(0.1 * probability * (1 - probability))


@pytest.mark.parametrize("probability", [1e-6, 0.1, 0.9])
def test_mixed_policy_ratio_by_hand(probability):
    # on-policy: 2π/(π + (π+1)/2) = 4π/(3π+1); the denominator and (1 − π)^½ have no gradient
    expected = 1.5 * (1 - probability) ** 0.5 * 4 * probability / (3 * probability + 1)
    assert weight(MixedPolicyRatio(), probability, 1.5) == pytest.approx((expected, expected))
    old = 0.3
    moved = (1 - probability) ** 0.5 * 2 * probability / (old + (old + 1) / 2)
    assert weight(MixedPolicyRatio(), probability, old=[log(old)]) == pytest.approx((moved, moved))


def test_gradcheck():
    logprobs = (-torch.rand(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).requires_grad_()
    rows = make_rows([1.5, 1.5], old=[-0.5] * 6, is_teacher=[True] * 2, width=3)
    for term in (ShapedRatio(), Literal(), NegativeLogLikelihood(), ClippedRatio(), ConfidenceWeighted(ShapedRatio())):
        assert torch.autograd.gradcheck(lambda x, term=term: term(x, rows), logprobs)


def test_nonsense_is_refused():
    for make in (ShapedRatio, Literal):
        for shape in (0.0, nan, inf):
            with pytest.raises(ValueError, match="shape must be a number above 0 and finite"):
                make(shape)
    for make in (MixedPolicyRatio, ClippedRatio, NegativeLogLikelihood, Phi):
        for value in (-1.0, nan):
            with pytest.raises(ValueError, match=r"negative|finite"):
                make(value)

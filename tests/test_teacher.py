import pytest
import torch

from hapo_lit.protocols import TeacherTerm
from hapo_lit.teacher import NegativeLogLikelihood, ShapedRatio, UnitRatio

TERMS = {"unit": UnitRatio, "shaped": ShapedRatio, "nll": lambda: NegativeLogLikelihood(0.5)}
every_term = pytest.mark.parametrize("make", TERMS.values(), ids=TERMS.keys())


def weight(term, probability, advantage=1.0):
    """d value / d log π at one token, and the value."""
    logprob = torch.tensor([[probability]], dtype=torch.float64).log().requires_grad_()
    value = term(logprob, torch.tensor([[advantage]], dtype=torch.float64), torch.tensor([[0.5]], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(value.sum(), logprob)
    return float(gradient), float(value.detach())


@every_term
def test_contract(make):
    term = make()
    assert isinstance(term, TeacherTerm)
    logprobs = torch.randn(3, 5, dtype=torch.float64).clamp(max=0).requires_grad_()
    advantages = torch.tensor([[1.0], [0.0], [-2.0]], dtype=torch.float64)
    confidence = torch.full((3, 1), 0.3, dtype=torch.float64)
    value = term(logprobs, advantages, confidence)
    assert value.shape == (3, 5)
    (gradient,) = torch.autograd.grad(value.sum(), logprobs)
    assert gradient.isfinite().all()
    if term.needs_advantage:
        assert (gradient[1] == 0).all()
    else:
        assert (gradient[1] != 0).all()


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


def test_nll_ignores_the_advantage():
    assert weight(NegativeLogLikelihood(0.5), 0.25, -3.0)[0] == 0.5


def test_gradcheck():
    logprobs = torch.randn(2, 3, dtype=torch.float64).clamp(max=0).requires_grad_()
    ones = torch.ones(2, 1, dtype=torch.float64)
    for term in (ShapedRatio(), NegativeLogLikelihood()):
        assert torch.autograd.gradcheck(lambda x, term=term: term(x, 1.5 * ones, ones), logprobs)


def test_shape_must_be_positive():
    with pytest.raises(ValueError, match="positive"):
        ShapedRatio(0.0)

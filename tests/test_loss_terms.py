"""The terms that a loss may have besides the surrogate: corrections for the engine, KL, entropy."""

from math import log

import pytest
import torch
from support.builders import make_rows
from support.losses import apply, logprobs_of, value_and_gradient

from hapo_lit.losses import Masked, Surrogate, Truncated, k1, k2, k3, k3_reweighted, sequence_product
from hapo_lit.teacher import UnitRatio

# -- correction for the engine


@pytest.mark.parametrize(
    ("correction", "factors"),
    [  # π_old/π_engine: 2.5 and 0.4 in the first row, 1.5 and 1.2 in the second
        (Truncated(2.0), [[2.0, 0.4], [1.5, 1.2]]),
        (Truncated(1.3, sequence_product), [[1.0, 1.0], [1.3, 1.3]]),
        (Masked(0.5, 2.0), [[0.0, 0.0], [1.5, 1.2]]),
        (Masked(0.5, 1.6, sequence_product), [[1.0, 1.0], [0.0, 0.0]]),
    ],
)
def test_corrections_by_hand(correction, factors):
    old = torch.tensor([[0.5, 0.2], [0.3, 0.6]], dtype=torch.float64).log()
    engine = torch.tensor([[0.2, 0.5], [0.2, 0.5]], dtype=torch.float64).log()
    mask = torch.ones(2, 2, dtype=torch.bool)
    assert correction(old - engine, mask).tolist() == [pytest.approx(row) for row in factors]
    logprobs = old.clone().requires_grad_()
    rows = make_rows([1.0, -1.0], behaviour=engine.flatten().tolist(), width=2)
    output = apply(Surrogate(UnitRatio(), correction=correction), logprobs, rows)
    (gradient,) = torch.autograd.grad(output.loss, logprobs)
    assert gradient.tolist() == [  # the factor itself has no gradient
        pytest.approx([-sign * factor / 4 for factor in row]) for sign, row in zip((1, -1), factors, strict=True)
    ]
    assert output.metrics["loss/correction"].tolist() == [pytest.approx(sum(map(sum, factors))), 4]


def test_a_correction_needs_an_engine_that_reports_and_spares_the_teacher():
    loss = Surrogate(UnitRatio(), correction=Truncated(2.0))
    plain = apply(loss, logprobs_of([0.5, 0.5]), make_rows([1.0, 1.0]))
    assert float(plain.loss.detach()) == -1.0
    assert "loss/correction" not in plain.metrics
    taught = apply(
        loss, logprobs_of([0.5, 0.5]), make_rows([1.0, 1.0], behaviour=[log(0.01), 0.0], is_teacher=[False, True])
    )
    assert float(taught.loss.detach()) == -(2.0 + 1.0) / 2
    assert taught.metrics["loss/engine_gap"].tolist() == [pytest.approx(log(50)), 1]
    believed = Surrogate(UnitRatio(), correction=None)
    assert float(apply(believed, logprobs_of([0.5]), make_rows([1.0], behaviour=[log(0.01)])).loss.detach()) == -1.0


# -- KL and entropy


def test_kl_on_a_teacher_token_of_vanishing_probability_leaves_gradients_finite():
    logprobs = torch.tensor([[-900.0], [-1.0]], dtype=torch.float64, requires_grad=True)
    rows = make_rows([1.0, 1.0], reference=[-1.0, -1.5], is_teacher=[True, False])
    assert value_and_gradient(Surrogate(UnitRatio(), kl_coefficient=0.1), logprobs, rows)[1].isfinite().all()


@pytest.mark.parametrize("kl", [k3, k3_reweighted])
@pytest.mark.parametrize("gap", [9.9, 40.0, 89.0, -40.0])
def test_one_token_far_from_the_reference_is_neither_the_loss_nor_the_gradient(kl, gap):
    """One of a thousand tokens with π_ref/π = e^gap at β = .001; unbounded, 40 nats gave 2.4e11, and 89 infinity."""
    count = 1000
    reference = torch.full((1, count), -1.0)
    reference[0, 7] += gap
    rows = make_rows([1.0], weights=[1 / count] * count, width=count)
    rows = rows._replace(reference_logprobs=reference, token_weights=rows.token_weights.float())
    logprobs = torch.full((1, count), -1.0, requires_grad=True)
    output = apply(Surrogate(UnitRatio(), kl_coefficient=1e-3, kl=kl), logprobs, rows)
    (gradient,) = torch.autograd.grad(output.loss, logprobs)
    assert float(output.loss.detach()) == pytest.approx(-1, abs=0.03)
    assert float(gradient[0, 7].abs() / gradient[0].norm()) < 0.6
    assert output.metrics["loss/kl_bounded"].tolist() == [float(gap > 10), count]
    if gap < 0:  # a policy that has strayed from its reference is still drawn back
        assert float(gradient[0, 7]) > float(gradient[0, 8])


@pytest.mark.parametrize(("gap", "bounded"), [(19.0, 0.0), (21.0, 1.0), (-21.0, 1.0)])
def test_the_share_of_ratios_that_are_bounded_is_logged(gap, bounded):
    logprobs = torch.tensor([[-30.0], [-1.0]], dtype=torch.float64, requires_grad=True)
    output = apply(Surrogate(UnitRatio()), logprobs, make_rows([1.0, 1.0], old=[-30.0 - gap, -1.0]))
    assert output.metrics["loss/ratio_bounded"].tolist() == [bounded, 2]


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [(k1, log(0.5 / 0.25)), (k2, 0.5 * log(2) ** 2), (k3, 0.5 - 1 + log(2))],
)
def test_kl_estimators_by_hand(estimator, expected):
    # π = 0.5, π_ref = 0.25
    assert float(estimator(*torch.tensor([log(0.5), log(0.25), 2.0]))) == pytest.approx(expected)


def test_kl_estimators_average_to_kl():
    p, q = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.3, 0.5]).double()
    kl, one = float((p * (p / q).log()).sum()), torch.ones(3)
    for estimator in (k1, k3, k3_reweighted):
        assert float((p * estimator(p.log(), q.log(), one)).sum()) == pytest.approx(kl)
    assert (k3(p.log(), q.log(), one) >= 0).all()


def test_the_reweighted_estimator_has_the_gradient_of_kl():
    """Expectation under the sampling policy of ∇(ρ k3) is ∇KL, also off-policy; that of ∇k3 is not."""
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    q, old = torch.tensor([0.2, 0.3, 0.5]).double(), torch.tensor([0.4, 0.4, 0.2]).double()
    logprobs = logits.log_softmax(0)
    exact = torch.autograd.grad((logprobs.exp() * (logprobs - q.log())).sum(), logits, retain_graph=True)[0]
    found = {}
    for estimator in (k3, k3_reweighted):
        value = (old * estimator(logprobs, q.log(), (logprobs - old.log()).exp())).sum()
        found[estimator] = torch.autograd.grad(value, logits, retain_graph=True)[0]
    torch.testing.assert_close(found[k3_reweighted], exact)
    assert not torch.allclose(found[k3], exact, atol=1e-2)


def test_kl_is_added_on_policy_tokens_only():
    loss = Surrogate(UnitRatio(), kl_coefficient=0.1, kl=k2)
    rows = make_rows([0.0, 0.0], reference=[log(0.25), log(0.25)], is_teacher=[False, True])
    output = apply(loss, logprobs_of([0.5, 0.5]), rows)
    assert float(output.loss.detach()) == pytest.approx(0.1 * 0.5 * 0.5 * log(2) ** 2)
    total, count = output.metrics["loss/kl"].tolist()
    assert (total, count) == (pytest.approx(0.5 * log(2) ** 2), 1)


def test_the_entropy_bonus_weighs_tokens_as_the_loss_does():
    loss, entropy = Surrogate(UnitRatio(), entropy_coefficient=0.1), torch.tensor([[2.0], [3.0]], dtype=torch.float64)
    output = apply(loss, logprobs_of([0.5, 0.5]), make_rows([0.0, 0.0], weights=[0.25, 0.75]), entropy)
    assert float(output.loss.detach()) == pytest.approx(-0.1 * (0.25 * 2 + 0.75 * 3))
    assert loss.needs_entropy
    assert not Surrogate(UnitRatio()).needs_entropy

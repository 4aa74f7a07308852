from math import log

import pytest
import torch

from hapo_lit.losses import ClippedSurrogate, k1, k2, k3
from hapo_lit.protocols import PolicyLoss
from hapo_lit.teacher import NegativeLogLikelihood, ShapedRatio, UnitRatio
from hapo_lit.types import Rows, Text


def rows(advantages, old=None, reference=None, is_teacher=None, weights=None, width=1):
    count = len(advantages)
    as_rows = lambda value: None if value is None else torch.tensor(value, dtype=torch.float64).reshape(count, width)  # noqa: E731
    mask = torch.ones(count, width, dtype=torch.bool)
    tokens = torch.full((count, width), 5)
    return Rows(
        text=Text(tokens, mask, tokens, mask),
        is_teacher=torch.tensor(is_teacher or [False] * count),
        advantages=torch.tensor(advantages, dtype=torch.float64),
        token_weights=as_rows(weights) if weights else torch.full((count, width), 1 / (count * width)).double(),
        confidence=torch.full((count,), 0.5, dtype=torch.float64),
        old_logprobs=as_rows(old),
        reference_logprobs=as_rows(reference),
    )


def of(values):
    return torch.tensor(values, dtype=torch.float64).log()[:, None].requires_grad_()


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [  # min(ρA, clip(ρ, 0.8, 1.2)A); the gradient in log π is ρA where unclipped, else 0
        (1.0, 1.0, 1.0, 1.0),
        (1.5, 1.0, 1.2, 0.0),
        (0.5, 1.0, 0.5, 0.5),
        (1.5, -1.0, -1.5, -1.5),
        (0.5, -1.0, -0.8, 0.0),
        (1.1, 2.0, 2.2, 2.2),
    ],
)
def test_clipped_surrogate_by_hand(ratio, advantage, value, gradient):
    logprobs = of([0.2 * ratio])
    output = ClippedSurrogate(UnitRatio())(logprobs, rows([advantage], old=[log(0.2)]))
    output.loss.backward()
    assert float(output.loss.detach()) == pytest.approx(-value)
    assert float(logprobs.grad) == pytest.approx(-gradient)


def test_asymmetric_clip():
    loss = ClippedSurrogate(UnitRatio(), clip_low=0.2, clip_high=0.28)
    assert float(loss(of([0.2 * 1.5]), rows([1.0], old=[log(0.2)])).loss.detach()) == pytest.approx(-1.28)
    assert float(loss(of([0.2 * 0.1]), rows([-1.0], old=[log(0.2)])).loss.detach()) == pytest.approx(0.8)


def test_infinite_clip_is_no_clip():
    loss = ClippedSurrogate(UnitRatio(), clip_low=float("inf"), clip_high=float("inf"))
    assert float(loss(of([0.9]), rows([1.0], old=[log(0.1)])).loss.detach()) == pytest.approx(-9.0)


def test_on_policy_gradient_is_the_policy_gradient():
    logprobs = of([0.3, 0.6])
    ClippedSurrogate(UnitRatio())(logprobs, rows([2.0, -1.0], weights=[0.25, 0.5])).loss.backward()
    assert logprobs.grad[:, 0].tolist() == pytest.approx([-2.0 * 0.25, 1.0 * 0.5])


def test_teacher_tokens_are_neither_clipped_nor_compared_with_the_old_policy():
    batch = rows([1.0, 1.0], old=[log(1e-6), log(1e-6)], is_teacher=[True, True])
    output = ClippedSurrogate(ShapedRatio(0.1))(of([0.1, 0.4]), batch)
    assert float(output.loss.detach()) == pytest.approx(-(0.5 * 0.1 / 0.2 + 0.5 * 0.4 / 0.5))
    assert output.metrics["loss/ratio_mean"].tolist() == [0.0, 0.0]


def test_a_teacher_token_of_vanishing_probability_leaves_the_loss_finite():
    logprobs = torch.tensor([[-900.0]], dtype=torch.float64, requires_grad=True)
    output = ClippedSurrogate(UnitRatio())(logprobs, rows([1.0], old=[-1.0], is_teacher=[True]))
    output.loss.backward()
    assert float(output.loss.detach()) == -1.0
    assert logprobs.grad.item() == -1.0


def test_kl_on_a_teacher_token_of_vanishing_probability_leaves_gradients_finite():
    logprobs = torch.tensor([[-900.0], [-1.0]], dtype=torch.float64, requires_grad=True)
    batch = rows([1.0, 1.0], reference=[-1.0, -1.5], is_teacher=[True, False])
    ClippedSurrogate(UnitRatio(), kl_coefficient=0.1)(logprobs, batch).loss.backward()
    assert logprobs.grad.isfinite().all()


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [(k1, log(0.5 / 0.25)), (k2, 0.5 * log(2) ** 2), (k3, 0.5 - 1 + log(2))],
)
def test_kl_estimators_by_hand(estimator, expected):
    # π = 0.5, π_ref = 0.25
    assert float(estimator(torch.tensor(log(0.5)), torch.tensor(log(0.25)))) == pytest.approx(expected)


def test_kl_estimators_average_to_kl():
    p, q = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.3, 0.5]).double()
    kl = float((p * (p / q).log()).sum())
    for estimator in (k1, k3):
        assert float((p * estimator(p.log(), q.log())).sum()) == pytest.approx(kl)
    assert (k3(p.log(), q.log()) >= 0).all()


def test_kl_is_added_on_policy_tokens_only():
    loss = ClippedSurrogate(UnitRatio(), kl_coefficient=0.1, kl=k2)
    batch = rows([0.0, 0.0], reference=[log(0.25), log(0.25)], is_teacher=[False, True])
    output = loss(of([0.5, 0.5]), batch)
    assert float(output.loss.detach()) == pytest.approx(0.1 * 0.5 * 0.5 * log(2) ** 2)
    total, count = output.metrics["loss/kl"].tolist()
    assert (total, count) == (pytest.approx(0.5 * log(2) ** 2), 1)


def test_gradcheck_through_everything():
    batch = rows(
        [1.0, -0.5, 0.7], old=[-1.0, -0.4, -2.0], reference=[-1.1, -0.9, -0.2], is_teacher=[False, False, True]
    )
    loss = ClippedSurrogate(ShapedRatio(), kl_coefficient=0.3)
    logprobs = torch.tensor([[-1.05], [-0.45], [-1.5]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: loss(x, batch).loss, logprobs)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [  # rows: credited rollout, uncredited rollout, uncredited teacher, credited but weightless
        (ClippedSurrogate(UnitRatio()), [True, False, False, False]),
        (ClippedSurrogate(NegativeLogLikelihood()), [True, False, True, False]),
        (ClippedSurrogate(UnitRatio(), kl_coefficient=0.1), [True, True, True, False]),
    ],
)
def test_rows_that_do_not_contribute_have_exactly_no_gradient(loss, expected):
    assert isinstance(loss, PolicyLoss)
    batch = rows(
        [1.0, 0.0, 0.0, 1.0], is_teacher=[False, False, True, False], weights=[0.5, 0.5, 0.5, 0.0], reference=[-1.0] * 4
    )
    assert loss.contributes(batch).tolist() == expected
    logprobs = of([0.5, 0.4, 0.3, 0.2])
    loss(logprobs, batch).loss.backward()
    silent = ~loss.contributes(batch)
    assert (logprobs.grad[silent] == 0).all()


def test_clip_share_counts_tokens_where_the_clip_acts():
    output = ClippedSurrogate(UnitRatio())(of([0.3, 0.1, 0.22]), rows([1.0, 1.0, 1.0], old=[log(0.2)] * 3))
    assert output.metrics["loss/clipped_share"].tolist() == [1.0, 3.0]
    assert output.metrics["loss/ratio_mean"][0] == pytest.approx(1.5 + 0.5 + 1.1)

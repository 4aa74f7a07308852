from math import exp, log

import pytest
import torch
from support.builders import make_rows

from hapo_lit.losses import (
    Cispo,
    Clipped,
    DualClipped,
    Masked,
    Surrogate,
    Truncated,
    Unclipped,
    k1,
    k2,
    k3,
    k3_reweighted,
    sequence_product,
    sequence_ratio,
    token_ratio,
)
from hapo_lit.protocols import PolicyLoss
from hapo_lit.teacher import ClippedRatio, NegativeLogLikelihood, ShapedRatio, UnitRatio


def of(values):
    return torch.tensor(values, dtype=torch.float64).log()[:, None].requires_grad_()


def apply(loss, logprobs, rows, entropy=None):
    return loss(logprobs, torch.zeros_like(logprobs) if entropy is None else entropy, rows)


def value_and_gradient(loss, logprobs, rows):
    output = apply(loss, logprobs, rows)
    (gradient,) = torch.autograd.grad(output.loss, logprobs)
    return float(output.loss.detach()), gradient


# -- clips, by hand


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
def test_clipped_by_hand(ratio, advantage, value, gradient):
    found = value_and_gradient(Surrogate(UnitRatio()), of([0.2 * ratio]), make_rows([advantage], old=[log(0.2)]))
    assert found == (pytest.approx(-value), pytest.approx(-gradient))


def test_asymmetric_clip():
    loss = Surrogate(UnitRatio(), clip=Clipped(low=0.2, high=0.28))
    assert value_and_gradient(loss, of([0.2 * 1.5]), make_rows([1.0], old=[log(0.2)]))[0] == pytest.approx(-1.28)
    assert value_and_gradient(loss, of([0.2 * 0.1]), make_rows([-1.0], old=[log(0.2)]))[0] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (2.9, -1.0, -2.9, -2.9),  # below the floor: PPO
        (4.0, -1.0, -3.0, 0.0),  # PPO would leave −4 and its gradient
        (0.5, -1.0, -0.8, 0.0),
        (4.0, 1.0, 1.2, 0.0),  # positive advantages are PPO's
    ],
)
def test_dual_clip_bounds_negative_advantages(ratio, advantage, value, gradient):
    loss, rows = Surrogate(UnitRatio(), clip=DualClipped(floor=3.0)), make_rows([advantage], old=[log(0.1)])
    assert value_and_gradient(loss, of([0.1 * ratio]), rows) == (pytest.approx(-value), pytest.approx(-gradient))


def test_unclipped_is_an_infinite_clip():
    rows, infinite = make_rows([1.0, -2.0], old=[log(0.1), log(0.4)]), float("inf")
    plain = value_and_gradient(Surrogate(UnitRatio(), clip=Unclipped()), of([0.9, 0.1]), rows)
    wide = value_and_gradient(Surrogate(UnitRatio(), clip=Clipped(infinite, infinite)), of([0.9, 0.1]), rows)
    assert plain[0] == wide[0] == pytest.approx(-(9.0 - 0.5) / 2)
    assert torch.equal(plain[1], wide[1])


@pytest.mark.parametrize(("ratio", "weight"), [(1.0, 1.0), (3.0, 3.0), (7.0, 5.0), (0.01, 0.01)])
def test_cispo_caps_the_weight_and_keeps_every_gradient(ratio, weight):
    loss, rows = Surrogate(UnitRatio(), clip=Cispo(low=1.0, high=4.0)), make_rows([-2.0], old=[log(0.1)])
    value, gradient = value_and_gradient(loss, of([0.1 * ratio]), rows)
    assert value == pytest.approx(2 * weight * log(0.1 * ratio))
    assert float(gradient) == pytest.approx(2 * weight)


# -- ratios


def test_sequence_ratio_is_the_geometric_mean_and_its_gradient_reaches_every_token():
    logprobs = torch.tensor([[-1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    rows = make_rows([1.5], old=[-1.2, -1.9], width=2)
    loss = Surrogate(UnitRatio(), ratio=sequence_ratio, clip=Unclipped())
    value, gradient = value_and_gradient(loss, logprobs, rows)
    ratio = exp((0.2 - 0.1) / 2)
    assert value == pytest.approx(-1.5 * ratio)
    assert gradient.flatten().tolist() == pytest.approx([-1.5 * ratio / 2] * 2)


def test_sequence_ratio_does_not_see_padding():
    gap = torch.tensor([[0.3, 0.1, 9.0]])
    mask = torch.tensor([[True, True, False]])
    assert sequence_ratio(gap, mask).tolist() == [pytest.approx([0.2] * 3)]
    assert sequence_product(gap, mask).tolist() == [pytest.approx([0.4] * 3)]
    assert token_ratio(gap, mask) is gap


def test_gspo_with_one_token_is_the_token_ratio_bit_for_bit():
    rows = make_rows([1.0, -1.0, 0.3], old=[-1.0, -0.4, -2.0])
    for ratio in (sequence_ratio, sequence_product):
        for clip in (Clipped(), DualClipped(), Unclipped(), Cispo()):
            one = value_and_gradient(Surrogate(UnitRatio(), ratio=ratio, clip=clip), of([0.5, 0.6, 0.1]), rows)
            other = value_and_gradient(Surrogate(UnitRatio(), ratio=token_ratio, clip=clip), of([0.5, 0.6, 0.1]), rows)
            assert one[0] == other[0]
            assert torch.equal(one[1], other[1])


# -- on-policy and teacher tokens


@pytest.mark.parametrize("clip", [Clipped(), DualClipped(), Unclipped(), Cispo()])
@pytest.mark.parametrize("ratio", [token_ratio, sequence_ratio, sequence_product])
def test_on_policy_gradient_is_the_policy_gradient(ratio, clip):
    rows = make_rows([2.0, -1.0], weights=[0.25, 0.5])
    gradient = value_and_gradient(Surrogate(UnitRatio(), ratio=ratio, clip=clip), of([0.3, 0.6]), rows)[1]
    assert gradient[:, 0].tolist() == pytest.approx([-2.0 * 0.25, 1.0 * 0.5])


def test_teacher_tokens_are_neither_clipped_nor_compared_with_the_old_policy():
    rows = make_rows([1.0, 1.0], old=[log(1e-6), log(1e-6)], is_teacher=[True, True])
    output = apply(Surrogate(ShapedRatio(0.1)), of([0.1, 0.4]), rows)
    assert float(output.loss.detach()) == pytest.approx(-(0.5 * 0.1 / 0.2 + 0.5 * 0.4 / 0.5))
    assert output.metrics["loss/ratio_mean"].tolist() == [0.0, 0.0]


def test_clip_and_ratio_metrics_by_hand():
    """Ratios 3, ½, ½, 3 with advantages +, +, −, −: the first is clipped from above, the third from below."""
    rows = make_rows([1.0, 1.0, -1.0, -1.0, 5.0], old=[log(0.2)] * 5, weights=[0.2, 0.2, 0.2, 0.2, 0.0])
    metrics = apply(Surrogate(UnitRatio()), of([0.6, 0.1, 0.1, 0.6, 0.9]), rows).metrics  # the last does not count
    found = {name.removeprefix("loss/"): tally.tolist() for name, tally in metrics.items()}
    assert found["clipped_share"] == [2, 4]
    assert found["clipped_high"] == found["clipped_low"] == [1, 4]
    assert found["ratio_above_2"] == [2, 4]
    assert found["ratio_mean"] == [pytest.approx(7.0), 4]
    assert found["teacher_probability"] == found["teacher_ratio_mean"] == [0, 0]


def test_teacher_tokens_have_metrics_of_their_own():
    rows = make_rows(
        [1.0, 1.0, 1.0, 1.0], old=[log(0.2), log(0.1), log(0.1), log(0.2)], is_teacher=[True, True, True, False],
        weights=[0.3, 0.3, 0.0, 0.4],
    )  # fmt: skip
    metrics = apply(Surrogate(UnitRatio()), of([0.4, 0.4, 0.9, 0.2]), rows).metrics
    assert metrics["loss/teacher_probability"].tolist() == [pytest.approx(0.8), 2]
    assert metrics["loss/teacher_ratio_mean"].tolist() == [pytest.approx(2.0 + 4.0), 2]
    assert metrics["loss/ratio_mean"].tolist() == [pytest.approx(1.0), 1]


@pytest.mark.parametrize("old", [-1.0, -900.0, -1800.0])
def test_a_teacher_token_of_vanishing_probability_leaves_the_loss_finite(old):
    logprobs = torch.tensor([[-900.0]], dtype=torch.float64, requires_grad=True)
    value, gradient = value_and_gradient(
        Surrogate(UnitRatio()), logprobs, make_rows([1.0], old=[old], is_teacher=[True])
    )
    assert (value, float(gradient)) == (-1.0, -1.0)


@pytest.mark.parametrize("clip", [Clipped(), DualClipped(), Unclipped(), Cispo()])
@pytest.mark.parametrize("ratio", [token_ratio, sequence_ratio, sequence_product])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_a_ratio_beyond_all_bounds_leaves_gradients_finite(ratio, clip, advantage):
    logprobs = torch.full((1, 2), -1.0, requires_grad=True)
    rows = make_rows([advantage], old=[-900.0, -1.0], width=2)
    rows = rows._replace(old_logprobs=rows.old_logprobs.float())
    for loss in (Surrogate(UnitRatio(), ratio, clip), Surrogate(ClippedRatio(), ratio, clip)):
        for teacher in (False, True):
            output = apply(loss, logprobs, rows._replace(is_teacher=torch.tensor([teacher])))
            (gradient,) = torch.autograd.grad(output.loss, logprobs)
            assert output.loss.isfinite()
            assert gradient.isfinite().all()


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
    plain = apply(loss, of([0.5, 0.5]), make_rows([1.0, 1.0]))
    assert float(plain.loss.detach()) == -1.0
    assert "loss/correction" not in plain.metrics
    taught = apply(loss, of([0.5, 0.5]), make_rows([1.0, 1.0], behaviour=[log(0.01), 0.0], is_teacher=[False, True]))
    assert float(taught.loss.detach()) == -(2.0 + 1.0) / 2
    assert taught.metrics["loss/engine_gap"].tolist() == [pytest.approx(log(50)), 1]
    believed = Surrogate(UnitRatio(), correction=None)
    assert float(apply(believed, of([0.5]), make_rows([1.0], behaviour=[log(0.01)])).loss.detach()) == -1.0


# -- KL and entropy


def test_kl_on_a_teacher_token_of_vanishing_probability_leaves_gradients_finite():
    logprobs = torch.tensor([[-900.0], [-1.0]], dtype=torch.float64, requires_grad=True)
    rows = make_rows([1.0, 1.0], reference=[-1.0, -1.5], is_teacher=[True, False])
    assert value_and_gradient(Surrogate(UnitRatio(), kl_coefficient=0.1), logprobs, rows)[1].isfinite().all()


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
    output = apply(loss, of([0.5, 0.5]), rows)
    assert float(output.loss.detach()) == pytest.approx(0.1 * 0.5 * 0.5 * log(2) ** 2)
    total, count = output.metrics["loss/kl"].tolist()
    assert (total, count) == (pytest.approx(0.5 * log(2) ** 2), 1)


def test_the_entropy_bonus_weighs_tokens_as_the_loss_does():
    loss, entropy = Surrogate(UnitRatio(), entropy_coefficient=0.1), torch.tensor([[2.0], [3.0]], dtype=torch.float64)
    output = apply(loss, of([0.5, 0.5]), make_rows([0.0, 0.0], weights=[0.25, 0.75]), entropy)
    assert float(output.loss.detach()) == pytest.approx(-0.1 * (0.25 * 2 + 0.75 * 3))
    assert loss.needs_entropy
    assert not Surrogate(UnitRatio()).needs_entropy


# -- everything together


@pytest.mark.parametrize("clip", [Clipped(), DualClipped(), Unclipped()])
@pytest.mark.parametrize("ratio", [token_ratio, sequence_ratio, sequence_product])
def test_gradcheck_through_everything(ratio, clip):
    rows = make_rows(
        [1.0, -0.5, 0.7],
        old=[-1.0, -0.3, -0.4, -0.6, -2.0, -1.0],
        reference=[-1.1, -0.2, -0.9, -0.8, -0.2, -0.5],
        behaviour=[-1.2, -0.3, -0.5, -0.4, 0.0, 0.0],
        is_teacher=[False, False, True],
        width=2,
    )
    loss = Surrogate(ShapedRatio(), ratio, clip, Truncated(), kl_coefficient=0.3, entropy_coefficient=0.2)
    logprobs = torch.tensor([[-1.05, -0.35], [-0.45, -0.55], [-1.5, -1.0]], dtype=torch.float64, requires_grad=True)
    entropy = torch.rand(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, h: loss(x, h, rows).loss, (logprobs, entropy))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [  # rows: credited rollout, uncredited rollout, uncredited teacher, credited but weightless
        (Surrogate(UnitRatio()), [True, False, False, False]),
        (Surrogate(NegativeLogLikelihood()), [True, False, True, False]),
        (Surrogate(UnitRatio(), kl_coefficient=0.1), [True, True, True, False]),
        (Surrogate(UnitRatio(), entropy_coefficient=0.1), [True, True, True, False]),
        (Surrogate(UnitRatio(), ratio=sequence_product, clip=Cispo()), [True, False, False, False]),
    ],
)
def test_rows_that_do_not_contribute_have_exactly_no_gradient(loss, expected):
    assert isinstance(loss, PolicyLoss)
    rows = make_rows(
        [1.0, 0.0, 0.0, 1.0], is_teacher=[False, False, True, False], weights=[0.5, 0.5, 0.5, 0.0], reference=[-1.0] * 4
    )
    assert loss.contributes(rows).tolist() == expected
    gradient = value_and_gradient(loss, of([0.5, 0.4, 0.3, 0.2]), rows)[1]
    assert (gradient[~loss.contributes(rows)] == 0).all()


def test_clip_share_counts_tokens_where_the_clip_acts():
    rows = make_rows([1.0, 1.0, 1.0], old=[log(0.2)] * 3)
    output = apply(Surrogate(UnitRatio()), of([0.3, 0.1, 0.22]), rows)
    assert output.metrics["loss/clipped_share"].tolist() == [1.0, 3.0]
    assert output.metrics["loss/ratio_mean"][0] == pytest.approx(1.5 + 0.5 + 1.1)
    rows = make_rows([-1.0, -1.0, -1.0], old=[log(0.1)] * 3)  # ratios 4, 2, 0.5: over the floor, free, under the clip
    output = apply(Surrogate(UnitRatio(), clip=DualClipped(floor=3.0)), of([0.4, 0.2, 0.05]), rows)
    assert output.metrics["loss/clipped_share"].tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Clipped(low=-0.1), "clip.low must be a number and not negative"),
        (lambda: Cispo(high=-1), "clip.high must be a number and not negative"),
        (lambda: DualClipped(floor=1.0), "floor must be above 1"),
        (lambda: Truncated(0), "cap must be positive"),
        (lambda: Masked(2.0, 1.0), "0 <= low < high"),
        (lambda: Clipped(low="abc"), "must be a number"),
        (lambda: Surrogate(UnitRatio(), ratio=k3), "loss.ratio must be a function of 2 tensors, and 'k3' is not"),
        (lambda: Surrogate(UnitRatio(), kl=token_ratio), "loss.kl must be a function of 3 tensors"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()

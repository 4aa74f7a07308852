from math import exp, inf, log, nan

import pytest
import torch
from support.builders import make_rows
from support.losses import apply, logprobs_of, value_and_gradient

from hapo_lit.losses import (
    Cispo,
    Clipped,
    DualClipped,
    Masked,
    Surrogate,
    Truncated,
    Unclipped,
    k3,
    sequence_product,
    sequence_ratio,
    token_ratio,
)
from hapo_lit.protocols import PolicyLoss
from hapo_lit.teacher import ClippedRatio, NegativeLogLikelihood, ShapedRatio, UnitRatio

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
    found = value_and_gradient(
        Surrogate(UnitRatio()), logprobs_of([0.2 * ratio]), make_rows([advantage], old=[log(0.2)])
    )
    assert found == (pytest.approx(-value), pytest.approx(-gradient))


def test_asymmetric_clip():
    loss = Surrogate(UnitRatio(), clip=Clipped(low=0.2, high=0.28))
    assert value_and_gradient(loss, logprobs_of([0.2 * 1.5]), make_rows([1.0], old=[log(0.2)]))[0] == pytest.approx(
        -1.28
    )
    assert value_and_gradient(loss, logprobs_of([0.2 * 0.1]), make_rows([-1.0], old=[log(0.2)]))[0] == pytest.approx(
        0.8
    )


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
    assert value_and_gradient(loss, logprobs_of([0.1 * ratio]), rows) == (
        pytest.approx(-value),
        pytest.approx(-gradient),
    )


def test_unclipped_is_an_infinite_clip():
    rows, infinite = make_rows([1.0, -2.0], old=[log(0.1), log(0.4)]), float("inf")
    plain = value_and_gradient(Surrogate(UnitRatio(), clip=Unclipped()), logprobs_of([0.9, 0.1]), rows)
    wide = value_and_gradient(Surrogate(UnitRatio(), clip=Clipped(infinite, infinite)), logprobs_of([0.9, 0.1]), rows)
    assert plain[0] == wide[0] == pytest.approx(-(9.0 - 0.5) / 2)
    assert torch.equal(plain[1], wide[1])


@pytest.mark.parametrize(("ratio", "weight"), [(1.0, 1.0), (3.0, 3.0), (7.0, 5.0), (0.01, 0.01)])
def test_cispo_caps_the_weight_and_keeps_every_gradient(ratio, weight):
    loss, rows = Surrogate(UnitRatio(), clip=Cispo(low=1.0, high=4.0)), make_rows([-2.0], old=[log(0.1)])
    value, gradient = value_and_gradient(loss, logprobs_of([0.1 * ratio]), rows)
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
            one = value_and_gradient(Surrogate(UnitRatio(), ratio=ratio, clip=clip), logprobs_of([0.5, 0.6, 0.1]), rows)
            other = value_and_gradient(
                Surrogate(UnitRatio(), ratio=token_ratio, clip=clip), logprobs_of([0.5, 0.6, 0.1]), rows
            )
            assert one[0] == other[0]
            assert torch.equal(one[1], other[1])


# -- on-policy and teacher tokens


@pytest.mark.parametrize("clip", [Clipped(), DualClipped(), Unclipped(), Cispo()])
@pytest.mark.parametrize("ratio", [token_ratio, sequence_ratio, sequence_product])
def test_on_policy_gradient_is_the_policy_gradient(ratio, clip):
    rows = make_rows([2.0, -1.0], weights=[0.25, 0.5])
    gradient = value_and_gradient(Surrogate(UnitRatio(), ratio=ratio, clip=clip), logprobs_of([0.3, 0.6]), rows)[1]
    assert gradient[:, 0].tolist() == pytest.approx([-2.0 * 0.25, 1.0 * 0.5])


def test_teacher_tokens_are_neither_clipped_nor_compared_with_the_old_policy():
    rows = make_rows([1.0, 1.0], old=[log(1e-6), log(1e-6)], is_teacher=[True, True])
    output = apply(Surrogate(ShapedRatio(0.1)), logprobs_of([0.1, 0.4]), rows)
    assert float(output.loss.detach()) == pytest.approx(-(0.5 * 0.1 / 0.2 + 0.5 * 0.4 / 0.5))
    assert output.metrics["loss/ratio_mean"].tolist() == [0.0, 0.0]


def test_clip_and_ratio_metrics_by_hand():
    """Ratios 3, ½, ½, 3, advantages +, +, −, −: the first is clipped above, the third below; the fifth has weight 0."""
    rows = make_rows([1.0, 1.0, -1.0, -1.0, 5.0], old=[log(0.2)] * 5, weights=[0.2, 0.2, 0.2, 0.2, 0.0])
    metrics = apply(Surrogate(UnitRatio()), logprobs_of([0.6, 0.1, 0.1, 0.6, 0.9]), rows).metrics
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
    metrics = apply(Surrogate(UnitRatio()), logprobs_of([0.4, 0.4, 0.9, 0.2]), rows).metrics
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
    gradient = value_and_gradient(loss, logprobs_of([0.5, 0.4, 0.3, 0.2]), rows)[1]
    assert (gradient[~loss.contributes(rows)] == 0).all()


def test_clip_share_counts_tokens_where_the_clip_acts():
    rows = make_rows([1.0, 1.0, 1.0], old=[log(0.2)] * 3)
    output = apply(Surrogate(UnitRatio()), logprobs_of([0.3, 0.1, 0.22]), rows)
    assert output.metrics["loss/clipped_share"].tolist() == [1.0, 3.0]
    assert output.metrics["loss/ratio_mean"][0] == pytest.approx(1.5 + 0.5 + 1.1)
    rows = make_rows([-1.0, -1.0, -1.0], old=[log(0.1)] * 3)  # ratios 4, 2, 0.5: over the floor, free, under the clip
    output = apply(Surrogate(UnitRatio(), clip=DualClipped(floor=3.0)), logprobs_of([0.4, 0.2, 0.05]), rows)
    assert output.metrics["loss/clipped_share"].tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Clipped(low=-0.1), "low must be a number and not negative"),
        (lambda: Cispo(high=-1), "high must be a number and not negative"),
        (lambda: DualClipped(floor=1.0), "floor must be above 1"),
        (lambda: Truncated(0), "cap must be a number above 0"),
        (lambda: Masked(2.0, 1.0), "low must be below high"),
        (lambda: Truncated(nan), "cap must be a number above 0"),
        (lambda: Masked(nan), "low must be"),
        (lambda: DualClipped(floor=nan), "floor must be"),
        (lambda: Surrogate(UnitRatio(), kl_coefficient=-1.0), "kl_coefficient must be a number and not negative"),
        (lambda: Surrogate(UnitRatio(), entropy_coefficient=inf), "entropy_coefficient must be .* finite"),
        (lambda: Clipped(low="abc"), "must be a number"),
        (lambda: Surrogate(UnitRatio(), ratio=k3), "loss.ratio must be a function of 2 tensors, and 'k3' is not"),
        (lambda: Surrogate(UnitRatio(), kl=token_ratio), "loss.kl must be a function of 3 tensors"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()

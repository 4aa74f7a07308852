"""What an update does to a tiny random policy.  Rewards come from a verifier that likes a digit."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from support.training import STEPS, LikesNothing, data, fit, hapo, module, phase, weights
from torch.utils._python_dispatch import TorchDispatchMode

from hapo_lit.algorithm import Supervised
from hapo_lit.gates import AlwaysGate, NeverGate
from hapo_lit.injectors import NoInjection, ReplaceWorst
from hapo_lit.losses import k3
from hapo_lit.policy.scoring import token_logprobs
from hapo_lit.protocols import ALONE
from hapo_lit.rows import MicroBatchLimit, UncastRows
from hapo_lit.teacher import NegativeLogLikelihood
from hapo_lit.training.fabric_setup import open_fabric, set_up
from hapo_lit.training.metrics import GradientShare
from hapo_lit.training.update import split_by_prompts
from hapo_lit.weighting import TokenMean


def experience_of(built, tokenizer):
    return built.collect(data(tokenizer).batch(0))


def gradients(built, parts):
    built.policy.zero_grad()
    for rows in parts:
        built.loss(rows).loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in built.policy.parameters()])


def test_the_gradient_does_not_depend_on_the_split_nor_on_rows_that_cannot_contribute(make_policy, tokenizer):
    built = module(make_policy().double(), tokenizer, phase(hapo()))
    rows = experience_of(built, tokenizer).rows()
    rows = rows._replace(advantages=torch.where(torch.arange(rows.size) % 3 == 0, 0.0, rows.advantages))
    whole = gradients(built, [rows])
    assert whole.abs().max() > 1e-3
    contributing = rows.select(built.phase.loss.contributes(rows))
    assert 0 < contributing.size < rows.size
    for size in (1, 3, 5, 100):
        torch.testing.assert_close(
            gradients(built, contributing.split(MicroBatchLimit(size))), whole, atol=1e-8, rtol=0
        )
    silent = gradients(built, [rows.with_zero_weight(), rows])
    torch.testing.assert_close(silent, whole, atol=1e-8, rtol=0)


def test_one_policy_gradient_step_by_hand(make_policy, tokenizer):
    """Plain SGD on −Σ w·Â·log π with the engine's own rollouts, against the module's step."""
    built = module(make_policy().double(), tokenizer, phase(hapo(NeverGate())), max_grad_norm=1e9)
    rows = experience_of(built, tokenizer).rows()
    text = rows.text
    ids, mask = torch.cat([text.prompt_tokens, text.tokens], 1), torch.cat([text.prompt_mask, text.mask], 1)
    logits = built.policy(
        input_ids=ids, attention_mask=mask.long(), position_ids=(mask.long().cumsum(1) - 1).clamp(min=0)
    )
    width = text.tokens.shape[1]
    logprobs = logits.logits[:, -width - 1 : -1].log_softmax(-1).gather(-1, text.tokens[..., None])[..., 0]
    objective = (logprobs * rows.advantages[:, None] * text.mask).sum() / text.mask.sum()
    built.policy.zero_grad()
    (-objective).backward()
    by_hand = torch.cat([parameter.grad.flatten() for parameter in built.policy.parameters()])
    torch.testing.assert_close(gradients(built, [rows]), by_hand, atol=1e-7, rtol=1e-6)


def test_without_signal_the_policy_and_the_optimiser_stay_exactly_as_they_are(make_policy, tokenizer):
    policy = make_policy()
    built = module(policy, tokenizer, phase(hapo(NeverGate(), verifier=LikesNothing())))
    before = weights(built).clone()
    trainer = fit(built, data(tokenizer))
    assert torch.equal(weights(built), before)
    assert built.step == STEPS
    assert not trainer.optimizers[0].state


def test_hapo_whose_gate_never_opens_is_grpo_bit_for_bit(make_policy, tokenizer):
    runs = []
    for gate, injector in ((NeverGate(), ReplaceWorst()), (AlwaysGate(), NoInjection())):
        built = module(make_policy(), tokenizer, phase(hapo(gate, injector)))
        before = weights(built).clone()
        fit(built, data(tokenizer))
        assert not torch.equal(weights(built), before)
        runs.append(weights(built))
    assert torch.equal(*runs)
    built = module(make_policy(), tokenizer, phase(hapo(AlwaysGate(), ReplaceWorst())))
    fit(built, data(tokenizer))
    assert not torch.equal(weights(built), runs[0])  # and the teacher makes a difference where it is let in


def test_several_updates_per_batch_use_the_policy_that_sampled(make_policy, tokenizer):
    built = module(make_policy(), tokenizer, phase(hapo(NeverGate())), updates_per_batch=3)
    experience = experience_of(built, tokenizer)
    experience = replace(experience, behaviour_logprobs=experience.rollouts.behaviour_logprobs)
    (rows,), _ = built.micro_batches(experience, policy_moves=True)
    assert (rows.old_logprobs - rows.behaviour_logprobs).abs().max() < 1e-4
    assert built.micro_batches(experience, policy_moves=False)[0][0].old_logprobs is None
    once = module(make_policy(), tokenizer, phase(hapo(NeverGate())))
    fit(built, data(tokenizer))
    fit(once, data(tokenizer))
    assert not torch.equal(weights(built), weights(once))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_before_the_first_update_every_ratio_is_exactly_one(make_policy, tokenizer, precision, checkpointing):
    """log π_old and log π_ref come from the split, the trim and the order of the update, whose rounding they share."""
    policy = make_policy()
    if checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    settings = {"minibatches": 2, "updates_per_batch": 2, "micro_batch_size": 3}
    built = module(policy, tokenizer, phase(hapo(AlwaysGate()), kl=0.1), **settings)
    fabric = open_fabric("cpu", 1, 1, "auto", precision, sharded_checkpoints=False)
    datamodule = data(tokenizer)
    set_up(fabric, built, datamodule)
    seen = []
    with fabric.autocast():
        experience = built.collect(datamodule.batch(0))
        for part in split_by_prompts(experience, 2, TokenMean(), ALONE):
            for rows in built.micro_batches(part, policy_moves=True)[0]:
                logprobs, _ = token_logprobs(built.policy, rows.text)
                assert logprobs.requires_grad
                assert torch.equal(logprobs, rows.old_logprobs)
                assert torch.equal(logprobs, rows.reference_logprobs)
                seen.append(rows.size)
    assert seen == [3, 3, 2, 3, 3, 2]


def test_the_reference_policy_stays_where_training_began(make_policy, tokenizer):
    built = module(make_policy(), tokenizer, phase(hapo(), kl=0.5))
    before = weights(built).clone()
    fit(built, data(tokenizer))
    reference = torch.cat([parameter.flatten() for parameter in built.reference.parameters()])
    assert torch.equal(reference, before)
    assert not torch.equal(weights(built), before)
    assert module(make_policy(), tokenizer, phase(hapo())).reference is None


def test_kl_alone_pulls_a_strayed_policy_back(make_policy, tokenizer):
    held = phase(hapo(NeverGate(), verifier=LikesNothing()), kl=1.0)
    built = module(make_policy(num_hidden_layers=2), tokenizer, held, steps=6)
    with torch.no_grad():
        for parameter in built.policy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.05)

    def distance():
        group = experience_of(built, tokenizer).rollouts
        with torch.no_grad():
            here, there = (token_logprobs(model, group.text())[0] for model in (built.policy, built.reference))
        return float(k3(here, there, here).sum() / group.mask.sum())

    before = distance()
    fit(built, data(tokenizer), steps=6)
    assert distance() < 0.9 * before


def test_supervised_learning_lowers_the_loss_on_teachers(make_policy, tokenizer):
    built = module(make_policy(), tokenizer, phase(Supervised(TokenMean()), NegativeLogLikelihood()))
    rows = experience_of(built, tokenizer).rows()
    before = float(built.loss(rows).loss.detach())
    fit(built, data(tokenizer))
    assert float(built.loss(rows).loss.detach()) < before - 0.3
    assert built.experience.rollouts is None


@pytest.mark.parametrize("fresh", [True, False])
def test_a_phase_may_begin_with_a_fresh_optimiser(make_policy, tokenizer, fresh):
    """With fresh moments Adam's first step after the change is the one of a new optimiser: its count is one."""
    built = module(
        make_policy(),
        tokenizer,
        phase(Supervised(TokenMean()), NegativeLogLikelihood(), steps=2),
        phase(hapo(), fresh=fresh),
    )
    trainer = fit(built, data(tokenizer))
    counts = {float(state["step"]) for state in trainer.optimizers[0].state.values()}
    assert counts == {2.0 if fresh else 4.0}
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx((1e-2 + 1e-3) / 2)


def test_in_mixed_precision_every_update_sees_the_weights_as_they_are(make_policy, tokenizer):
    """Autocast keeps casts of weights while its context lasts, and that is a whole step with several updates."""
    built = module(make_policy(), tokenizer, phase(hapo(AlwaysGate())), updates_per_batch=3)
    fabric = open_fabric("cpu", 1, 1, "auto", "bf16-mixed", sharded_checkpoints=False)
    datamodule = data(tokenizer)
    set_up(fabric, built, datamodule)
    pairs = []

    def loss(rows):
        output = built.loss(rows)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            pairs.append((float(output.loss), float(built.loss(rows).loss)))
        return output

    with fabric.autocast():
        built.run_step(datamodule.batch(0), loss, nullcontext)
    assert len(pairs) == 3
    assert len(set(pairs)) == 3
    assert all(seen == fresh for seen, fresh in pairs)


class Kinds(TorchDispatchMode):
    """Keeps the dtypes of everything that is computed with a last axis of some size, or of a given shape."""

    def __init__(self, *shapes):
        super().__init__()
        self.shapes, self.found = shapes, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            self.found += [result.dtype for shape in self.shapes if tuple(result.shape)[-len(shape) :] == shape]
        return result


@pytest.mark.parametrize("logits", [24 * 5, 10**6])
def test_in_mixed_precision_the_head_is_float32_forwards_and_backwards(make_policy, tokenizer, monkeypatch, logits):
    monkeypatch.setattr(token_logprobs, "__defaults__", (1.0, logits, False, False))
    policy = make_policy(tie_word_embeddings=False)
    built = module(policy, tokenizer, phase(hapo(AlwaysGate())), updates_per_batch=2)
    fabric, datamodule = open_fabric("cpu", 1, 1, "auto", "bf16-mixed", sharded_checkpoints=False), data(tokenizer)
    wrapped = set_up(fabric, built, datamodule)
    vocabulary, width = policy.lm_head.weight.shape
    kinds, layers = Kinds((vocabulary,), (vocabulary, width), (width, vocabulary)), Kinds((48,))
    with fabric.autocast(), kinds, layers:
        built.run_step(datamodule.batch(0), lambda rows: wrapped.uncast_loss(UncastRows(rows)), nullcontext)
    assert len(kinds.found) > 50
    assert set(kinds.found) == {torch.float32, torch.float64}  # the sampler draws in float64
    assert torch.bfloat16 in layers.found


def test_measuring_the_gradient_share_changes_no_gradient(make_policy, tokenizer, monkeypatch):
    def step():
        built = module(make_policy(), tokenizer, phase(hapo(AlwaysGate())))
        return gradients(built, experience_of(built, tokenizer).rows().split(MicroBatchLimit(5)))

    measured = step()
    monkeypatch.setattr(GradientShare, "watch", lambda *args: None)
    assert torch.equal(measured, step())


def test_the_gradient_share_is_that_of_the_updates_own_backward_passes(make_policy, tokenizer):
    """Found by hand on the same micro-batches; a gradient that somebody asked for before does not count."""
    built = module(make_policy(), tokenizer, phase(hapo(AlwaysGate())), micro_batch_size=5)
    experience = experience_of(built, tokenizer)
    slopes = []
    for rows in built.micro_batches(experience, False)[0]:
        logprobs, entropy = built.logprobs(built.policy, rows.text)
        (slope,) = torch.autograd.grad(built.phase.loss(logprobs, entropy, rows).loss, logprobs)
        sizes = slope.abs().sum(1, dtype=torch.float64)
        slopes.append(torch.stack([sizes[rows.is_teacher].sum(), sizes.sum()]))
    assert len(slopes) > 1
    built.manual_backward = torch.Tensor.backward  # without a trainer
    built.optimizer = built.configure_optimizers()
    built.gradient(experience)
    measured = built.optimise(experience, built.loss)
    assert torch.equal(measured["teacher/gradient_share"], sum(slopes[1:], slopes[0]))


def test_global_generators_are_not_drawn_from(make_policy, tokenizer):
    built, datamodule = module(make_policy(), tokenizer, phase(hapo())), data(tokenizer)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    batch = next(iter(datamodule.train_dataloader()))
    next(iter(datamodule.val_dataloader()))
    built.collect(batch)
    built.evaluation.evaluators["greedy"].sync(built.policy)
    built.evaluation.evaluators["greedy"](batch, 0, built.decode)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_step_says_what_share_is_the_teachers_and_where_time_goes(make_policy, tokenizer):
    built = module(make_policy(), tokenizer, phase(hapo(AlwaysGate()), kl=0.1), updates_per_batch=2)
    trainer = fit(built, data(tokenizer), steps=1)
    metrics = built.metrics
    assert trainer.callback_metrics["reward/mean"] == metrics["reward/mean"]  # for Lightning's own callbacks
    assert trainer.progress_bar_metrics == {"reward": metrics["reward/mean"], "gate": 1.0}
    assert 0 < metrics["teacher/gradient_share"] < 1
    assert metrics["teacher/row_share"] == metrics["teacher/rows"] / 16
    assert 0 < metrics["loss/teacher_probability"] < 1
    phases = [metrics[f"time/{name}"] for name in ("sync", "rollout", "score", "update")]
    assert min(phases) > 0
    assert sum(phases) < metrics["time/step"]
    assert metrics["rollout/tokens_per_second"] == pytest.approx(metrics["rollout/tokens"] / metrics["time/rollout"])
    assert metrics["reward/2-digit"] == metrics["reward/mean"]

"""The module on a tiny random policy: gradients, phases, resume.  Rewards come from a verifier that likes a digit."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from support.training import STEPS, LikesNothing, data, fit, hapo, module, phase, weights

from hapo_lit.advantages import GroupNormalised, SpareFailures
from hapo_lit.algorithm import Supervised
from hapo_lit.cli.fabric import open_fabric, set_up
from hapo_lit.data.corpus import CachedCorpus, Corpus
from hapo_lit.data.datamodule import MathDataModule
from hapo_lit.data.reader import LocalFiles
from hapo_lit.data.schemas import Plain
from hapo_lit.data.teachers import VerifiedTeachers
from hapo_lit.data.templates import PlainTemplate
from hapo_lit.errors import MemoryShortError, NotFiniteError
from hapo_lit.gates import AlwaysGate, BetaGate, Memory, NeverGate
from hapo_lit.injectors import NoInjection, ReplaceWorst
from hapo_lit.losses import Surrogate, k3
from hapo_lit.policy.scoring import token_logprobs
from hapo_lit.rollout.hf import HFEngine
from hapo_lit.schedules import Linear
from hapo_lit.teacher import NegativeLogLikelihood, UnitRatio
from hapo_lit.training.callbacks.checkpointer import Checkpointer
from hapo_lit.training.metrics import gradient_share
from hapo_lit.training.out_of_memory import when_out_of_memory
from hapo_lit.training.phases import Phase
from hapo_lit.verify.exact import ExactVerifier
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
        torch.testing.assert_close(gradients(built, contributing.split(size)), whole, atol=1e-8, rtol=0)
    silent = gradients(built, [rows.with_zero_weight(), rows])
    torch.testing.assert_close(silent, whole, atol=1e-8, rtol=0)


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


def test_several_updates_per_batch_use_the_policy_that_sampled(make_policy, tokenizer):
    built = module(make_policy(), tokenizer, phase(hapo(NeverGate())), updates_per_batch=3)
    experience = experience_of(built, tokenizer)
    reported = experience.rollouts.behaviour_logprobs
    assert (experience.old_logprobs[..., : reported.shape[2]] - reported).abs().max() < 1e-4
    once = module(make_policy(), tokenizer, phase(hapo(NeverGate())))
    assert experience_of(once, tokenizer).old_logprobs is None
    fit(built, data(tokenizer))
    fit(once, data(tokenizer))
    assert not torch.equal(weights(built), weights(once))


def test_the_reference_policy_stays_where_training_began(make_policy, tokenizer):
    built = module(make_policy(), tokenizer, phase(hapo(), kl=0.5))
    before = weights(built).clone()
    fit(built, data(tokenizer))
    reference = torch.cat([parameter.flatten() for parameter in built.reference.parameters()])
    assert torch.equal(reference, before)
    assert not torch.equal(weights(built), before)
    assert module(make_policy(), tokenizer, phase(hapo())).reference is None


def test_kl_alone_pulls_a_strayed_policy_back(make_policy, tokenizer):
    built = module(make_policy(), tokenizer, phase(hapo(NeverGate(), verifier=LikesNothing()), kl=1.0))
    with torch.no_grad():
        for parameter in built.policy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.05)

    def distance():
        group = experience_of(built, tokenizer).rollouts
        with torch.no_grad():
            here, there = (token_logprobs(model, group.text())[0] for model in (built.policy, built.reference))
        return float(k3(here, there, here).sum() / group.mask.sum())

    before = distance()
    fit(built, data(tokenizer))
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
        phase(Supervised(TokenMean()), NegativeLogLikelihood(), steps=3),
        phase(hapo(), fresh=fresh),
    )
    trainer = fit(built, data(tokenizer))
    counts = {float(state["step"]) for state in trainer.optimizers[0].state.values()}
    assert counts == {3.0 if fresh else 6.0}
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-2 + (1e-3 - 1e-2) * 2 / 3)


def sequences():
    return {
        "hapo": lambda: [phase(hapo(advantage=SpareFailures(GroupNormalised())), kl=0.1)],
        "warmup": lambda: [
            phase(Supervised(TokenMean()), NegativeLogLikelihood(), steps=2),
            phase(hapo(BetaGate(0.6, memory=Memory(0.9)))),
        ],
    }


@pytest.mark.parametrize("name", sequences())
def test_stopping_at_any_step_and_resuming_is_the_same_run_to_the_bit(make_policy, tokenizer, tmp_path, name):
    through = module(make_policy(), tokenizer, *sequences()[name](), updates_per_batch=2)
    trainer = fit(through, data(tokenizer), tmp_path, every=2)  # two optimiser steps per batch
    states = trainer.optimizers[0].state_dict()["state"]
    for stop in range(1, STEPS):
        resumed = module(make_policy(seed=9), tokenizer, *sequences()[name](), updates_per_batch=2)
        if resumed.reference is not None:  # the reference is part of the checkpoint too
            assert not torch.equal(next(resumed.reference.parameters()), next(through.reference.parameters()))
        datamodule = data(tokenizer)
        again = fit(resumed, datamodule, resume=tmp_path / f"step={2 * stop}.ckpt")
        assert resumed.step == STEPS
        assert datamodule.consumed == STEPS
        assert torch.equal(weights(resumed), weights(through))
        assert str(resumed.phases.state_dict()) == str(through.phases.state_dict())
        for index, state in again.optimizers[0].state_dict()["state"].items():
            assert all(torch.equal(state[key], states[index][key]) for key in state)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["stream", "prepared"])
def test_a_run_on_a_data_set_goes_on_to_the_bit_too(make_policy, tokenizer, tmp_path, kind, workers):
    rows = [
        {"problem": f"Compute {n}7-2.", "solution": rf"\\boxed{{{10 * n + 5}}}", "answer": ""} for n in range(1, 30)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def files():
        source = Corpus(LocalFiles(str(tmp_path / "rows.jsonl")), Plain(), heldout_share=0.2, heldout_size=2)
        if kind == "prepared":
            source = CachedCorpus(source, str(tmp_path / "cache"), progress=False)
        check = VerifiedTeachers(ExactVerifier())
        return MathDataModule(
            source, tokenizer, PlainTemplate(), check, ExactVerifier(), 4, 30, 40, buffer=7, workers=workers
        )

    through = module(make_policy(), tokenizer, phase(hapo()))
    datamodule = files()
    fit(through, datamodule, tmp_path, every=1)
    assert through.experience.teacher_usable.any()
    for stop in (1, 3, 5):
        resumed, again = module(make_policy(seed=9), tokenizer, phase(hapo())), files()
        fit(resumed, again, resume=tmp_path / f"step={stop}.ckpt")
        assert torch.equal(weights(resumed), weights(through))
        assert again.state_dict() == datamodule.state_dict()


@pytest.mark.parametrize(("minutes", "saved"), [(1e-9, [1, 2, 3, 4, 5, 6]), (60.0, [4, 6]), (None, [4, 6])])
def test_states_are_saved_by_steps_by_the_clock_and_at_the_end(make_policy, tokenizer, tmp_path, minutes, saved):
    keeper = Checkpointer(str(tmp_path), every=4, evaluate_every=100, minutes=minutes, keep=-1, best=None)
    fit(module(make_policy(), tokenizer, phase(hapo())), data(tokenizer), watch=keeper)
    assert keeper.folder.steps() == saved


# -- what goes wrong


class Diverging(Surrogate):
    """A surrogate whose loss is no number at some calls; with ``only_gradient`` the loss itself still is one."""

    def __init__(self, *calls, only_gradient=False):
        super().__init__(UnitRatio())
        self.calls, self.only_gradient, self.seen = calls, only_gradient, 0

    def __call__(self, logprobs, entropy, rows):
        output = super().__call__(logprobs, entropy, rows)
        self.seen += 1
        if self.seen not in self.calls:
            return output
        zero = (logprobs - logprobs.detach()).sum()
        return output._replace(loss=output.loss + (zero.abs().sqrt() if self.only_gradient else zero + float("nan")))


def diverging(*calls, **settings):
    return Phase(hapo(AlwaysGate()), Diverging(*calls, **settings), Linear(1e-2, 1e-3))


@pytest.mark.parametrize("only_gradient", [False, True])
def test_an_update_that_is_not_finite_is_skipped_and_counted(make_policy, tokenizer, only_gradient):
    """Skipping the third of six steps leaves what the other five make; the batch is used up all the same."""
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            seen.append((pl_module.metrics["update/skipped"], weights(pl_module).clone()))

    built = module(make_policy(), tokenizer, diverging(3, only_gradient=only_gradient))
    trainer = fit(built, data(tokenizer), watch=Watch())
    assert [skipped for skipped, _ in seen] == [0, 0, 1, 0, 0, 0]
    assert torch.equal(seen[2][1], seen[1][1])
    assert not torch.equal(seen[3][1], seen[2][1])
    assert all(each.isfinite().all() for _, each in seen)
    assert {float(state["step"]) for state in trainer.optimizers[0].state.values()} == {STEPS - 1.0}
    assert built.skips.in_a_row == 0
    assert built.step == built.data.consumed == STEPS


def test_too_many_in_a_row_end_the_run_with_the_batch(make_policy, tokenizer):
    built = module(make_policy(), tokenizer, diverging(2, 4, 5, 6), max_skipped=2)
    with pytest.raises(NotFiniteError, match="in 3 updates in a row, up to step 6") as error:
        fit(built, data(tokenizer))
    assert error.value.experience is built.experience
    assert built.run_state()["skipped"] == 3
    fit(module(make_policy(), tokenizer, diverging(2, 3, 5, 6), max_skipped=2), data(tokenizer))  # never three in a row


class Greedy(HFEngine):
    """An engine that wants a petabyte."""

    def generate(self, prompts, group_size, step):
        torch.empty(2**50, dtype=torch.uint8)
        return super().generate(prompts, group_size, step)


def test_running_out_of_memory_names_the_setting_to_lower(make_policy, tokenizer):
    algorithm = hapo()
    algorithm.engine = Greedy(12)
    with pytest.raises(MemoryShortError, match="while sampling and scoring: lower prompts_per_step, group_size or"):
        fit(module(make_policy(), tokenizer, phase(algorithm)), data(tokenizer))

    class Hungry(Surrogate):
        def __call__(self, logprobs, entropy, rows):
            torch.empty(2**50, dtype=torch.uint8)
            return super().__call__(logprobs, entropy, rows)

    hungry = Phase(hapo(AlwaysGate()), Hungry(UnitRatio()), Linear(1e-2, 1e-3))
    with pytest.raises(MemoryShortError, match=r"while updating: lower module\.micro_batch_size"):
        fit(module(make_policy(), tokenizer, hungry), data(tokenizer))


def test_other_errors_pass_as_they_are():
    with pytest.raises(RuntimeError, match="something else"), when_out_of_memory("testing", lower="nothing"):
        raise RuntimeError("something else")


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


def test_a_foreign_checkpoint_is_refused(make_policy, tokenizer):
    with pytest.raises(ValueError, match="not written by hapo_lit"):
        module(make_policy(), tokenizer, phase(hapo())).on_load_checkpoint({})


def test_greedy_training_is_refused(make_policy, tokenizer):
    with pytest.raises(ValueError, match="training needs samples"):
        module(make_policy(), tokenizer, phase(hapo()), temperature=0.0)


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


def test_gradient_share_by_hand():
    """∂loss/∂log π = 2, −1 on the policy's row and 3, 0 on the teacher's: 3 of 6."""
    logprobs = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    loss = (logprobs * torch.tensor([[2.0, -1.0], [3.0, 0.0]])).sum()
    assert gradient_share(loss, logprobs, torch.tensor([False, True])).tolist() == [3, 6]
    loss.backward()  # the graph is still there
    assert logprobs.grad.tolist() == [[2, -1], [3, 0]]
    assert gradient_share(loss.detach(), logprobs, torch.tensor([False, True])).tolist() == [0, 0]


def test_measuring_the_gradient_share_changes_no_gradient(make_policy, tokenizer, monkeypatch):
    def step():
        built = module(make_policy(), tokenizer, phase(hapo(AlwaysGate())))
        return gradients(built, experience_of(built, tokenizer).rows().split(5))

    measured = step()
    monkeypatch.setattr("hapo_lit.training.module.gradient_share", lambda *args: torch.zeros(2, dtype=torch.float64))
    assert torch.equal(measured, step())


def test_a_step_says_what_share_is_the_teachers_and_where_time_goes(make_policy, tokenizer):
    built = module(make_policy(), tokenizer, phase(hapo(AlwaysGate()), kl=0.1), updates_per_batch=2)
    fit(built, data(tokenizer), steps=1)
    metrics = built.metrics
    assert 0 < metrics["teacher/gradient_share"] < 1
    assert metrics["teacher/row_share"] == metrics["teacher/rows"] / 16
    assert 0 < metrics["loss/teacher_probability"] < 1
    phases = [metrics[f"time/{name}"] for name in ("sync", "rollout", "score", "update")]
    assert min(phases) > 0
    assert sum(phases) < metrics["time/step"]
    assert metrics["rollout/tokens_per_second"] == pytest.approx(metrics["rollout/tokens"] / metrics["time/rollout"])
    assert metrics["reward/2-digit"] == metrics["reward/mean"]

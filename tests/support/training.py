"""Small modules, data and trainers, put together by hand."""

from __future__ import annotations

from functools import partial

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from hapo_lit.advantages import GroupNormalised
from hapo_lit.algorithm import Hapo
from hapo_lit.data.arithmetic import Arithmetic, IndependentErrors, Level
from hapo_lit.data.datamodule import MathDataModule
from hapo_lit.data.teachers import VerifiedTeachers
from hapo_lit.data.templates import PlainTemplate
from hapo_lit.gates import BetaGate, Memory
from hapo_lit.injectors import ReplaceWorst
from hapo_lit.losses import Surrogate
from hapo_lit.rollout.hf import HFEngine
from hapo_lit.schedules import Linear
from hapo_lit.teacher import UnitRatio
from hapo_lit.training.evaluation import Evaluator
from hapo_lit.training.module import HapoModule
from hapo_lit.training.phases import Phase, Phases
from hapo_lit.verify.exact import ExactVerifier
from hapo_lit.weighting import TokenMean

STEPS = 4


class LikesSevens:
    """A verifier that is satisfied by a 7 anywhere: about half of a random policy's answers have one."""

    def __call__(self, responses, answers):
        return torch.tensor([float("7" in response) for response in responses])

    def metrics(self):
        return {}


class LikesNothing(LikesSevens):
    def __call__(self, responses, answers):
        return torch.zeros(len(responses))


class GivesNaN(LikesSevens):
    def __call__(self, responses, answers):
        return torch.full((len(responses),), float("nan"))


class Puts(LikesSevens):
    """Uses an operation that has no deterministic form."""

    def __call__(self, responses, answers):
        return torch.zeros(len(responses)).put_(torch.tensor([0]), torch.ones(1))


class PutsInARun(TokenMean):
    """A weighting that does so in a run, and not where it is tried out, on two prompts."""

    def __call__(self, group, mean, step):
        weights = super().__call__(group, mean, step)
        return weights.put_(torch.tensor([0]), torch.ones(1)) if len(weights) > 2 else weights


class HasNoMetrics:
    def __call__(self, responses, answers):
        return torch.zeros(len(responses))


def hapo(gate=None, injector=None, verifier=None, advantage=None):
    return Hapo(
        group_size=4,
        engine=HFEngine(12, seed=3),
        verifier=verifier or LikesSevens(),
        gate=gate or BetaGate(0.6, memory=Memory(0.5)),
        injector=injector or ReplaceWorst(),
        advantage=advantage or GroupNormalised(),
        weighting=TokenMean(),
    )


def phase(algorithm, teacher=None, steps=None, kl=0.0, fresh=True):
    loss = Surrogate(teacher or UnitRatio(), kl_coefficient=kl)
    return Phase(algorithm, loss, Linear(1e-2, 1e-3), steps, fresh)


def module(policy, tokenizer, *phases, steps=STEPS, **settings):
    named = {str(index): value for index, value in enumerate(phases)}
    settings = {"max_grad_norm": 1.0, **settings}
    return HapoModule(
        policy,
        tokenizer,
        Phases(steps, named),
        partial(torch.optim.AdamW, lr=0.1, betas=(0.9, 0.95), weight_decay=0.0),
        {"greedy": Evaluator(HFEngine(12, 0.0), LikesSevens())},
        **settings,
    )


def data(tokenizer):
    source = Arithmetic([Level("-", 2)], 20, 6, IndependentErrors(0.1), seed=0)
    return MathDataModule(
        source, tokenizer, PlainTemplate(), VerifiedTeachers(ExactVerifier()), ExactVerifier(), 4, 30, 40
    )


def fit(built, datamodule, folder=None, steps=STEPS, resume=None, every=1, watch=None):
    callbacks = [ModelCheckpoint(folder, "{step}", every_n_train_steps=every, save_top_k=-1)] if folder else []
    callbacks += watch if isinstance(watch, list) else [watch] if watch else []
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=steps,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=bool(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=callbacks,
    )
    trainer.fit(built, datamodule=datamodule, ckpt_path=resume, weights_only=False if resume else None)
    return trainer


def weights(built):
    return torch.cat([parameter.detach().flatten() for parameter in built.policy.parameters()])

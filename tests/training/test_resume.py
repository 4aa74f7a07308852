"""A run that resumes from a checkpoint is the same run to the bit."""

from __future__ import annotations

import json

import pytest
import torch
from support.training import STEPS, data, fit, hapo, module, phase, weights

from hapo_lit.advantages import GroupNormalised, SpareFailures
from hapo_lit.algorithm import Supervised
from hapo_lit.data.corpus import CachedCorpus, Corpus
from hapo_lit.data.datamodule import MathDataModule
from hapo_lit.data.reader import LocalFiles
from hapo_lit.data.schemas import Plain
from hapo_lit.data.teachers import VerifiedTeachers
from hapo_lit.data.templates import PlainTemplate
from hapo_lit.gates import BetaGate, Memory
from hapo_lit.teacher import NegativeLogLikelihood
from hapo_lit.verify.exact import ExactVerifier
from hapo_lit.weighting import TokenMean

SEQUENCES = {
    "hapo": lambda: [phase(hapo(advantage=SpareFailures(GroupNormalised())), kl=0.1)],
    "warmup": lambda: [
        phase(Supervised(TokenMean()), NegativeLogLikelihood(), steps=2),
        phase(hapo(BetaGate(0.6, memory=Memory(0.9)))),
    ],
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_stopping_at_any_step_and_resuming_is_the_same_run_to_the_bit(make_policy, tokenizer, tmp_path, name):
    through = module(make_policy(), tokenizer, *SEQUENCES[name](), updates_per_batch=2)
    trainer = fit(through, data(tokenizer), tmp_path, every=2)  # two optimiser steps per batch
    states = trainer.optimizers[0].state_dict()["state"]
    for stop in range(1, STEPS):
        resumed = module(make_policy(seed=9), tokenizer, *SEQUENCES[name](), updates_per_batch=2)
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
    for stop in (1, 3):
        resumed, again = module(make_policy(seed=9), tokenizer, phase(hapo())), files()
        fit(resumed, again, resume=tmp_path / f"step={stop}.ckpt")
        assert torch.equal(weights(resumed), weights(through))
        assert again.state_dict() == datamodule.state_dict()


def test_a_foreign_checkpoint_is_refused(make_policy, tokenizer):
    with pytest.raises(ValueError, match="not written by hapo_lit"):
        module(make_policy(), tokenizer, phase(hapo())).on_load_checkpoint({})

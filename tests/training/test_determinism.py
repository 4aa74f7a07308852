"""What ``deterministic=true`` sets, and what is said of an operation that has no deterministic form."""

from __future__ import annotations

import os

import pytest
import torch
from support.configs import composed
from support.training import hapo, module, phase

from hapo_lit.cli.session import isolated_job
from hapo_lit.cli.setup import build
from hapo_lit.rollout.vllm import VLLMEngine
from hapo_lit.training.determinism import make_deterministic, without_deterministic_form
from hapo_lit.training.update_notices import update_notices


def state():
    cudnn = torch.backends.cudnn
    return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark


@pytest.fixture
def job(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = state()
    with isolated_job():
        yield
    assert state() == before


@pytest.mark.parametrize("verb", ["train", "fabric", "pretrain"])
def test_every_verb_that_trains_makes_its_job_deterministic_and_no_other(job, verb):
    with isolated_job():
        build(composed(verb, "deterministic=true", "paths.run=run", "model.path=none"))
        assert state() == (True, True, False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    build(composed(verb, "paths.run=run", "model.path=none"))
    assert not state()[0]


def test_an_environment_that_contradicts_it_is_refused(job, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(ValueError, match=r"CUBLAS_WORKSPACE_CONFIG=:0:0 contradict one another: unset that"):
        make_deterministic()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    make_deterministic()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_an_operation_without_a_deterministic_form_is_named(job):
    make_deterministic()
    with pytest.raises(RuntimeError) as error:
        torch.zeros(3).put_(torch.tensor([1, 1]), torch.ones(2))
    assert "deterministic=true: the operation put_ has no deterministic form" in without_deterministic_form(error.value)
    wrapped = ValueError("a part failed")
    wrapped.__cause__ = error.value
    assert "put_" in without_deterministic_form(wrapped)
    assert without_deterministic_form(RuntimeError("something else")) is None


def test_a_run_says_that_vllm_is_beyond_it(job, make_policy, tokenizer):
    part = hapo()
    built = module(make_policy(), tokenizer, phase(part), minibatches=2)
    make_deterministic()
    assert update_notices(built, 4) == []
    part.engine = VLLMEngine(4, 4, 4, 4)
    assert "no other engine than rollout=hf" in update_notices(built, 4)[0]

"""Whole runs with the engines that are not the trainer: what they reach, what ends them, and how they resume."""

from __future__ import annotations

import copy
import socket

import pandas as pd
import pytest
import torch
from support.builders import write_base
from support.commands import SMALL, hapo, vllm_hapo
from support.forked_runs import forked_runs
from support.once import few_of
from support.processes import soon
from support.servers import NEEDS_VLLM, SERVED, Relay, free_port, needs_vllm, serving
from support.training import STEPS, data, fit, module, phase
from support.training import hapo as algorithm

from hapo_lit.errors import EngineError
from hapo_lit.rollout.hf import HFEngine
from hapo_lit.training.callbacks.watchdog import Watchdog

RUN = ["model.path=./base", "gate=always", "teacher_check=trusted", *SMALL]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a random base policy, whose heads are too small for vLLM as they are."""
    folder = tmp_path_factory.mktemp("engines")
    write_base(folder / "base")
    return folder


def without(*keys):
    """Settings of a short run but for these."""
    return [setting for setting in RUN if setting.split("=")[0] not in keys]


def column(run, name):
    return pd.read_csv(run / "metrics.csv")[name].dropna()


def policy_bytes(run):
    return (run / "policy/model.safetensors").read_bytes()


# -- the watchdog


class Stale(HFEngine):
    """An engine that takes the policy's weights once, and never again."""

    is_trainer = False

    def sync(self, policy):
        if self._policy is None:
            super().sync(copy.deepcopy(policy))


def stale_vllm():
    from hapo_lit.rollout.vllm import VLLMEngine

    class StaleVLLM(VLLMEngine):
        is_trainer = False

        def sync(self, policy):
            if self._vllm is None:
                super().sync(policy)

    return StaleVLLM(12, 30, 4, 4, seed=3)


@pytest.mark.parametrize("kind", ["hf", pytest.param("vllm", marks=NEEDS_VLLM)])
def test_stale_weights_raise_the_alarm(make_policy, tokenizer, kind):
    part = algorithm()
    part.engine = Stale(12, seed=3) if kind == "hf" else stale_vllm()
    built = module(make_policy(), tokenizer, phase(part))
    with pytest.raises(EngineError, match=r"does not sample from the policy: at step \d+ they differ by"):
        fit(built, data(tokenizer), watch=Watchdog(every=1, max_gap=0.05))
    assert 1 <= built.step < STEPS  # the first step's weights were the policy's
    if kind == "vllm":
        part.close()


def test_an_engine_that_is_the_trainer_raises_none(make_policy, tokenizer):
    built = module(make_policy(), tokenizer, phase(algorithm()))
    before = torch.get_rng_state()
    fit(built, data(tokenizer), watch=Watchdog(every=1, max_gap=1e-4))
    assert built.step == STEPS
    assert torch.equal(torch.get_rng_state(), before)


def test_a_watchdog_that_watches_nothing_is_refused():
    for settings in ({"every": 0}, {"rows": 0}, {"max_gap": 0.0}):
        with pytest.raises(ValueError, match=r"^(every|rows|max_gap) must be"):
            Watchdog(**settings)
    Watchdog(every=None, max_gap=None)


# -- runs


@pytest.mark.slow
def test_a_run_without_its_server_is_one_line(work):
    address = ["rollout=vllm_server", f"rollout.urls=[http://127.0.0.1:{free_port()}]"]
    done = hapo(work, "train", *RUN, *address, check=False)
    assert done.returncode == 2
    assert "does not answer" in done.stderr
    assert "start it with `hapo serve`" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param(["rollout=hf"], "starts a server for a run with rollout=vllm_server", marks=NEEDS_VLLM),
        pytest.param(["rollout=vllm_server", "rollout.transfer=post"], "must be one of file, nccl", marks=NEEDS_VLLM),
    ],
)
def test_a_server_that_cannot_be_is_one_line(work, settings, message):
    done = hapo(work, "serve", "model.path=./base", *settings, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@needs_vllm
@pytest.mark.slow
def test_an_address_that_is_taken_is_said_before_a_server_is_started(work):
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        address = ["rollout=vllm_server", f"rollout.urls=[{url}]"]
        done = hapo(work, "serve", "model.path=./base", *address, check=False)
    assert done.returncode == 2
    assert f"rollout.urls=[{url}]: nothing can listen there" in done.stderr
    assert "Traceback" not in done.stderr


@needs_vllm
def test_a_run_with_vllm_stops_and_goes_on_to_the_bit(work):
    settings = [*RUN, "rollout=vllm", "callbacks.watchdog.every=1"]
    done = vllm_hapo(work, "train", *settings, "hydra.run.dir=through")
    assert "Traceback" not in done.stderr, done.stderr
    assert len(column(work / "through", "engine/logprob_gap_max")) == 4
    assert column(work / "through", "engine/logprob_gap_max").max() < 1e-4
    vllm_hapo(work, "train", *settings, "resume=through/checkpoints/step-2.ckpt", "hydra.run.dir=on")
    assert policy_bytes(work / "on") == policy_bytes(work / "through")


@needs_vllm
@pytest.mark.exhaustive
def test_jobs_of_a_sweep_have_each_the_vllm_that_they_need(work):
    settings = [*without("steps"), "steps=1", "rollout=vllm", "group_size=2,3"]
    done = vllm_hapo(work, "train", *settings, "hydra.sweep.dir=sizes", "callbacks.watchdog.every=1", "-m")
    assert len(list(work.glob("sizes/*/policy/model.safetensors"))) == 2, done.stderr
    assert max(column(run, "engine/logprob_gap_max").max() for run in work.glob("sizes/*_*")) < 1e-4


@needs_vllm
def test_each_of_two_processes_has_its_own_vllm(work):
    """Of seven held-out problems in batches of three one process has two batches and the other has one."""
    settings = [*without("steps", "data.source.heldout_size"), "steps=2", "data.source.heldout_size=7"]
    settings += ["+data.heldout_batch=3", "rollout=vllm", "callbacks.watchdog.every=1"]
    done = vllm_hapo(work, "fabric", *settings, "fabric.devices=2", "fabric.strategy=fsdp", "hydra.run.dir=two")
    assert "Traceback" not in done.stderr, done.stderr
    assert column(work / "two", "engine/logprob_gap_max").max() < 1e-4
    assert len(column(work / "two", "engine/logprob_gap_max")) == 2
    assert len(column(work / "two", "heldout/greedy")) == 2


@pytest.fixture(params=few_of(["relay", "server"], ["relay"]))
def mortal(request, work, served):
    """The address of a server that is to die, and what kills it."""
    if request.param == "relay":
        relay = Relay(served)
        yield relay.url, relay.kill
    else:
        with serving(work, "model.path=./base", *SERVED, cold=True) as (url, process):
            yield url, process.kill


@needs_vllm
def test_a_server_that_dies_ends_the_run_which_goes_on_with_another(work, mortal, served):
    """One server for two processes at first; killed on the way; another in its place serves the rest."""
    url, die = mortal
    watched = [f"rollout.urls=[{url}]", "rollout=vllm_server", "callbacks.watchdog.every=1"]
    two = [*without("steps", "save_every", "data.source.heldout_size"), *watched, "steps=2", "save_every=2"]
    two += ["data.source.heldout_size=7", "+data.heldout_batch=3", "fabric.devices=2", "fabric.strategy=ddp"]
    hapo(work, "fabric", *two, "hydra.run.dir=shared")  # one process has a batch more to evaluate
    assert column(work / "shared", "engine/logprob_gap_max").max() < 1e-4
    long = [*without("steps", "save_every", "eval_every"), *watched, "hydra.run.dir=served"]
    long += ["steps=12", "save_every=1", "eval_every=100"]
    run = forked_runs().start(work, "train", *long)
    assert soon(lambda: run.ended() or list(work.glob("served/checkpoints/step-*.ckpt")), 120)
    die()
    done = run.wait()
    assert done.returncode == 2, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert "the rollout engine vllm_server at" in line
    assert "to continue: resume=auto" in line
    assert "Traceback" not in done.stderr
    done = hapo(work, "train", *long, f"rollout.urls=[{served}]", "resume=auto")  # at another address
    assert "resuming after step" in done.stdout
    assert column(work / "served", "reward/mean").size > 0
    assert (work / "served/policy/model.safetensors").is_file()

"""Weights that are not finite are neither saved, nor resumed from, nor exported, and the run says why."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from support.commands import SMALL, hapo
from support.training import data, module, phase
from support.training import hapo as algorithm
from torch.distributed.checkpoint import state_dict_saver

from hapo_lit.errors import NotFiniteError, ResumeError
from hapo_lit.storage.checksums import checksum_of
from hapo_lit.training.callbacks.checkpointer import Checkpointer
from hapo_lit.training.checkpoint_faults import check, fault
from hapo_lit.training.checkpoint_folder import CheckpointFolder
from hapo_lit.training.checkpoint_format import META, write_manifest
from hapo_lit.training.finite import not_finite
from hapo_lit.training.run_state import FORMAT, capture

ALONE = SimpleNamespace(loggers=[], is_global_zero=True, limit_val_batches=None)
"""The trainer of a run without logs."""
SPIKE = """
class Spike:
    def __init__(self, **others):
        pass

    def __call__(self, progress):
        return 1e-3 if progress < 0.7 else 1e37
"""
"""A learning rate that is too high in the last of four steps alone, where a trial before the run does not look."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_one_number_in_a_nested_state_is_found(dtype):
    state = {
        "a": torch.zeros(3, dtype=dtype),
        "b": [{"c": torch.ones(2, 50, dtype=dtype)}],
        "n": torch.arange(3),
        "x": 1,
    }
    assert not_finite(state) == []
    assert not_finite({"empty": torch.zeros(0), "largest": torch.full((2,), torch.finfo(dtype).max, dtype=dtype)}) == []
    for wrong in (math.nan, math.inf, -math.inf):
        state["b"][0]["c"][1, 49] = wrong
        assert not_finite(state) == ["b.0.c"]


@pytest.fixture
def run(make_policy, tokenizer):
    """A module with an optimiser that has made a step."""
    built = module(make_policy(), tokenizer, phase(algorithm()))
    built.data, built.step = data(tokenizer), 1
    built.optimizer = built.configure_optimizers()
    for parameter in built.policy.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    built.optimizer.step()
    return built


def moments(built):
    return next(iter(built.optimizer.state.values()))["exp_avg"]


@pytest.mark.parametrize("of", [lambda built: built.policy.get_input_embeddings().weight, moments])
@pytest.mark.parametrize("evaluated_next", [False, True])
def test_a_run_stops_before_it_saves_or_measures_them(run, tmp_path, of, evaluated_next):
    checkpointer = Checkpointer(str(tmp_path), 1, evaluate_every=1 if evaluated_next else 100)
    checkpointer.on_train_batch_end(ALONE, run)
    if not evaluated_next:
        assert checkpointer.folder.steps() == [1]
    run.step = 2
    with torch.no_grad():
        of(run).view(-1)[3] = math.nan
    run.optimizer.param_groups[0]["lr"] = math.inf
    with pytest.raises(NotFiniteError, match=r"after step 2 weights are not finite \(.*the last update had.*rate=inf"):
        checkpointer.on_train_batch_end(ALONE, run)
    assert checkpointer.folder.steps() == ([] if evaluated_next else [1])


def test_what_an_earlier_version_saved_of_them_is_passed_over(run, tmp_path):
    folder = CheckpointFolder(tmp_path, keep=-1)
    folder.write(1, capture(run, run.data, {}))
    with torch.no_grad():
        moments(run).view(-1)[3] = math.inf
    folder.write(2, capture(run, run.data, {}))
    with torch.no_grad():
        run.policy.lm_head.weight[1] = math.nan
    folder.write(3, capture(run, run.data, {}))
    newest, lines = folder.newest()
    assert newest == folder.path(1)
    assert all("was passed over: weights that are not finite: " in line for line in lines)
    assert "module.policy." in lines[0]
    assert lines[1].endswith("optimizer.state.0.exp_avg")
    with pytest.raises(ResumeError, match=r"not finite: module\.policy"):
        check(folder.path(3))


def test_so_are_shards(tmp_path):
    tensors = {f"module.policy.{index}": torch.full((40,), float(index)) for index in range(5)}
    for step in (1, 2):
        folder = tmp_path / f"step-{step}.ckpt"
        state_dict_saver.save(tensors, checkpoint_id=folder, no_dist=True)
        torch.save({"format": FORMAT, "optimizer": {}}, folder / META)
        write_manifest(folder, {file.name: checksum_of(file) for file in folder.iterdir()})
        tensors["module.policy.3"][7] = math.nan
    assert fault(tmp_path / "step-1.ckpt") is None
    assert fault(tmp_path / "step-2.ckpt") == "weights that are not finite: module.policy.3"
    assert CheckpointFolder(tmp_path).newest()[0] == tmp_path / "step-1.ckpt"


@pytest.mark.slow
def test_no_policy_is_exported_that_is_not_finite(base, tmp_path):
    settings = [f"model.path={base}", *SMALL, "gate=always", "teacher_check=trusted", "hydra.run.dir=run"]
    settings = [setting for setting in settings if "checkpointer" not in setting]
    settings += ["callbacks.checkpointer=null", "optim.weight_decay=34", "learning_rate._target_=mine.Spike"]
    (tmp_path / "mine.py").write_text(SPIKE)
    done = hapo(tmp_path, "train", *settings, check=False)
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("hapo: error: after step 4 weights are not finite (policy.")
    assert not (tmp_path / "run/policy").exists()

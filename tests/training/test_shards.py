"""Sharded checkpoints that are written while training goes on, here by a process alone with its FSDP2 module."""

from __future__ import annotations

import threading
from signal import SIGTERM
from types import SimpleNamespace

import pytest
import torch
from support.processes import soon
from support.survival import assert_equal
from support.training import data, hapo, module, phase
from torch.distributed.checkpoint.filesystem import FileSystem

from hapo_lit.cli.session import isolated_job
from hapo_lit.errors import ResumeError, SaveError
from hapo_lit.training.callbacks.checkpointer import Checkpointer
from hapo_lit.training.callbacks.stop_signals import Stopped
from hapo_lit.training.checkpoint_faults import check
from hapo_lit.training.checkpoint_folder import CheckpointFolder
from hapo_lit.training.checkpoint_format import META, damage, load, reader_of
from hapo_lit.training.fabric_loop import FabricTrainerAdapter, train
from hapo_lit.training.fabric_setup import open_fabric, set_up
from hapo_lit.training.interfaces import RunCallback
from hapo_lit.training.optimizer import trained_parameters, unwrapped
from hapo_lit.training.run_state import capture
from hapo_lit.training.shards import ShardWriter, load_shards, load_whole, tensors_in

ALONE = SimpleNamespace(loggers=[], is_global_zero=True, limit_val_batches=None)
"""The trainer of a run without logs."""


@pytest.fixture(scope="module")
def fabric():
    with isolated_job():
        opened = open_fabric("cpu", 1, 1, "fsdp", "32-true")
        opened.launch()
        yield opened


@pytest.fixture
def sharded(fabric, make_policy, tokenizer):
    """Makes a sharded module, wrapped."""

    def make(seed=0):
        built = module(make_policy(seed=seed), tokenizer, phase(hapo()))
        return set_up(fabric, built, data(tokenizer))

    return make


def saving(folder, built, every=2):
    checkpointer = Checkpointer(str(folder), every, evaluate_every=100, best=None)
    checkpointer.shards = ShardWriter(built)
    return checkpointer


def moved(built, step):
    """One optimiser's step further."""
    for parameter in built.policy.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    unwrapped(built.optimizer).step()
    built.step = step


def copied(built):
    """What a checkpoint in one file holds."""
    state = capture(built, built.data, {})
    return {part: state[part] for part in ("module", "optimizer", "run", "data")}


@pytest.fixture
def gate(monkeypatch):
    """Holds every write to a checkpoint in its place until it is set; afterwards ``fault`` is raised there, if any."""
    opened, create = threading.Event(), FileSystem.create_stream
    opened.fault = None

    def held(self, path, mode):
        if mode == "wb":
            assert opened.wait(60), "training waited for the checkpoint"
            if opened.fault is not None:
                raise opened.fault
        return create(self, path, mode)

    monkeypatch.setattr(FileSystem, "create_stream", held)
    yield opened
    opened.set()


def test_training_goes_on_and_the_checkpoint_is_of_its_own_step(fabric, sharded, gate, tmp_path):
    wrapped, copies = sharded(), {}
    built, folder = wrapped.module, CheckpointFolder(tmp_path)

    class Watch(RunCallback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            copies[pl_module.step] = copied(pl_module)
            if pl_module.step == 3:
                assert folder.newest() == (None, [])
                assert folder.draft(2).is_dir()
                gate.set()

    adapter = FabricTrainerAdapter(fabric, [], [Watch(), saving(tmp_path, built)])
    train(adapter, wrapped, built.data, 4, eval_every=100)
    assert folder.steps() == [2, 4]
    for step in (2, 4):
        check(folder.path(step))
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.path(step).iterdir()}
        assert set(modes.values()) == {0o600}, modes
        assert folder.path(step).stat().st_mode & 0o777 == 0o700
        state = load_whole(folder.path(step))
        assert_equal({part: state[part] for part in copies[step]}, copies[step], f"step {step}")
    assert not torch.equal(*(copies[step]["module"]["policy.model.norm.weight"] for step in (2, 3)))


def test_one_is_written_at_a_time_and_what_it_holds_comes_back(sharded, gate, tmp_path):
    built, folder = sharded().module, CheckpointFolder(tmp_path)
    moved(built, 1)
    writer, states = ShardWriter(built), []
    for step in (1, 2):
        states.append(copied(built))
        threading.Timer(0.05, gate.set).start()
        state = capture(built, built.data, {}, weights=False)
        writer.write(folder.draft(step), state, lambda step=step: folder.publish(step))
        assert folder.steps() == [1][: step - 1]  # the second has waited for the first
        moved(built, step + 1)
    writer.wait()
    assert not writer.is_writing
    other = sharded(seed=5).module
    for step, state in enumerate(states, start=1):
        parameters = trained_parameters(other.policy)
        load_shards(other, unwrapped(other.optimizer), parameters, folder.path(step))
        found = copied(other)
        for part in ("module", "optimizer"):
            assert_equal(found[part], state[part], part)
    assert list(tensors_in(folder.path(2), "module.policy.model.norm")) == ["module.policy.model.norm.weight"]


def test_a_write_that_fails_ends_the_run_at_the_next_step(sharded, gate, tmp_path):
    built = sharded().module
    checkpointer = saving(tmp_path / "checkpoints", built, every=1)
    gate.set()
    moved(built, 1)
    checkpointer.on_train_batch_end(ALONE, built)
    checkpointer.wait()
    gate.fault = OSError(28, "No space left on device")
    moved(built, 2)
    checkpointer.on_train_batch_end(ALONE, built)
    built.step = 3
    assert soon(lambda: checkpointer.shards.has_ended, 60)
    told = r"checkpoint of step 2 could not be written to .*\(rank 0: [^:\n]*No space left on device\): make room"
    with pytest.raises(SaveError, match=told):
        checkpointer.on_train_batch_end(ALONE, built)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["last.ckpt", "step-1.ckpt"]
    checkpointer.settle()  # nothing is left to wait for


def test_a_run_asked_to_stop_leaves_when_its_checkpoint_has_its_name(sharded, gate, tmp_path):
    built = sharded().module
    checkpointer = saving(tmp_path, built)
    checkpointer.signals.received = SIGTERM
    moved(built, 1)
    threading.Timer(0.05, gate.set).start()
    with pytest.raises(Stopped) as stopped:
        checkpointer.on_train_batch_end(ALONE, built)
    check(stopped.value.path)


def test_a_run_that_ends_by_another_error_says_what_became_of_its_checkpoint(sharded, gate, tmp_path, capsys):
    built = sharded().module
    checkpointer = saving(tmp_path, built, every=1)
    gate.fault = OSError(5, "Input/output error")
    moved(built, 1)
    checkpointer.on_train_batch_end(ALONE, built)
    gate.set()
    checkpointer.settle()
    assert "the checkpoint of step 1 could not be written" in capsys.readouterr().err


def test_another_models_or_an_earlier_versions_are_refused(sharded, fabric, make_policy, tokenizer, tmp_path):
    built, folder = sharded().module, CheckpointFolder(tmp_path)
    ShardWriter(built, in_background=False).write(
        folder.draft(1), capture(built, built.data, {}, weights=False), lambda: folder.publish(1)
    )
    wider = set_up(fabric, module(make_policy(intermediate_size=64), tokenizer, phase(hapo())), data(tokenizer)).module
    with pytest.raises(ResumeError, match=r"another model: policy.*is \(48, 32\) there and \(64, 32\) here"):
        load_shards(wider, unwrapped(wider.optimizer), trained_parameters(wider.policy), folder.path(1))
    state = load(folder.path(1))
    del state["optimizer"]
    (folder.path(1) / META).unlink()  # it is mapped
    torch.save(state, folder.path(1) / META)
    assert damage(folder.path(1)) == f"checksum of {META}"
    with pytest.raises(ResumeError, match="sharded checkpoint of an earlier version"):
        load_whole(folder.path(1))


def test_each_file_has_one_rank_that_checks_it():
    names = [".metadata", "meta.pt", *(f"__{rank}_0.distcp" for rank in range(12))]
    assert [reader_of(name, 4) for name in names] == [0, 0, *(rank % 4 for rank in range(12))]

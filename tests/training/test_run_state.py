"""Run states and their folder: what is written is whole or has no name, and what is read is checked."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from support.training import data, hapo, module, phase, weights

from hapo_lit.errors import ResumeError
from hapo_lit.gates import BetaGate, Memory
from hapo_lit.policy.loading import load_policy, load_tokenizer
from hapo_lit.policy.sharding import full_state_dict, shard_optimizer_state
from hapo_lit.training.checkpoint_folder import CheckpointFolder, step_of
from hapo_lit.training.checkpoint_format import MANIFEST, damage, load, load_checked
from hapo_lit.training.export import export
from hapo_lit.training.run_state import FORMAT, capture, changed, restore

STATE = {"format": FORMAT, "numbers": torch.arange(1000.0)}


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(tmp_path / "checkpoints", keep=2)


def names(folder):
    return sorted(path.name for path in folder.folder.iterdir())


def test_the_newest_and_the_best_stay(folder):
    for step in (2, 4, 6, 8, 10):
        folder.write(step, STATE)
        if step == 4:
            folder.mark_best(4)
    assert names(folder) == ["best.ckpt", "last.ckpt", "step-10.ckpt", "step-4.ckpt", "step-8.ckpt"]
    assert step_of(folder.folder / "last.ckpt") == 10
    assert step_of(folder.folder / "best.ckpt") == 4
    assert torch.equal(load_checked(folder.folder / "last.ckpt")["numbers"], STATE["numbers"])
    folder.mark_best(10)
    folder.write(12, STATE)
    assert folder.steps() == [10, 12]


def test_all_stay_if_asked(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=-1)
    for step in range(1, 6):
        folder.write(step, STATE)
    assert folder.steps() == [1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="keep must be at least 1"):
        CheckpointFolder(tmp_path, keep=0)


def cut(path):
    path.write_bytes(path.read_bytes()[:-300])


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[raw.find(np.float32(500).tobytes())] ^= 1  # in the middle of the numbers
    path.write_bytes(raw)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [cut, flip, empty])
def test_a_damaged_state_is_named_set_aside_and_the_one_before_is_used(folder, harm):
    for step in (2, 4):
        folder.write(step, STATE)
    harm(folder.path(4))
    path, passed = folder.newest()
    assert path == folder.path(2)
    assert len(passed) == 1
    assert str(folder.path(4)) in passed[0]
    with pytest.raises(ResumeError, match="damaged"):
        load_checked(folder.path(4))
    assert folder.tidy() == (path, passed)
    assert names(folder) == ["last.ckpt", "step-2.ckpt", "step-4.damaged"]
    assert step_of(folder.folder / "last.ckpt") == 2


def test_no_flipped_bit_stops_a_run_from_going_on(folder):
    """Whatever it hits, in the archive's directory too, the state is passed over or is as it was."""
    folder.write(2, STATE)
    folder.write(4, STATE)
    whole = folder.path(4).read_bytes()
    draw = np.random.default_rng(0)
    passed = 0
    for place in draw.integers(len(whole) - 1200, len(whole), 150):  # where the directory is
        raw = bytearray(whole)
        raw[place] ^= 1 << draw.integers(8)
        folder.path(4).write_bytes(raw)
        path, lines = folder.newest()
        passed += path == folder.path(2)
        assert len(lines) == (path == folder.path(2))
        assert torch.equal(load(path)["numbers"], STATE["numbers"])
    assert passed > 50


def test_what_never_got_a_name_is_no_state(folder):
    folder.write(2, STATE)
    torch.save(STATE, folder.draft(4))
    assert folder.newest() == (folder.path(2), [])
    folder.tidy()
    assert names(folder) == ["last.ckpt", "step-2.ckpt"]


def test_a_sharded_state_is_checked_file_by_file(folder):
    for step in (2, 4):
        unfinished = folder.draft(step)
        unfinished.mkdir(parents=True)
        torch.save(STATE, unfinished / "meta.pt")
        (unfinished / "__0_0.distcp").write_bytes(b"shard" * 100)
        folder.publish(step)
    assert damage(folder.path(4)) is None
    assert torch.equal(load(folder.path(4))["numbers"], STATE["numbers"])
    (folder.path(4) / "__0_0.distcp").write_bytes(b"shark" * 100)
    assert damage(folder.path(4)) == "checksum of __0_0.distcp"
    (folder.path(4) / "__0_0.distcp").unlink()
    assert "No such file" in damage(folder.path(4))
    (folder.path(4) / MANIFEST).write_text("{")
    assert damage(folder.path(4)) is not None
    assert folder.newest()[0] == folder.path(2)


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"format": 99}, [1, 2]])
def test_what_is_not_ours_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "step-1.ckpt")
    with pytest.raises(ResumeError, match="no checkpoint of this version"):
        load_checked(tmp_path / "step-1.ckpt")


def test_no_state_is_no_state(tmp_path):
    assert CheckpointFolder(tmp_path / "nothing").newest() == (None, [])
    with pytest.raises(ResumeError, match="not named like a checkpoint"):
        step_of(tmp_path / "model.pt")


# -- what is in it


class Alone:
    """What a module's optimiser is without any door."""

    def __init__(self, module):
        module.optimizer = module.configure_optimizers()
        self.module = module

    def step(self):
        for parameter in self.module.policy.parameters():
            parameter.grad = torch.full_like(parameter, 0.5)
        self.module.optimizer.step()


def run_of(make_policy, tokenizer, seed=0, **gate):
    built = module(make_policy(seed=seed), tokenizer, phase(hapo(**gate)))
    built.data = data(tokenizer)
    return built


def remembering(**settings):
    return BetaGate(0.6, memory=Memory(0.5), **settings)


def test_a_state_brings_back_everything(make_policy, tokenizer):
    first = run_of(make_policy, tokenizer, gate=remembering())
    alone = Alone(first)
    alone.step()
    gate = next(iter(first.phases)).algorithm.gate
    gate.observe(torch.tensor([3, 4]), torch.tensor([1, 2]), torch.tensor([4, 4]))
    first.step, first.skips.in_a_row = 5, 2
    first.data.advance(first.data.batch(4), 5)
    random.seed(7)
    torch.manual_seed(7)
    state = capture(first, first.data, {"seed": 1})
    drawn = random.random(), np.random.random(), torch.rand(1)  # noqa: NPY002

    second = run_of(make_policy, tokenizer, seed=9, gate=remembering())
    assert not torch.equal(weights(first), weights(second))
    restore(state, second, second.data)
    assert torch.equal(weights(first), weights(second))
    assert (second.step, second.skips.in_a_row) == (5, 2)
    assert second.data.state_dict() == first.data.state_dict()
    again = next(iter(second.phases)).algorithm.gate
    assert str(again.state_dict()) == str(gate.state_dict())
    assert (random.random(), np.random.random(), torch.rand(1)) == drawn  # noqa: NPY002
    Alone(second).step()
    alone.step()
    assert torch.equal(weights(first), weights(second))  # the moments were there


def test_a_state_is_a_copy(make_policy, tokenizer):
    built = run_of(make_policy, tokenizer)
    Alone(built)
    state = capture(built, built.data, {})
    before = {name: value.clone() for name, value in state["module"].items()}
    with torch.no_grad():
        next(built.policy.parameters()).add_(1.0)
    assert all(torch.equal(before[name], value) for name, value in state["module"].items())


def test_another_run_is_refused_with_what_differs(make_policy, tokenizer):
    built = run_of(make_policy, tokenizer, gate=remembering())
    Alone(built)
    state = capture(built, built.data, {})
    other = run_of(make_policy, tokenizer, gate=remembering(prior_beta=3.0))
    with pytest.raises(ResumeError, match=r"another prior of BetaGate \(\(1.0, 1.0\) then, \(1.0, 3.0\) now\)"):
        restore(state, other, other.data)
    wider = module(make_policy(intermediate_size=64), tokenizer, phase(hapo(gate=remembering())))
    with pytest.raises(ResumeError, match=r"another model: policy.*is \(48, 32\) there and \(64, 32\) here"):
        restore(state, wider, built.data)
    deeper = module(make_policy(num_hidden_layers=3), tokenizer, phase(hapo(gate=remembering())))
    with pytest.raises(ResumeError, match=r"only this run's model has 'policy\.model\.layers\.2"):
        restore(state, deeper, built.data)
    state["data"]["tokenizer"] = "another"
    with pytest.raises(ResumeError, match=r"another tokenizer \(another then"):
        restore(state, built, built.data)


def test_settings_that_differ_are_listed():
    assert changed({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 4, "d": 5}) == [
        "b: 2 -> 4",
        "c: 3 -> (absent)",
        "d: (absent) -> 5",
    ]


def test_an_export_is_a_hugging_face_folder_and_replaces_only_when_it_is_complete(make_policy, tokenizer, tmp_path):
    policy = make_policy(tie_word_embeddings=True)
    policy.config.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    export(policy.state_dict(), tmp_path / "model", None, tmp_path / "out")
    loaded = load_policy(str(tmp_path / "out"))
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), policy.parameters(), strict=True))
    assert load_tokenizer(str(tmp_path / "out")).get_vocab() == tokenizer.get_vocab()
    with pytest.raises(ResumeError, match="does not fit the model of its run"):
        export(make_policy(hidden_size=64).state_dict(), tmp_path / "model", None, tmp_path / "out")
    assert all(
        torch.equal(a, b)
        for a, b in zip(load_policy(str(tmp_path / "out")).parameters(), policy.parameters(), strict=True)
    )


def test_whole_keeps_the_shape_of_a_state_and_nothing_where_nothing_is_kept():
    state = {"a": [torch.ones(2), 3], "b": {"c": (torch.zeros(1), None)}, "d": "text"}
    kept = full_state_dict(state, keep=True)
    assert str(kept) == str(state)
    assert kept["a"][0] is not state["a"][0]
    assert full_state_dict(state, keep=False) == {"a": [None, 3], "b": {"c": (None, None)}, "d": "text"}


def test_moments_of_an_unsharded_optimiser_stay_as_they_are():
    parameter = torch.nn.Parameter(torch.ones(3))
    state = {"state": {0: {"step": torch.tensor(2.0), "exp_avg": torch.ones(3)}}, "param_groups": [{"params": [0]}]}
    assert str(shard_optimizer_state(state, [parameter])) == str(state)

"""The folder of checkpoints: what has a name is complete, and what is read is checked."""

from __future__ import annotations

import stat
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch

from hapo_lit.errors import ResumeError, SaveError
from hapo_lit.storage.checksums import checksum_of
from hapo_lit.training.checkpoint_faults import check
from hapo_lit.training.checkpoint_folder import CheckpointFolder, step_of
from hapo_lit.training.checkpoint_format import MANIFEST, damage, load, write_manifest
from hapo_lit.training.run_state import FORMAT

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
    assert torch.equal(load(folder.folder / "last.ckpt")["numbers"], STATE["numbers"])
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
def test_a_damaged_checkpoint_is_named_set_aside_and_the_one_before_is_used(folder, harm):
    for step in (2, 4):
        folder.write(step, STATE)
    harm(folder.path(4))
    path, passed = folder.newest()
    assert path == folder.path(2)
    assert len(passed) == 1
    assert str(folder.path(4)) in passed[0]
    with pytest.raises(ResumeError, match="damaged"):
        check(folder.path(4))
    folder.tidy(path)
    assert names(folder) == ["last.ckpt", "step-2.ckpt", "step-4.damaged"]
    assert step_of(folder.folder / "last.ckpt") == 2


def test_no_flipped_bit_stops_a_run_from_going_on(folder):
    """Whatever it hits, in the archive's directory too, the checkpoint is passed over or is as it was."""
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


def test_what_never_got_a_name_is_no_checkpoint(folder):
    folder.write(2, STATE)
    torch.save(STATE, folder.draft(4))
    assert folder.newest() == (folder.path(2), [])
    folder.tidy(folder.path(2))
    assert names(folder) == ["last.ckpt", "step-2.ckpt"]


def test_a_sharded_checkpoint_is_checked_file_by_file(folder):
    for step in (2, 4):
        unfinished = folder.draft(step)
        unfinished.mkdir(parents=True)
        torch.save(STATE, unfinished / "meta.pt")
        (unfinished / "__0_0.distcp").write_bytes(b"shard" * 100)
        write_manifest(unfinished, {file.name: checksum_of(file) for file in unfinished.iterdir()})
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
        load(tmp_path / "step-1.ckpt")


def test_no_checkpoint_is_no_checkpoint(tmp_path):
    assert CheckpointFolder(tmp_path / "nothing").newest() == (None, [])
    with pytest.raises(ResumeError, match="not named like a checkpoint"):
        step_of(tmp_path / "model.pt")


def test_only_its_owner_can_read_a_checkpoint(folder):
    path = folder.write(2, STATE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    folder.draft(4).write_bytes(b"")  # what another version left there
    assert stat.S_IMODE(folder.write(4, STATE).stat().st_mode) == 0o600


def test_a_state_that_would_not_be_read_again_is_not_kept(folder):
    folder.write(2, {**STATE, "gate": {"counts": np.arange(3), "share": np.float64(0.5), "seen": {1, 2}}})
    assert load(folder.path(2))["gate"]["share"] == 0.5
    with pytest.raises(SaveError, match=r"holds pathlib\.PurePosixPath, and no checkpoint with that is ever read"):
        folder.write(4, {**STATE, "gate": PurePosixPath("a")})
    assert folder.steps() == [2]

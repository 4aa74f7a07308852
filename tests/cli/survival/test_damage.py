"""A run whose newest checkpoints are damaged resumes from the one before, and ends exactly where an undisturbed one
does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.survival import ALL, RUN, STEPS, assert_same_end, checkpoints

pytestmark = pytest.mark.slow


def truncate(checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])


def flip(checkpoint: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)


def empty(checkpoint: Path) -> None:
    checkpoint.write_bytes(b"")


@pytest.mark.parametrize(("damage", "newest"), [(truncate, 1), (flip, 2), (empty, 1)])
def test_a_damaged_checkpoint_is_named_set_aside_and_passed_over(runs, work, damage, newest):
    run = work / f"{damage.__name__}-{newest}"
    shutil.copytree(work / "train", run, symlinks=True)
    damaged = [checkpoints(run) / f"step-{step}.ckpt" for step in range(STEPS, STEPS - newest, -1)]
    for checkpoint in damaged:
        damage(checkpoint)
    done = runs.run(work, "train", *RUN, ALL, f"hydra.run.dir={run.name}", "resume=auto")
    assert done.returncode == 0, done.stderr
    for checkpoint in damaged:
        assert f"{checkpoint} is damaged and was passed over: " in done.stderr
        assert checkpoint.with_suffix(".damaged").exists()
    assert f"resuming after step {STEPS - newest} of" in done.stdout
    assert_same_end(run, work / "train")


def test_a_run_whose_checkpoints_are_all_damaged_is_left_as_it_is(runs, work):
    shutil.copytree(work / "train", work / "hopeless", symlinks=True)
    for step in range(1, STEPS + 1):
        empty(checkpoints(work / "hopeless") / f"step-{step}.ckpt")
    for _ in range(2):  # the second time they have been set aside
        done = runs.run(work, "fabric", *RUN, ALL, "hydra.run.dir=hopeless", "resume=auto")
        assert done.returncode == 2
        assert "every checkpoint in hopeless/checkpoints is damaged" in done.stderr.replace(f"{work}/", "")
    for name in ("metrics.csv", "groups.csv", "completions.jsonl", "policy/model.safetensors"):
        assert (work / "hopeless" / name).read_bytes() == (work / "train" / name).read_bytes()

"""A run on two processes that dies in the middle of an asynchronous checkpoint resumes from the one before, and ends
exactly where an undisturbed one does."""

from __future__ import annotations

import re
import shutil
from signal import SIGKILL, SIGTERM

import pytest
from support.once import few_of
from support.survival import RUN, assert_same_end, checkpoints

from hapo_lit.training.checkpoint_faults import check
from hapo_lit.training.checkpoint_folder import CheckpointFolder

pytestmark = pytest.mark.slow
SHARDS = ["fabric", *RUN, "eval_every=3", "fabric.strategy=fsdp", "fabric.devices=2"]
POINTS = (
    "mkdir .step-1.ckpt.unfinished",
    "create .step-1.ckpt.unfinished/__0_0.distcp",
    "create .step-2.ckpt.unfinished/__1_0.distcp",
    "create .step-2.ckpt.unfinished/.metadata.tmp",
    "rename .step-2.ckpt.unfinished/.metadata.tmp",
    "create .step-3.ckpt.unfinished/meta.pt",
    "create .step-3.ckpt.unfinished/manifest.json",
    "rename .step-4.ckpt.unfinished",
    "symlink .last.ckpt.unfinished",
    "rename step-2.ckpt",
    "remove __1_0.distcp",
)
"""In the order in which a run that goes on comes to them."""
DEATHS = {"few": (4, [POINTS[2]]), "all": (10, POINTS)}
"""Name -> steps of the run, and where it dies."""


def settings(run, steps):
    return [*SHARDS, f"steps={steps}", f"hydra.run.dir={run.name}"]


@pytest.mark.parametrize("deaths", few_of(DEATHS, ["few"]))
def test_a_run_may_die_at_any_moment_of_an_asynchronous_checkpoint(runs, work, deaths):
    """It goes on past a later checkpoint in which a shard is damaged, too."""
    steps, points = DEATHS[deaths]
    run, undisturbed = work / f"sharded-died-{deaths}", work / f"sharded-{deaths}"
    folder = CheckpointFolder(checkpoints(run))
    for death in points:
        done = runs.run(work, *settings(run, steps), "resume=auto", dies_at=death)
        assert done.returncode == -SIGKILL, (death, done.stderr)
        newest, passed_over = folder.newest()
        assert not passed_over
        if unfinished := re.search(r"\.step-(\d+)\.ckpt\.unfinished", death):
            step = int(unfinished[1])
            assert folder.draft(step).exists() == ("mkdir" not in death)
            assert newest == (folder.path(step - 1) if step > 1 else None)

    step = folder.steps()[-1]
    shutil.copytree(folder.path(step), folder.path(step + 1))
    flip_a_bit(folder.path(step + 1) / "__1_0.distcp")
    done = runs.run(work, *settings(run, steps), "resume=auto")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is damaged and was passed over: checksum of __1_0.distcp") == 1
    assert f"resuming after step {step} of {steps}" in done.stdout
    done = runs.run(work, *settings(undisturbed, steps))
    assert done.returncode == 0, done.stderr
    assert_same_end(run, undisturbed, steps)
    best = (checkpoints(undisturbed) / "best.ckpt").resolve().name
    kept = {f"step-{steps - 1}.ckpt", f"step-{steps}.ckpt", best, f"step-{step + 1}.damaged"}
    assert {path.name for path in folder.folder.iterdir()} == {*kept, "last.ckpt", "best.ckpt"}


@pytest.mark.exhaustive
def test_a_run_asked_to_stop_leaves_when_its_checkpoint_has_its_name(runs, work):
    run = work / "sharded-stopped"
    seen = f"{run.name}/checkpoints/.step-*.ckpt.unfinished"
    done = runs.run(work, *settings(run, 10), signal=SIGTERM, seen=seen)
    assert done.returncode == 0, done.stderr
    said = "".join(done.stdout.split())
    found = re.search(r"stoppedafterstep(\d+)bySIGTERM,thecheckpointis([^;]+);", said)
    assert found, said
    check(work / found[2])
    done = runs.run(work, *settings(run, 10), "resume=auto")
    assert done.returncode == 0, done.stderr
    assert f"resuming after step {found[1]} of 10" in done.stdout


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

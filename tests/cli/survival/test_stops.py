"""A run that is asked to stop, or may not start, leaves its folder so that it resumes as if nothing had happened."""

from __future__ import annotations

import re
from signal import SIGHUP, SIGINT, SIGTERM, SIGUSR1

import pytest
from support.once import few_of
from support.processes import soon
from support.survival import RUN, STEPS, VERBS, assert_same_end, checkpoints

pytestmark = pytest.mark.slow
STATUS = {SIGTERM: 0, SIGINT: 130, SIGHUP: 0, SIGUSR1: 0}
ASKED = [(verb, signal) for verb in VERBS for signal in STATUS]


@pytest.mark.parametrize(("verb", "signal"), few_of(ASKED, [("train", SIGHUP), ("fabric", SIGINT)]))
def test_a_signal_lets_the_step_finish_and_saves(runs, work, verb, signal):
    run, sparse = f"{verb}-{signal.name}", "save_every=100"
    arguments = [*RUN, sparse, f"hydra.run.dir={run}"]
    done = runs.run(work, verb, *arguments, signal=signal, seen=f"{run}/groups.csv", after=0.05)
    assert done.returncode == STATUS[signal], done.stderr
    said = " ".join(done.stdout.split())
    found = re.search(
        rf"stopped after step (\d+) by {signal.name}.*; to resume: hapo (\w+) resume=auto hydra.run", said
    )
    assert found, said
    step = int(found[1])
    assert 1 <= step < STEPS
    assert found[2] == verb
    assert (checkpoints(work / run) / "last.ckpt").resolve().name == f"step-{step}.ckpt"
    assert "Traceback" not in done.stderr
    done = runs.run(work, verb, *arguments, "resume=auto")
    assert done.returncode == 0, done.stderr
    assert f"resuming after step {step} of {STEPS}" in done.stdout
    assert_same_end(work / run, work / verb)


LONG = "group_size=600"
"""Steps of about a second."""


@pytest.mark.parametrize("verb", VERBS)
def test_a_second_signal_ends_the_process_at_once(runs, work, verb):
    run = f"{verb}-impatient"
    arguments = [*RUN, LONG, f"hydra.run.dir={run}"]
    seen = f"{run}/checkpoints/step-1.ckpt"
    done = runs.run(work, verb, *arguments, signal=SIGTERM, seen=seen, after=0.1, again=0.2)
    assert done.returncode == -SIGTERM
    assert not (checkpoints(work / run) / "step-2.ckpt").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_a_run_asked_to_stop_before_its_first_step_says_so(runs, work, verb):
    long = [
        "max_response_tokens=60",
        "+data.heldout_batch=1",
        "data.source.heldout_size=20",
        "data.source.levels.0.digits=2",
    ]
    arguments = [verb, *RUN, f"hydra.run.dir=early-{verb}", *long]
    done = runs.run(work, *arguments, signal=SIGTERM, seen=f"early-{verb}/model/tokenizer.json", after=0.1)
    assert done.returncode == 0, done.stderr
    assert "stopped by SIGTERM before the first step: start it again as you did" in " ".join(done.stdout.split())


def test_only_one_process_trains_in_a_folder(runs, work):
    """The second is refused before it touches anything; the lock goes with the process, however that ends."""
    arguments = ["train", *RUN, "hydra.run.dir=held", "resume=auto"]
    holder = runs.start(work, *arguments, LONG, "save_every=100")
    assert soon((work / "held/config.yaml").exists, 60)
    (work / "held/checkpoints").mkdir(exist_ok=True)
    (work / "held/checkpoints/.step-3.ckpt.unfinished").write_text("in the middle")
    done = runs.run(work, *arguments)
    assert done.returncode == 2
    assert "another process is training in" in done.stderr
    assert (work / "held/checkpoints/.step-3.ckpt.unfinished").exists()
    holder.kill()
    assert holder.wait().returncode < 0
    assert runs.run(work, *arguments).returncode == 0

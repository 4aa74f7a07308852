"""A run that is killed, at any moment and in the middle of any change to its folder, resumes and ends exactly where an
undisturbed one does."""

from __future__ import annotations

import random
import shutil
from signal import SIGKILL

import pytest
from support.once import few_of
from support.survival import RUN, VERBS, checkpoints, finish

pytestmark = pytest.mark.slow
CHAINS, KILLS = 5, 5


def moments(chain: int) -> list[float]:
    """When a chain's attempts are killed, in lives of a whole run: one in each fifth of the first 0.6."""
    draw = random.Random(chain)
    return draw.sample([0.6 * (fifth + (chain + draw.random()) / CHAINS) / KILLS for fifth in range(KILLS)], KILLS)


@pytest.mark.parametrize("chain", few_of(range(CHAINS), [0]))
def test_a_run_killed_again_and_again_ends_in_the_same_place(runs, work, life, chain):
    """The entry points take turns to resume.  Every second time the clock starts at the first checkpoint that is saved,
    so that the run gets on, and ends now and then, however busy the machine is."""
    run, arguments = f"killed-{chain}", [*RUN, f"hydra.run.dir=killed-{chain}", "resume=auto"]
    statuses = []
    for attempt, moment in enumerate(moments(chain)):
        when = {"after": moment * life / 3, "seen": f"{run}/checkpoints/step-*.ckpt"}
        when = when if attempt % 2 else {"after": moment * life}
        done = runs.run(work, VERBS[(chain + attempt) % 2], *arguments, signal=SIGKILL, **when)
        statuses.append(done.returncode)
    assert set(statuses) <= {-SIGKILL, 0}
    assert -SIGKILL in statuses, "it had ended before, every time"
    finish(work, run)


SAVES = {"few": (1, 5, 12), "all": (1, 4, 5, 8, 12)}


@pytest.mark.parametrize("saves", few_of(SAVES, ["few"]))
def test_a_run_killed_while_it_saves_ends_in_the_same_place(runs, work, saves):
    unfinished, run = 0, f"saving-{saves}"
    for attempt, step in enumerate(SAVES[saves]):
        name = f"{run}/checkpoints/.step-{step}.ckpt.unfinished"
        arguments = [VERBS[attempt % 2], *RUN, f"hydra.run.dir={run}", "resume=auto"]
        done = runs.run(work, *arguments, signal=SIGKILL, seen=name)
        assert done.returncode == -SIGKILL, done.stderr
        unfinished += (work / name).exists()
    assert unfinished, "each time the checkpoint had got its name before the signal came"
    finish(work, run)


CHANGES = (
    "mkdir checkpoints",
    "rename .metrics.csv.unfinished",
    "rename .step-1.ckpt.unfinished",
    "symlink .last.ckpt.unfinished",
    "rename .metrics_before.csv.unfinished",
    "rename .groups.csv.unfinished",
    "remove metrics.csv",
    "remove step-2.ckpt",
    "rename .completions.jsonl.unfinished",
    "rename .step-9.ckpt.unfinished",
    "mkdir .policy.unfinished",
    "rename .policy.unfinished",
)
DEATHS = {"few": (CHANGES[2], CHANGES[6], CHANGES[11]), "all": CHANGES}


@pytest.mark.parametrize("deaths", few_of(DEATHS, ["few"]))
def test_a_run_may_die_in_the_place_of_any_change_to_its_folder(runs, work, deaths):
    """Deaths where a kill by the clock hits too rarely to tell; the entry points take turns to resume."""
    run = f"died-{deaths}"
    for attempt, death in enumerate(DEATHS[deaths]):
        arguments = [VERBS[(attempt + 1) % 2], *RUN, f"hydra.run.dir={run}", "resume=auto"]
        done = runs.run(work, *arguments, dies_at=death)
        assert done.returncode == -SIGKILL, (death, done.stdout, done.stderr)
    finish(work, run)
    assert runs.run(work, *arguments, dies_at="rename .policy.unfinished").returncode == -SIGKILL
    assert not (work / run / "policy").exists()  # it was to be replaced
    finish(work, run)


LEFT = {
    "best": ("step-8", "rename .best.ckpt.unfinished"),  # the best so far, and not yet marked as such
    "old": ("step-12", "remove step-10.ckpt"),  # one too many, and no other to come
    "metrics": ("step-6", "rename .metrics.csv.unfinished"),  # a new column makes the logger write all rows again
}


@pytest.mark.parametrize(
    ("verb", "left"),
    few_of(
        [(verb, left) for verb in VERBS for left in LEFT], [("train", "best"), ("fabric", "old"), ("train", "metrics")]
    ),
)
def test_what_was_left_to_do_when_it_died_is_done_when_it_goes_on(runs, work, verb, left):
    last, death = LEFT[left]
    run = f"{verb}-died-after-{last}"
    checkpoints(work / run).mkdir(parents=True)
    for name in (
        "metrics.csv",
        "groups.csv",
        "completions.jsonl",
        "checkpoints/step-4.ckpt",
        "checkpoints/step-5.ckpt",
    ):
        shutil.copy(work / verb / name, work / run / name)
    (checkpoints(work / run) / "best.ckpt").symlink_to("step-4.ckpt")
    done = runs.run(work, verb, *RUN, f"hydra.run.dir={run}", "resume=auto", dies_at=death)
    assert done.returncode == -SIGKILL, done.stderr
    assert (checkpoints(work / run) / "last.ckpt").resolve().stem == last
    finish(work, run)

"""A run that is stopped, killed or damaged goes on and ends exactly where an undisturbed one does.

"Exactly": weights, optimiser, what the module remembers and the position in the data bit for bit; metrics to the last
digit but for times; ``groups.csv``, ``completions.jsonl`` and the written policy byte for byte.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM

import pandas as pd
import pytest
import torch
from support.builders import write_base
from support.forked_runs import ForkedRuns

from hapo_lit.analysis import read_metrics
from hapo_lit.training.checkpoint_format import load
from hapo_lit.training.metric_names import CLOCKED

pytestmark = pytest.mark.slow

VERBS = ("train", "fabric")
STEPS = 12
SUMS = [
    "data.source.heldout_size=6",
    *(f"data.source.levels.{level}.{field}" for level in (0, 1) for field in ("digits=1", "operation=+")),
    "teacher_errors=none",
    "teacher_check=trusted",
    "max_response_tokens=16",
]
LESSON = [  # after which it is right in about half of the cases
    "experiment=sft",
    "model.path=./random",
    "data.source.train_size=60",
    "steps=150",
    "eval_every=150",
    "prompts_per_step=16",
    "learning_rate.start=1e-2",
]
RUN = [
    "model.path=./lesson/policy",
    "data.source.train_size=12",
    f"steps={STEPS}",
    "eval_every=4",
    "save_every=1",
    "prompts_per_step=4",
    "gate=thompson",
    "gate.threshold=0.5",
    "gate.memory.discount=0.9",
    *SUMS,
]
ALL = "callbacks.checkpointer.keep=-1"


@pytest.fixture(scope="module")
def doors():
    with ForkedRuns() as doors:
        yield doors


@pytest.fixture(scope="module")
def life(doors, work):
    """Seconds that a run takes when the machine is as it is now."""
    return doors.run(work, "train", *RUN, "hydra.run.dir=life").seconds


@pytest.fixture(scope="module")
def work(doors, tmp_path_factory):
    """A folder with a base policy, ``lesson/policy``, and an undisturbed run by each door, named as that."""
    folder = tmp_path_factory.mktemp("work")
    write_base(folder / "random")
    for arguments in (
        ["train", *LESSON, *SUMS, "hydra.run.dir=lesson"],
        *([verb, *RUN, ALL, f"hydra.run.dir={verb}"] for verb in VERBS),
    ):
        done = doors.run(folder, *arguments)
        assert done.status == 0, done.stderr
    return folder


def states(run: Path) -> Path:
    return run / "checkpoints"


def assert_equal(found, wanted, where: str) -> None:
    """Two nested states are the same, bit for bit."""
    assert type(found) is type(wanted), where
    if isinstance(wanted, torch.Tensor):
        assert found.dtype == wanted.dtype, where
        assert torch.equal(found, wanted), where
    elif isinstance(wanted, Mapping):
        assert found.keys() == wanted.keys(), where
        for name in wanted:
            assert_equal(found[name], wanted[name], f"{where}.{name}")
    elif isinstance(wanted, Sequence) and not isinstance(wanted, str):
        assert len(found) == len(wanted), where
        for index, pair in enumerate(zip(found, wanted, strict=True)):
            assert_equal(*pair, f"{where}[{index}]")
    else:
        assert found == wanted, where


def assert_same_end(run: Path, undisturbed: Path) -> None:
    """Two runs ended in the same state, and left the same records."""
    end, wanted = (load(states(each) / f"step-{STEPS}.ckpt") for each in (run, undisturbed))
    for part in ("module", "optimizer", "run", "data"):
        assert_equal(end[part], wanted[part], part)
    metrics, expected = read_metrics(run), read_metrics(undisturbed)
    assert sorted(metrics) == sorted(expected)
    timeless = [column for column in expected if not column.startswith(CLOCKED)]
    pd.testing.assert_frame_equal(metrics[timeless], expected[timeless], check_exact=True)
    for name in ("groups.csv", "completions.jsonl", "policy/model.safetensors"):
        assert (run / name).read_bytes() == (undisturbed / name).read_bytes(), name


def test_these_runs_have_something_to_lose(work):
    """The policy changes at most steps, groups differ, the gate opens sometimes and remembers, one state is best."""
    table = read_metrics(work / "train").loc[1:]
    assert (table["update/gradient_norm"] > 0).mean() > 0.8
    assert table["reward/mean"].between(0.1, 0.9).mean() > 0.8
    assert table["gate/open_rate"].nunique() > 2
    visits = pd.read_csv(work / "train/groups.csv")["prompt"].value_counts()
    assert visits.min() > 2
    weights = [load(states(work / "train") / f"step-{step}.ckpt")["module"] for step in range(1, STEPS + 1)]
    assert sum(any(not torch.equal(a[name], b[name]) for name in a) for a, b in pairwise(weights)) >= 9
    assert (states(work / "train") / "best.ckpt").resolve().name == "step-8.ckpt"


def test_both_doors_end_in_the_same_state(work):
    assert_same_end(work / "fabric", work / "train")


# -- going on ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(1, STEPS))
@pytest.mark.parametrize("verb", VERBS)
def test_a_run_goes_on_from_any_step(doors, work, verb, step):
    run = f"{verb}-{step}"
    state = states(work / verb) / f"step-{step}.ckpt"
    done = doors.run(work, verb, *RUN, f"hydra.run.dir={run}", f"resume={state}")
    assert done.status == 0, done.stderr
    assert f"going on after step {step} of {STEPS} from {state}" in done.stdout.replace("\n", "")
    assert_same_end(work / run, work / verb)


@pytest.mark.parametrize("step", [3, 8, 11])
@pytest.mark.parametrize(("verb", "other"), [VERBS, VERBS[::-1]])
def test_each_door_goes_on_from_the_others_state(doors, work, verb, other, step):
    run = f"{verb}-after-{other}-{step}"
    state = states(work / other) / f"step-{step}.ckpt"
    done = doors.run(work, verb, *RUN, f"hydra.run.dir={run}", f"resume={state}")
    assert done.status == 0, done.stderr
    assert_same_end(work / run, work / verb)


# -- killed ------------------------------------------------------------------------------------------------------------

CHAINS, KILLS = 5, 5


def moments(chain: int) -> list[float]:
    """When a chain's attempts are killed, in lives of a whole run: one in each fifth of the first 0.6."""
    draw = random.Random(chain)
    return draw.sample([0.6 * (fifth + (chain + draw.random()) / CHAINS) / KILLS for fifth in range(KILLS)], KILLS)


@pytest.mark.parametrize("chain", range(CHAINS))
def test_a_run_killed_again_and_again_ends_in_the_same_place(doors, work, life, chain):
    """25 kills in all; the doors take turns to go on.  Every second time the clock starts at the first state that is
    saved, so that the run gets on, and ends now and then, however busy the machine is."""
    run, arguments = f"killed-{chain}", [*RUN, f"hydra.run.dir=killed-{chain}", "resume=auto"]
    statuses = []
    for attempt, moment in enumerate(moments(chain)):
        when = {"after": moment * life / 3, "seen": f"{run}/checkpoints/step-*.ckpt"}
        when = when if attempt % 2 else {"after": moment * life}
        statuses.append(doors.run(work, VERBS[(chain + attempt) % 2], *arguments, signal=SIGKILL, **when).status)
    assert set(statuses) <= {-SIGKILL, 0}
    assert -SIGKILL in statuses, "it had ended before, every time"
    finish(doors, work, run)


def finish(doors, work, run):
    """Whatever became of the run, it goes on in its folder, and ends as it should."""
    done = doors.run(work, "train", *RUN, f"hydra.run.dir={run}", "resume=auto")
    assert done.status == 0, done.stderr
    assert_same_end(work / run, work / "train")
    assert not list((work / run).rglob("*unfinished*"))
    best = (states(work / "train") / "best.ckpt").resolve().name
    kept = {f"step-{STEPS - 1}.ckpt", f"step-{STEPS}.ckpt", best}
    assert {path.name for path in states(work / run).iterdir()} == {*kept, "last.ckpt", "best.ckpt"}
    assert (states(work / run) / "last.ckpt").resolve().name == f"step-{STEPS}.ckpt"
    assert (states(work / run) / "best.ckpt").resolve().name == best


def test_a_run_killed_while_it_saves_ends_in_the_same_place(doors, work):
    unfinished = 0
    for attempt, step in enumerate((1, 4, 5, 8, 12)):
        name = f"saving/checkpoints/.step-{step}.ckpt.unfinished"
        arguments = [VERBS[attempt % 2], *RUN, "hydra.run.dir=saving", "resume=auto"]
        done = doors.run(work, *arguments, signal=SIGKILL, seen=name)
        assert done.status == -SIGKILL, done.stderr
        unfinished += (work / name).exists()
    assert unfinished, "each time the state had got its name before the signal came"
    finish(doors, work, "saving")


def test_a_run_may_die_in_the_place_of_any_change_to_its_folder(doors, work):
    """Deaths where a kill by the clock hits too rarely to tell; the doors take turns to go on."""
    for attempt, death in enumerate(
        [
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
        ]
    ):
        arguments = [VERBS[(attempt + 1) % 2], *RUN, "hydra.run.dir=died", "resume=auto"]
        done = doors.run(work, *arguments, dies_at=death)
        assert done.status == -SIGKILL, (death, done.stdout, done.stderr)
    finish(doors, work, "died")
    assert doors.run(work, *arguments, dies_at="rename .policy.unfinished").status == -SIGKILL
    assert not (work / "died/policy").exists()  # it was to be replaced
    finish(doors, work, "died")


@pytest.mark.parametrize(
    ("last", "death"),
    [
        ("step-8", "rename .best.ckpt.unfinished"),  # the best so far, and not yet marked as such
        ("step-12", "remove step-10.ckpt"),  # one too many, and no other to come
        ("step-7", "rename .metrics.csv.unfinished"),  # a new column makes the logger write all rows again
    ],
    ids=["best", "old", "metrics"],
)
@pytest.mark.parametrize("verb", VERBS)
def test_what_was_left_to_do_when_it_died_is_done_when_it_goes_on(doors, work, verb, last, death):
    run = f"{verb}-died-after-{last}"
    states(work / run).mkdir(parents=True)
    for name in (
        "metrics.csv",
        "groups.csv",
        "completions.jsonl",
        "checkpoints/step-4.ckpt",
        "checkpoints/step-5.ckpt",
    ):
        shutil.copy(work / verb / name, work / run / name)
    (states(work / run) / "best.ckpt").symlink_to("step-4.ckpt")
    done = doors.run(work, verb, *RUN, f"hydra.run.dir={run}", "resume=auto", dies_at=death)
    assert done.status == -SIGKILL, done.stderr
    assert (states(work / run) / "last.ckpt").resolve().stem == last
    finish(doors, work, run)


# -- asked to stop -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("signal", "status"), [(SIGTERM, 0), (SIGINT, 130)])
@pytest.mark.parametrize("verb", VERBS)
def test_a_signal_lets_the_step_finish_and_saves(doors, work, verb, signal, status):
    run, sparse = f"{verb}-{signal.name}", "save_every=100"
    arguments = [*RUN, sparse, f"hydra.run.dir={run}"]
    done = doors.run(work, verb, *arguments, signal=signal, seen=f"{run}/groups.csv", after=0.05)
    assert done.status == status, done.stderr
    said = " ".join(done.stdout.split())
    found = re.search(rf"stopped after step (\d+) by {signal.name}.*; to go on: hapo (\w+) resume=auto hydra.run", said)
    assert found, said
    step = int(found[1])
    assert 1 <= step < STEPS
    assert found[2] == verb
    assert (states(work / run) / "last.ckpt").resolve().name == f"step-{step}.ckpt"
    assert "Traceback" not in done.stderr
    done = doors.run(work, verb, *arguments, "resume=auto")
    assert done.status == 0, done.stderr
    assert f"going on after step {step} of {STEPS}" in done.stdout
    assert_same_end(work / run, work / verb)


@pytest.mark.parametrize("verb", VERBS)
def test_a_second_signal_ends_the_process_at_once(doors, work, verb):
    run = f"{verb}-impatient"
    arguments = [*RUN, "group_size=1000", f"hydra.run.dir={run}"]  # steps of seconds
    seen = f"{run}/checkpoints/step-1.ckpt"
    done = doors.run(work, verb, *arguments, signal=SIGTERM, seen=seen, after=0.1, again=0.2)
    assert done.status == -SIGTERM
    assert done.seconds - done.signalled < 0.2 + 0.5
    assert not (states(work / run) / "step-2.ckpt").exists()


# -- damaged -----------------------------------------------------------------------------------------------------------


def truncate(state: Path) -> None:
    state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])


def flip(state: Path) -> None:
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)


def empty(state: Path) -> None:
    state.write_bytes(b"")


@pytest.mark.parametrize(("damage", "newest"), [(truncate, 1), (flip, 2), (empty, 1)])
def test_a_damaged_state_is_named_set_aside_and_passed_over(doors, work, damage, newest):
    run = work / f"{damage.__name__}-{newest}"
    shutil.copytree(work / "train", run, symlinks=True)
    damaged = [states(run) / f"step-{step}.ckpt" for step in range(STEPS, STEPS - newest, -1)]
    for state in damaged:
        damage(state)
    done = doors.run(work, "train", *RUN, ALL, f"hydra.run.dir={run.name}", "resume=auto")
    assert done.status == 0, done.stderr
    for state in damaged:
        assert f"{state} is damaged and was passed over: " in done.stderr
        assert state.with_suffix(".damaged").exists()
    assert f"going on after step {STEPS - newest} of" in done.stdout
    assert_same_end(run, work / "train")


def test_a_run_whose_states_are_all_damaged_is_left_as_it_is(doors, work):
    shutil.copytree(work / "train", work / "hopeless", symlinks=True)
    for step in range(1, STEPS + 1):
        empty(states(work / "hopeless") / f"step-{step}.ckpt")
    for _ in range(2):  # the second time they have been set aside
        done = doors.run(work, "fabric", *RUN, ALL, "hydra.run.dir=hopeless", "resume=auto")
        assert done.status == 2
        assert "every checkpoint in hopeless/checkpoints is damaged" in done.stderr.replace(f"{work}/", "")
    for name in ("metrics.csv", "groups.csv", "completions.jsonl", "policy/model.safetensors"):
        assert (work / "hopeless" / name).read_bytes() == (work / "train" / name).read_bytes()


def test_only_one_process_trains_in_a_folder(doors, work):
    """The second is refused before it touches anything; the lock goes with the process, however that ends."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(work / "held")], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    (work / "held/checkpoints").mkdir()
    (work / "held/checkpoints/.step-3.ckpt.unfinished").write_text("in the middle")
    arguments = ["train", *RUN, "hydra.run.dir=held", "resume=auto"]
    done = doors.run(work, *arguments)
    assert done.status == 2
    assert "another process is training in" in done.stderr
    assert (work / "held/checkpoints/.step-3.ckpt.unfinished").exists()
    holder.kill()
    holder.wait()
    assert doors.run(work, *arguments).status == 0


HOLD = """
import sys
from pathlib import Path
from hapo_lit.cli.run_folder import lock_folder
lock = lock_folder(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("verb", VERBS)
def test_a_run_asked_to_stop_before_its_first_step_says_so(doors, work, verb):
    arguments = [verb, *RUN, f"hydra.run.dir=early-{verb}", "max_response_tokens=60", "+data.heldout_batch=1"]
    done = doors.run(work, *arguments, signal=SIGTERM, seen=f"early-{verb}/model/tokenizer.json", after=0.02)
    assert done.status == 0, done.stderr
    assert "stopped by SIGTERM before the first step: start it again as you did" in " ".join(done.stdout.split())

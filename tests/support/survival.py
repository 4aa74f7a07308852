"""Short runs that have something to lose, and what it means that two of them ended in the same place.

That is: weights, optimiser, what the module remembers and the position in the data bit for bit; metrics to the last
digit but for times; ``groups.csv``, ``completions.jsonl`` and the written policy byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from support.builders import write_base
from support.forked_runs import forked_runs

from hapo_lit.analysis import read_metrics
from hapo_lit.training.metric_names import CLOCKED
from hapo_lit.training.shards import load_whole

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
    "seed=5",  # with which the best checkpoint is neither the first nor the last
    *SUMS,
]
ALL = "callbacks.checkpointer.keep=-1"
"""Keeps the checkpoint of every step."""


def prepare(folder: Path) -> None:
    """A base policy, ``lesson/policy``, and an undisturbed run by each entry point, named as that."""
    write_base(folder / "random")
    for arguments in (
        ["train", *LESSON, *SUMS, "hydra.run.dir=lesson"],
        *([verb, *RUN, ALL, f"hydra.run.dir={verb}"] for verb in VERBS),
    ):
        done = forked_runs().run(folder, *arguments)
        assert done.returncode == 0, done.stderr


def checkpoints(run: Path) -> Path:
    return run / "checkpoints"


def assert_same_end(run: Path, undisturbed: Path, steps: int = STEPS) -> None:
    """Two runs ended in the same state, and left the same records."""
    end, wanted = (load_whole(checkpoints(folder) / f"step-{steps}.ckpt") for folder in (run, undisturbed))
    for part in ("module", "optimizer", "run", "data"):
        assert_equal(end[part], wanted[part], part)
    metrics, expected = read_metrics(run), read_metrics(undisturbed)
    assert sorted(metrics) == sorted(expected)
    timeless = [column for column in expected if not column.startswith(CLOCKED)]
    pd.testing.assert_frame_equal(metrics[timeless], expected[timeless], check_exact=True)
    for name in ("groups.csv", "completions.jsonl", "policy/model.safetensors"):
        assert (run / name).read_bytes() == (undisturbed / name).read_bytes(), name


def assert_equal(found: object, wanted: object, where: str) -> None:
    """Two nested values are the same, bit for bit."""
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


def finish(work: Path, run: str) -> None:
    """Whatever became of a run, it resumes in its folder, and ends as it should."""
    done = forked_runs().run(work, "train", *RUN, f"hydra.run.dir={run}", "resume=auto")
    assert done.returncode == 0, done.stderr
    assert_same_end(work / run, work / "train")
    assert not list((work / run).rglob("*unfinished*"))
    best = (checkpoints(work / "train") / "best.ckpt").resolve().name
    kept = {f"step-{STEPS - 1}.ckpt", f"step-{STEPS}.ckpt", best}
    assert {path.name for path in checkpoints(work / run).iterdir()} == {*kept, "last.ckpt", "best.ckpt"}
    assert (checkpoints(work / run) / "last.ckpt").resolve().name == f"step-{STEPS}.ckpt"
    assert (checkpoints(work / run) / "best.ckpt").resolve().name == best

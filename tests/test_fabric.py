"""Two processes are one: both doors, DDP and FSDP, against each other and against a single process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY
from ranks import CASES, STEPS, WAYS, run

from hapo_lit.data.arithmetic import arithmetic_tokenizer
from hapo_lit.policy import new_policy

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ranks")]
EXACT = [case for case in CASES if case != "mixed"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tokenizer = arithmetic_tokenizer()
    new_policy("qwen2", {**TINY, "tie_word_embeddings": True}, tokenizer, 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def two(base, tmp_path_factory):
    """``(case, way)`` -> result on two processes: gloo, one thread each."""
    out = tmp_path_factory.mktemp("two")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(Path(__file__).parent / "ranks.py"), str(out), base],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return lambda case, way: torch.load(out / f"{case}-{way}.pt", weights_only=False)


@pytest.fixture(scope="module")
def one(base):
    """The same on one process, made when first asked for."""
    made = {}

    def result(case, way):
        if (case, way) not in made:
            made[case, way] = run(case, way, base)
        return made[case, way]

    return result


def far(first, second):
    """The largest difference of weights, and of any metric of any step."""
    weights = max(float((first["weights"][name] - each).abs().max()) for name, each in second["weights"].items())
    rows = list(zip(first["log"], second["log"], strict=True))
    assert all(set(a) == set(b) for a, b in rows)
    return weights, max(abs(a[name] - b[name]) / max(1, abs(b[name])) for a, b in rows for name in b)


def moments(result):
    return {
        (index, name): value for index, each in result["optimizer"]["state"].items() for name, value in each.items()
    }


@pytest.mark.parametrize("case", CASES)
def test_the_doors_agree_bit_for_bit_on_one_process(one, case):
    trainer, fabric = one(case, "train"), one(case, "fabric")
    assert far(trainer, fabric) == (0.0, 0.0)
    assert str(trainer["run"]) == str(fabric["run"])
    first, second = moments(trainer), moments(fabric)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert len(trainer["log"]) == STEPS + 3  # evaluations before, in the middle, at the end
    assert all(each["update/gradient_norm"] > 0 for each in trainer["log"] if "update/gradient_norm" in each)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", EXACT)
def test_two_processes_are_one_in_float32(one, two, case, way):
    single, double = one(case, "fabric"), two(case, way)
    weights, metrics = far(double, single)
    assert weights < 1e-6
    assert metrics < 5e-6
    assert double["run"]["step"] == STEPS
    assert str(double["run"]) == str(single["run"])  # gate and all


@pytest.mark.parametrize("way", ["fabric", "fsdp"])
def test_two_processes_agree_in_bfloat16_whatever_the_door(two, way):
    weights, metrics = far(two("mixed", way), two("mixed", "train"))
    assert weights < 1e-6
    assert metrics < 1e-5


def test_ranks_had_different_numbers_of_rows_to_run(one):
    """Otherwise nothing above says that they keep in step: shares of rows that are no multiple of a half."""
    shares = {each["update/row_share"] for each in one("plain", "fabric")["log"] if "update/row_share" in each}
    assert len(shares) > 1

"""The benchmark for a GPU, at a size of seconds: here on the CPU, and where there is a GPU on that."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from hapo_lit.analysis.summary import SUMMARY_LABELS

PATH = Path(__file__).parents[1] / "benchmarks/device.py"
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]


@pytest.fixture(scope="module")
def device_benchmark():
    spec = importlib.util.spec_from_file_location("device_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("device", DEVICES)
def test_loss_and_gradient_are_those_of_float32_on_a_cpu(device_benchmark, device):
    rows = device_benchmark.numbers(device, device_benchmark.TINY_SHAPE, rows=3, tokens=8)
    assert [(row["precision"], row["strategy"]) for row in rows] == device_benchmark.CASES
    assert all(row["within"] for row in rows), rows
    for row in rows:
        exact = row["precision"] == "32-true" and device == "cpu"
        assert (row["gradient_off"] == 0) == exact  # what is compared is not the same twice


@pytest.mark.parametrize("device", DEVICES)
def test_time_and_memory_of_a_step(device_benchmark, device):
    found = device_benchmark.model(device, device_benchmark.TINY, peaks=(1e15, 1e15), rounds=1)
    assert found["seconds"].keys() == {"prefill", "sample", "update"}
    assert found["row_share"] == 1  # every row is trained on
    assert found["tokens"] > 0
    assert 0 < found["mfu"] < 1
    assert 0 < found["bandwidth"] < 1
    assert all(size is None or size > 0 for size in found["peak"].values())
    assert min(found["plan"].values()) > 4 * found["parameters"]
    text = device_benchmark.table({"device": "CPU", "torch": "2", "model": found | {"mfu": None}})
    assert ", - MFU of the update" in text


def test_the_default_experiment_is_the_commands_and_what_is_off_is_said(device_benchmark, tmp_path):
    asked = []

    def hapo(*arguments):
        """In place of a run of minutes."""
        asked.extend(arguments)
        (tmp_path / "run").mkdir()
        (tmp_path / "run/summary.json").write_text(json.dumps(dict.fromkeys(("steps", *SUMMARY_LABELS), 0.5)))

    found = device_benchmark.experiment(hapo, tmp_path, "cuda", "steps=60")
    assert asked == ["train", "accelerator=cuda", "devices=1", "hydra.run.dir=run", "steps=60"]
    rows = [{"precision": "32-true", "strategy": "fsdp", "loss_off": 1.0, "gradient_off": 2.0, "within": False}]
    text = device_benchmark.table({"device": "CPU", "torch": "2", "experiment": found, "numbers": rows})
    assert "| 32-true | fsdp | 1.0e+00 | 2.0e+00 | NO |" in text
    assert "| greedy_after | 0.500 |" in text

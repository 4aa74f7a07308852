"""A batch of responses sampled by rollout=hf, and by transformers' own ``generate`` as TRL calls it: the batches and
models of :mod:`benchmarks.grpo_step`, whose responses all have the full length."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from transformers import AutoModelForCausalLM

from benchmarks.grpo_step import SETTINGS, WORDS, write_model
from benchmarks.measuring import seconds
from benchmarks.processes_apart import Numbers
from benchmarks.rollout import generate, ours

WAYS: dict[str, Callable[..., tuple]] = {"generate": generate, "hf": lambda *batch: ours("hf", *batch)}


def sample(way: str, name: str, quick: bool) -> Numbers:
    """CPU and wall seconds of a batch.

    Args:
        way: of :data:`WAYS`.
        name: of a setting.
        quick: True = once.
    """
    torch.set_num_threads(1)
    setting = SETTINGS[name]
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), setting)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = torch.randint(3, setting.vocabulary - 1, (setting.prompts, WORDS))
    once, _ = WAYS[way](model, prompts, [model.config.eos_token_id], setting.group, setting.tokens)
    found = []
    for index in range(2 if quick else 4):
        used = seconds(lambda step=index: check(once(step), setting.tokens))
        found += [used] if index else []  # the first warms up
    return {quantity: median(used[quantity] for used in found) for quantity in found[0]}


def check(responses: list[list[int]], length: int) -> None:
    assert {len(response) for response in responses} == {length}

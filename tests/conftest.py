"""Shared fixtures: a tokenizer, tiny random policies, and the line with which the command refuses settings.

The process that hands out the tests imports this file too: nothing heavy is imported here outside a fixture.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable

import pytest
from xdist.scheduler import LoadFileScheduling

os.environ.setdefault("HF_HUB_OFFLINE", "1")
WITH_VLLM = "tests/rollout/"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also what is marked exhaustive: more cases of the same claims")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest files first, the last of the tree before the others, so that no process waits for them at the end;
    without ``--all`` fewer cases."""
    if not config.getoption("--all"):
        more = [item for item in items if item.get_closest_marker("exhaustive")]
        config.hook.pytest_deselected(items=more)
        items[:] = [item for item in items if item not in more]
    if "not slow" not in config.getoption("-m"):  # what has a slow form with more rows is in that
        items[:] = [item for item in items if "[a sixth]" not in item.name]
    cost = {}
    for item in items:
        marks = [item.get_closest_marker(mark) is None for mark in ("vllm", "slow")]
        cost[item.path] = min(marks, cost.get(item.path, marks))
    last_first = {path: -number for number, path in enumerate(cost)}
    items.sort(key=lambda item: (cost[item.path], last_first[item.path]))


def pytest_collection_finish() -> None:
    """What has been imported stays: leave it out of later collections of garbage.  Tests compute with one thread."""
    import torch

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()


class Scheduling(LoadFileScheduling):
    """Files are given to test processes in the order of the tests, and those with vLLM to one of them: they share a
    server, and an import of ten seconds."""

    def _split_scope(self, nodeid: str) -> str:
        return "vllm" if nodeid.startswith(WITH_VLLM) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduling:
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def tokenizer():
    from hapo_lit.data.arithmetic import arithmetic_tokenizer

    return arithmetic_tokenizer()


@pytest.fixture
def make_policy(tokenizer) -> Callable:
    """A fresh random model of an architecture; ``initializer_range`` is large so that it has opinions."""
    from support.builders import TINY

    from hapo_lit.policy.loading import new_policy

    def make(architecture: str = "qwen2", seed: int = 0, **sizes: object):
        return new_policy(architecture, {**TINY, "tie_word_embeddings": True, **sizes}, tokenizer, seed)

    return make


@pytest.fixture
def policy(make_policy):
    return make_policy()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a random policy and the tokenizer, in place of the base policy."""
    from support.builders import write_base

    folder = tmp_path_factory.mktemp("base")
    write_base(folder)
    return str(folder)


@pytest.fixture
def says(monkeypatch, capsys, tmp_path, base):
    """Runs the command, which must end with status 2 and one line on standard error, and returns that line."""
    from hydra.core.global_hydra import GlobalHydra
    from support.single_run import MODE, asks_for_a_sweep, no_mode

    from hapo_lit import cli

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        GlobalHydra.instance().clear()
        with monkeypatch.context() as patch:
            if not asks_for_a_sweep(arguments):
                patch.setattr(MODE, no_mode)
            with pytest.raises(SystemExit) as stop:
                cli.main(list(arguments))
        assert stop.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("hapo: error: ")
        assert not list(tmp_path.rglob("*.ckpt"))
        return lines[0].removeprefix("hapo: error: ")

    return run

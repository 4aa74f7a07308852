"""Runs that tests of a folder disturb, and undisturbed ones to hold them against."""

from __future__ import annotations

import pytest
from support.forked_runs import forked_runs
from support.once import made_once
from support.survival import RUN, prepare


@pytest.fixture(scope="session")
def runs():
    return forked_runs()


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A folder with a base policy, ``lesson/policy``, and an undisturbed run by each entry point, named as that."""
    return made_once(tmp_path_factory, "survival", prepare)


@pytest.fixture
def life(runs, work, request):
    """Seconds that a run takes when the machine is as it is now."""
    return runs.run(work, "train", *RUN, f"hydra.run.dir=life-{request.node.callspec.id}").seconds

"""One checker for all tests of the verifier: its workers take most of a second to start."""

import os

import pytest

from hapo_lit.verify import Checker


@pytest.fixture(scope="session")
def worker_folder(tmp_path_factory):
    """The folder in which the workers of :func:`checker` run."""
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="session")
def checker(worker_folder):
    """Two workers, the default conventions, and a memory of what other tests have asked."""
    made = Checker(workers=2)
    before = os.getcwd()
    os.chdir(worker_folder)
    made(["x+1", "x+2"], [r"\boxed{1+x}", r"\boxed{2+x}"])  # starts the workers
    os.chdir(before)
    yield made
    made.close()

"""Pools that are closed after their tests."""

import pytest
from support.comparers import Acting

from hapo_lit.verify.workers.pool import Pool


@pytest.fixture
def make():
    made = []

    def make(comparer=None, **settings):
        made.append(Pool(comparer or Acting(), **settings))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


@pytest.fixture(scope="module")
def limited():
    """One pool for many answers that meet a limit: each would cost a fork server of its own."""
    pool = Pool(Acting(), workers=2, cpu_seconds=0.3, seconds=30.0)
    yield pool
    pool.close()

"""Files of forty problems, written once and not changed by tests."""

from __future__ import annotations

import pytest
from support.corpora import LINES, MIXED, write_three


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A pattern for three files of three formats."""
    return write_three(tmp_path_factory.mktemp("mixed"), MIXED)


@pytest.fixture(scope="session")
def lines(tmp_path_factory):
    """A pattern for the same problems in three files of JSON lines, which are read in no time."""
    return write_three(tmp_path_factory.mktemp("lines"), LINES)

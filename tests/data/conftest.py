"""Files of forty problems, written once and not changed by tests."""

from __future__ import annotations

import importlib
import sys

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


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Writes the user's module and imports it anew."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(text):
        (tmp_path / "mine.py").write_text(text)
        sys.modules.pop("mine", None)
        importlib.invalidate_caches()
        return importlib.import_module("mine")

    yield write
    sys.modules.pop("mine", None)

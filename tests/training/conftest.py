"""These tests run many steps: their policies have one layer unless they ask for more."""

from __future__ import annotations

import pytest


@pytest.fixture
def make_policy(make_policy):
    return lambda *args, **sizes: make_policy(*args, **{"num_hidden_layers": 1, **sizes})

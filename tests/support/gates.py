"""One prompt and one group before a gate."""

from __future__ import annotations

import torch


def ids(*values):
    return torch.tensor(values, dtype=torch.int64)


def after(gate, successes, trials):
    """The decision on one prompt after one group."""
    gate.observe(ids(7), ids(successes), ids(trials))
    return gate(ids(7), (torch.arange(trials) < successes).float()[None])

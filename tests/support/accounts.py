"""What a finished run says of its time."""

from __future__ import annotations

import json

import pytest

from hapo_lit.analysis import read_metrics
from hapo_lit.analysis.summary import SHARES, SUMMARY_LABELS


def must_account_for_its_seconds(run, printed):
    """The seconds of all phases are those of the run, each was logged, and the table has a line for each."""
    summary, table = json.loads((run / "summary.json").read_text()), read_metrics(run)
    assert sum(summary[name] for name in SHARES) == pytest.approx(summary["seconds_run"])
    assert min(summary[name] for name in SHARES) > 0
    assert summary["seconds_rest"] < summary["seconds_run"] / 2
    assert summary["tokens_per_second_of_run"] == pytest.approx(summary["generated_tokens"] / summary["seconds_run"])
    assert summary["waiting_share"] == pytest.approx(summary["seconds_data"] / summary["seconds_run"])
    assert (table["time/checkpoint"] > 0).sum() > 0
    assert table["time/between"].dropna().iloc[0] == 0  # nothing came before the first step
    for name in (*SHARES, "seconds_run", "tokens_per_second_of_run", "waiting_share"):
        assert SUMMARY_LABELS[name][0] in printed

"""``hapo report FOLDER``: runs, one or a sweep of them, as a page with figures and tables."""

from __future__ import annotations

import argparse
from pathlib import Path

from hapo_lit.analysis import write_report
from hapo_lit.cli.bootstrap import one_line_errors
from hapo_lit.errors import NoRunError


def main(arguments: list[str]) -> None:
    """Entry point of ``hapo report``; ends with status 2 and one line if there is no run or nothing can be written."""
    parser = argparse.ArgumentParser(
        prog="hapo report",
        description="Write one page (report.html, no network needed), its figures as PNG, and tables as CSV about a "
        "run or about all runs in a folder, such as a sweep's. Runs that did not finish are shown as such.",
    )
    parser.add_argument(
        "folder", type=Path, help="folder of a run, or one with runs in it, such as runs/multirun/<date>"
    )
    parser.add_argument("--out", type=Path, default=None, help="folder to write to (default: FOLDER/report)")
    chosen = parser.parse_args(arguments)
    with one_line_errors(NoRunError, OSError):
        report = write_report(chosen.folder, chosen.out)
    unfinished = report.runs[report.runs["state"] != "finished"]
    for run, state, note in zip(unfinished["run"], unfinished["state"], unfinished["note"], strict=True):
        print(f"{state}: {run}: {note}")
    for identical in report.identical:
        print(f"these runs are {identical}")
    count, finished = len(report.runs), len(report.runs) - len(unfinished)
    print(f"{report.page}: {count} run{'s' if count > 1 else ''}, {finished} of them finished")

"""``python -m benchmarks``: measure what is claimed of speed and memory, and write ``benchmarks/RESULTS.md``.

    python -m benchmarks                   # all rows; about a quarter of an hour where nothing else runs
    python -m benchmarks S1A S3            # these alone; the lines of the others stay as they are
    python -m benchmarks --quick --out /tmp/try.md    # whether all of it runs; the numbers mean nothing
    python -m benchmarks --list            # the rows, and the scripts that answer other questions

Ours and the peer alternate, each in a process of its own, on one thread.
"""

from __future__ import annotations

import argparse
import ast
import datetime
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from benchmarks import results
from benchmarks.measuring import Case, Row, failed_row, measured, rounds_of, row
from benchmarks.processes_apart import ROOT
from benchmarks.rows import CASES

RESULTS, ROUNDS = ROOT / "benchmarks/RESULTS.md", 3
SHOWN = ("row", "goal", "ours", "peer", "median (least to most)", "verdict")
"""Columns in the terminal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 1 if a measurement failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="S1A, or S1g for all that begin with S1g-; none = all")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of each row, {ROUNDS} unless it is set")
    parser.add_argument("--quick", action="store_true", help="one round, as small as can be; needs --out")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the table; its lines are beside it in .jsonl")
    parser.add_argument("--list", action="store_true", help="name the rows and the other scripts, and end")
    options = parser.parse_args(arguments)
    if options.list:
        print(listed())
        return 0
    if options.quick and options.out == RESULTS:
        parser.error("--quick measures nothing that may stand in RESULTS.md: name another file with --out")
    try:
        chosen = chosen_cases(options.rows)
    except KeyError as unknown:
        parser.error(f"there is no row {unknown.args[0]}; python -m benchmarks --list names them")
    rows = measure(chosen, 1 if options.quick else options.rounds, options.quick, options.out)
    show(rows)
    print(f"table: {options.out}")
    return int(any(found.number is None for found in rows))


def chosen_cases(names: Sequence[str]) -> list[Case]:
    """The cases that names stand for, in the order of the table; no names = all.

    Raises:
        KeyError: a name stands for none.
    """
    if not names:
        return CASES
    wanted = {name: [case for case in CASES if name in meant_by(case)] for name in names}
    for name, cases in wanted.items():
        if not cases:
            raise KeyError(name)
    return [case for case in CASES if any(case in cases for cases in wanted.values())]


def meant_by(case: Case) -> set[str]:
    """The names on the command line that choose a case."""
    names = {case.name, *(claim.name for claim in case.claims)}
    return names | {name.partition("-")[0] for name in names}


def measure(cases: Sequence[Case], rounds: int, quick: bool, out: Path) -> list[Row]:
    """Measure cases one after another, and write the table after each, so that what stops loses one case."""
    order = [claim.name for case in CASES for claim in case.claims]
    facts = {
        "date": datetime.date.today().isoformat(),
        "revision": results.revision(),
        "machine": results.machine(),
    }
    found: list[Row] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        sides = sum(rounds_of(case, rounds) * (1 + (case.peer is not None)) for case in cases)
        task = bar.add_task("", total=sides)
        for case in cases:
            bar.update(task, description=case.name)
            named = {**facts, "beside": beside(case)}
            try:
                numbers = measured(case, rounds, quick, lambda: bar.advance(task))
                made = [row(claim, case, numbers, named) for claim in case.claims]
            except Exception as error:  # whatever it is, the other rows are measured, and this one says so
                bar.console.print(f"{case.name} failed: {error}", markup=False)
                made = [failed_row(claim, case, error, named) for claim in case.claims]
            if case.drawn and made[0].number is not None:
                name, draw = case.drawn
                draw([ours for ours, _ in numbers], out.parent / name)
            found += made
            results.write(out, made, order)
    return found


def beside(case: Case) -> str:
    """The peer with its versions."""
    versions = ", ".join(filter(None, map(results.versioned, case.packages)))
    return f"{case.beside} ({versions})" if versions else case.beside


def show(rows: Sequence[Row]) -> None:
    """The table in the terminal, without what stands in the file alone."""
    table, shown = Table(), [results.HEADER.index(name) for name in SHOWN]
    for name in SHOWN:
        table.add_column(name, overflow="fold")
    for found in rows:
        cells = results.cells(found)
        table.add_row(*(Text(cells[index].replace("**", "")) for index in shown))
    Console().print(table)


def listed() -> str:
    """The rows with their claims, then the scripts that answer other questions."""
    lines = [f"{claim.name:14s} {claim.what}; {claim.bound}" for case in CASES for claim in case.claims]
    lines += ["", "other questions, each a script of its own:"]
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        about = ast.get_docstring(ast.parse(path.read_text())) or ""
        if f"python benchmarks/{path.name}" in about or f"python -m benchmarks.{path.stem} " in about:
            lines.append(f"benchmarks/{path.name:22s} {about.splitlines()[0]}")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())

"""What ``hapo verify --file`` reads, writes and prints: rows, verdicts, tables."""

from __future__ import annotations

import errno
import fcntl
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hapo_lit.errors import SetupError, one_line
from hapo_lit.storage.atomic import appearing
from hapo_lit.verify import Verdict

LISTED = 20
"""At most so many rows of each kind of mistake are printed."""


class PredictionRow(NamedTuple):
    """A reference, what a model answered, and what is known of the two beside them."""

    gold: str
    prediction: str
    expected: bool | None
    """The verdict that it should get, None if that is not known."""
    category: str


def read_rows(path: Path) -> Iterator[PredictionRow]:
    """The rows of a file of JSON lines; blank lines do not count.

    Raises:
        SetupError: a line cannot be used; the message names file and line.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = _row(line)
                except ValueError as error:
                    raise SetupError(f"{path}, line {number}: {error}") from error
                yield row


def _row(line: bytes) -> PredictionRow:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error.msg}, column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError('expected an object such as {"gold": "5", "prediction": "5"}')
    for name in ("gold", "prediction"):
        if not isinstance(row.get(name), str):
            found = type(row[name]).__name__ if name in row else "nothing"
            raise ValueError(f"{name!r}: expected text, found {found}")
    expected = row.get("expected")
    if "expected" in row and not isinstance(expected, bool):
        raise ValueError(f"'expected': expected true or false, found {type(expected).__name__}")
    return PredictionRow(row["gold"], row["prediction"], expected, str(row.get("category", "")))


class VerdictFile:
    """Verdicts on disk, one line each in the order of the rows, and a second file that says what they were made from.

    One process writes it.  Verdicts of an earlier run are read and not made again; a half-written line is cut off.

    Args:
        path: the file of verdicts.
        origin: what decides the verdicts; a file that was made from something else is refused.
        size: how many rows there are.
    """

    def __init__(self, path: Path, origin: Mapping[str, Any], size: int) -> None:
        self.path, self.size, self.written = path, size, 0
        beside = path.with_name(path.name + ".meta.json")
        self._file: IO[bytes] = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel releases it however this process ends
        except BlockingIOError as error:
            raise SetupError(f"{path} is being written by another process") from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):  # a file system without locks
                raise
        if self._file.tell():
            self._compare(beside, origin)
        else:
            with appearing(beside) as draft:
                draft.write_text(json.dumps(origin, indent=1) + "\n")

    def _compare(self, beside: Path, origin: Mapping[str, Any]) -> None:
        advice = "choose another name, or delete it to begin again"
        try:
            before = dict(json.loads(beside.read_bytes()))
        except FileNotFoundError as error:
            raise SetupError(f"{self.path} exists, and no {beside.name} says what it is: {advice}") from error
        except (ValueError, TypeError) as error:
            raise SetupError(f"{beside} is damaged, so {self.path} cannot be continued: {advice}") from error
        if changed := [key for key in {**origin, **before} if origin.get(key, "") != before.get(key, "")]:
            raise SetupError(
                f"{self.path} was made from other rows or settings ({', '.join(sorted(changed))}): {advice}"
            )

    def read(self) -> Iterator[Verdict]:
        """The verdicts of earlier runs, in order.  After the last one the file is ready for more."""
        end = 0
        self._file.seek(0)
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            try:
                found = json.loads(line)
                if found.pop("row") != self.written or self.written >= self.size:
                    raise ValueError("it belongs to another row")
                verdict = Verdict(**found)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise SetupError(f"{self.path}, line {self.written + 1} is damaged: delete the file") from error
            self.written += 1
            end += len(line)
            yield verdict
        self._file.truncate(end)

    def write(self, verdicts: Sequence[Verdict]) -> None:
        """Append these, and flush."""
        lines = []
        for number, verdict in enumerate(verdicts, self.written):
            record = {"row": number, "correct": verdict.correct, "reason": verdict.reason}
            record |= {"extracted": verdict.extracted, "seconds": round(verdict.seconds, 6)}
            lines.append(json.dumps(record) + "\n")
        self._file.write("".join(lines).encode("ascii"))
        self._file.flush()
        self.written += len(lines)

    def close(self) -> None:
        self._file.close()


class ScoreTables:
    """Counts verdicts, and prints them as tables."""

    def __init__(self) -> None:
        self.count = 0
        self._seconds: dict[str, list[float]] = {}
        self._correct: Counter[str] = Counter()
        self._categories: dict[str, Counter[str]] = {}
        self._mistakes: dict[str, list[tuple[str, ...]]] = {"false positive": [], "false negative": []}

    def add(self, row: PredictionRow, verdict: Verdict) -> None:
        self._seconds.setdefault(verdict.reason, []).append(verdict.seconds)
        self._correct[verdict.reason] += verdict.correct
        if row.expected is not None:
            counts = self._categories.setdefault(row.category, Counter())
            mistake = "false positive" if verdict.correct else "false negative"
            outcome = "right" if verdict.correct == row.expected else mistake
            counts.update(["rows", outcome])
            if outcome == mistake and len(self._mistakes[mistake]) < LISTED:
                answer = "" if verdict.extracted is None else verdict.extracted
                shown = (str(self.count), row.category, row.gold, answer, verdict.reason)
                self._mistakes[mistake].append(shown)
        self.count += 1

    def show(self, console: Console) -> None:
        self._show_reasons(console)
        if self._categories:
            totals = self._show_categories(console)
            for kind, mistakes in self._mistakes.items():
                if mistakes:
                    table = _table(f"{kind}s", ">row", "category", "gold", "extracted", "reason")
                    for mistake in mistakes:
                        table.add_row(*(Text(one_line(text, 100)) for text in mistake))
                    console.print(table)
                if more := totals[kind] - len(mistakes):
                    console.print(f"and {more:,} more {kind}s", highlight=False)

    def _show_reasons(self, console: Console) -> None:
        table = _table("what decided", "reason", ">count", ">share", ">correct", ">p99 s", ">max s")
        by_count = sorted(self._seconds.items(), key=lambda item: -len(item[1]))
        every = [second for seconds in self._seconds.values() for second in seconds]
        for name, seconds in [*by_count, ("all", every)]:
            seconds.sort()
            correct = self._correct[name] if name != "all" else self._correct.total()
            p99, slowest = seconds[math.ceil(0.99 * len(seconds)) - 1], seconds[-1]
            share = f"{len(seconds) / self.count:.1%}"
            table.add_row(name, f"{len(seconds):,}", share, f"{correct:,}", f"{p99:.3f}", f"{slowest:.3f}")
        console.print(table)

    def _show_categories(self, console: Console) -> Counter[str]:
        table = _table(
            "against what was expected", "category", ">rows", ">right", ">false positives", ">false negatives"
        )
        totals: Counter[str] = sum(self._categories.values(), Counter())
        for name, counts in [*sorted(self._categories.items()), ("all", totals)]:
            facts = (counts[outcome] for outcome in ("rows", "right", *self._mistakes))
            table.add_row(Text(one_line(name, 40)), *(f"{fact:,}" for fact in facts))
        console.print(table)
        return totals


def _table(title: str, *columns: str) -> Table:
    """A table; columns whose names begin with ``>`` are aligned to the right."""
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    return table

"""Problems from a local JSON-lines or Parquet file with NuminaMath's columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hapo_lit.data.problems import Problem

COLUMNS = ("problem", "solution", "answer")


class ProblemFiles:
    """Reads ``problem, solution, answer`` rows from files.

    Args:
        path: training problems, ``.jsonl``, ``.json`` or ``.parquet``.
        heldout_path: held-out problems, of the same kinds.
    """

    def __init__(self, path: str, heldout_path: str) -> None:
        self.path, self.heldout_path = (
            self._found(path, "data.source.path"),
            self._found(heldout_path, "data.source.heldout_path"),
        )

    def train(self) -> list[Problem]:
        kept = {problem.prompt_id for problem in self.heldout()}
        problems = [problem for problem in _read(self.path) if problem.prompt_id not in kept]
        if not problems:
            raise ValueError(f"every problem of {self.path} is held out as well: nothing is left to train on")
        return problems

    def heldout(self) -> list[Problem]:
        return _read(self.heldout_path)

    @staticmethod
    def _found(path: str | None, key: str) -> Path:
        if not path:
            raise ValueError(f"{key} is not set; give it a .jsonl or .parquet file with columns {', '.join(COLUMNS)}")
        if not Path(path).is_file():
            raise FileNotFoundError(f"data file {path!r} does not exist; set {key} to a .jsonl or .parquet file")
        return Path(path)


def _read(path: Path) -> list[Problem]:
    from datasets import load_dataset

    kind = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}.get(path.suffix)
    if kind is None:
        raise ValueError(f"{path}: cannot tell the format of {path.suffix!r}; use .jsonl, .json or .parquet")
    rows = load_dataset(kind, data_files=str(path), split="train", streaming=True)
    problems: dict[int, Problem] = {}
    for number, row in enumerate(_named(rows, path), 1):
        missing = [column for column in COLUMNS if not isinstance(row.get(column), str)]
        missing += [column for column in ("problem", "answer") if not missing and not row[column].strip()]
        if missing:
            raise ValueError(f"{path}, row {number}: no text in column {missing[0]!r}; it needs {', '.join(COLUMNS)}")
        problem = Problem(*(row[column] for column in COLUMNS))
        problems.setdefault(problem.prompt_id, problem)
    if not problems:
        raise ValueError(f"{path} holds no rows")
    return list(problems.values())


def _named(rows: Iterable[dict[str, Any]], path: Path) -> Iterator[dict[str, Any]]:
    """The rows; an error of the reader, which knows no file, gets the file's name."""
    try:
        yield from rows
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error

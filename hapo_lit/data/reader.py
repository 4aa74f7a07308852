"""Rows of a data set, read one at a time from the hub or from local files, each with where it came from."""

from __future__ import annotations

import codecs
import glob
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from hapo_lit.data import columns
from hapo_lit.numerics.hashing import stable_hash
from hapo_lit.storage.cache_key import content_hash

RawRow = Mapping[str, Any]
"""A row as it was read: column -> cell."""


class Origin(NamedTuple):
    """Where a row came from, for messages."""

    file: str
    """File, or hub id."""
    row: int
    """Counted from 1 within the file."""

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}"


class Unreadable(NamedTuple):
    """Stands for a row that cannot be read, such as a broken line."""

    reason: str


class Position(NamedTuple):
    """From where to read on: all rows before it have been read."""

    file: int = 0
    row: int = 0


class Reader(Protocol):
    """Where rows come from."""

    name: str
    """The files or the data set, for messages."""

    def require(self, columns: Sequence[str]) -> None:
        """Raise ``ValueError`` if a column is missing, as far as that is known before a row is read."""

    def rows(self, start: Position) -> Iterator[tuple[RawRow | Unreadable, Origin, Position]]:
        """Rows from ``start`` on, each with its origin and the position after it."""

    def fingerprint(self) -> str:
        """Changes when the data do."""


class LocalFiles:
    """Files named by patterns, read in the order of their names.

    Parquet and Arrow files are streamed by ``datasets``, JSON lines are read line by line.  A ``.json`` file holds a
    list and is read in one piece.  The columns of Parquet and Arrow files are read at once, so that a damaged file is
    found before training starts, and all bytes of all files for their fingerprint (about 1 GB a second).

    Args:
        paths: a file, a pattern such as ``data/*.parquet``, or several of them.

    Raises:
        FileNotFoundError: a pattern matches nothing.
        ValueError: a suffix is unknown or a file is damaged.
    """

    def __init__(self, paths: str | Sequence[str]) -> None:
        patterns = [paths] if isinstance(paths, str) else list(paths)
        self.name = ", ".join(patterns)
        self.files: list[Path] = []
        for pattern in patterns:
            found = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))
            if not found:
                raise FileNotFoundError(f"data file {pattern!r} does not exist; set data.path to files or a pattern")
            self.files += [_regular(Path(file)) for file in found]
        self._fingerprint = stable_hash(repr([content_hash(file) for file in self.files])).hex()
        self._columns = {file: names for file in self.files if (names := _columns(file)) is not None}

    def require(self, columns: Sequence[str]) -> None:
        """Raise ``ValueError`` if a Parquet or Arrow file lacks one of the columns."""
        for file, names in self._columns.items():
            if missing := [column for column in columns if column not in names]:
                raise ValueError(f"{file} has no column {missing[0]!r}; it has {', '.join(names)}")

    def rows(self, start: Position) -> Iterator[tuple[RawRow | Unreadable, Origin, Position]]:
        for index in range(start.file, len(self.files)):
            file = self.files[index]
            skip = start.row if index == start.file else 0
            row = skip
            try:
                for content in _FORMATS[file.suffix](file, skip):
                    row += 1
                    if content is None:
                        continue
                    yield content, Origin(str(file), row), Position(index, row)
            except RecursionError:
                raise ValueError(f"{file} cannot be read: its JSON is nested too deeply") from None
            except Exception as error:  # whatever pyarrow and datasets raise at a damaged file
                raise ValueError(f"{file} cannot be read after row {row}: {error}") from error

    def fingerprint(self) -> str:
        """A hash of all that is in the files, as it was when this was made; a copy elsewhere has the same."""
        return self._fingerprint


class Hub:
    """A data set of the Hugging Face hub, streamed by ``datasets``.

    Args:
        dataset: its id, such as ``AI-MO/NuminaMath-1.5``.
        config: its configuration, where it has several.
        split: the split to read.
        revision: a commit or tag; naming one makes runs repeatable.
    """

    def __init__(
        self, dataset: str, config: str | None = None, split: str = "train", revision: str | None = None
    ) -> None:
        self.name, self.config, self.split, self.revision = dataset, config, split, revision

    def rows(self, start: Position) -> Iterator[tuple[RawRow | Unreadable, Origin, Position]]:
        from datasets import load_dataset

        row = start.row
        try:
            rows = load_dataset(self.name, self.config, split=self.split, revision=self._commit, streaming=True)
            for content in _all_rows(rows.skip(row)):
                row += 1
                yield content, Origin(self.name, row), Position(0, row)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"the data set {self.name!r} cannot be read from the hub after row {row} ({error}); is there a "
                f"network, and is the name right? data.path reads local files instead"
            ) from error

    @cached_property
    def _commit(self) -> str | None:
        """The commit that is read.  A branch may move to another one, and then a position would mean another row."""
        from huggingface_hub import HfApi

        commit: str | None = HfApi().dataset_info(self.name, revision=self.revision).sha
        return commit

    def require(self, columns: Sequence[str]) -> None:
        """Nothing: columns are not known before the first row."""

    def fingerprint(self) -> str:
        return f"{self.name}:{self.config}:{self.split}:{self._commit}"


def hub_or_files(dataset: str, paths: str | Sequence[str] | None = None, **hub: Any) -> Hub | LocalFiles:
    """The hub's data set, or local files of the same shape where ``paths`` are given."""
    return LocalFiles(paths) if paths else Hub(dataset, **hub)


def optional_files(paths: str | Sequence[str] | None = None) -> LocalFiles | None:
    """Local files, or None where no path is given."""
    return LocalFiles(paths) if paths else None


def problem_texts(paths: str | Sequence[str] | None = None, column: str | None = None) -> list[str]:
    """The problems of local files, for keeping them out of the training set; none where no path is given.

    They are in ``column``, or in ``problem`` or ``question`` where that is None or a row has no such column.
    """
    texts = []
    for row, origin, _ in LocalFiles(paths).rows(Position()) if paths else ():
        if isinstance(row, Unreadable):
            raise ValueError(f"{origin}: {row.reason}")
        name = column if column in row else columns.found("problem", row)
        if name is None:
            raise ValueError(f"{origin}: no column {column or 'problem'!r}; {columns.offer('', 'problem', row)}")
        if not isinstance(row[name], str):
            raise ValueError(f"{origin}: no text in column {name!r}")
        texts.append(row[name])
    return texts


def _regular(file: Path) -> Path:
    """The path itself; what is no file, such as a pipe or a device, may never end."""
    if not file.is_file():
        kind = "a folder" if file.is_dir() else "a pipe or device"
        raise ValueError(
            f"data file {str(file)!r} is {kind}: set data.path to files or a pattern, such as FOLDER/*.jsonl"
        )
    return file


def _columns(file: Path) -> list[str] | None:
    """The columns that a Parquet or Arrow file declares; None for JSON, which declares none."""
    if file.suffix not in _FORMATS:
        raise ValueError(f"{file}: cannot tell the format of {file.suffix!r}; use {', '.join(_FORMATS)}")
    if file.suffix not in (".parquet", ".arrow"):
        return None
    import pyarrow
    from pyarrow import ipc, parquet

    try:
        if file.suffix == ".parquet":
            names = parquet.read_schema(file).names
        else:
            with pyarrow.memory_map(str(file)) as source:
                names = _stream_or_file(ipc, source).schema.names
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file} is damaged or no {file.suffix[1:]} file: {error}") from error
    return list(names)


def _stream_or_file(ipc: Any, source: Any) -> Any:
    """Files with the suffix ``.arrow`` have one of two formats; ``datasets`` writes the first."""
    try:
        return ipc.open_stream(source)
    except ValueError:
        source.seek(0)
        return ipc.open_file(source)


def _lines(file: Path, skip: int) -> Iterator[RawRow | Unreadable | None]:
    """One row for each line, so that rows are counted as lines are; None for a blank one."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines):
            if number >= skip:
                yield _parsed(line.removeprefix(codecs.BOM_UTF8) if number == 0 else line)


def _parsed(line: bytes) -> RawRow | Unreadable | None:
    if not line.strip():
        return None
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return Unreadable(f"no UTF-8: {error}")
    except (ValueError, RecursionError) as error:
        return Unreadable(f"no JSON: {error}")
    return row if isinstance(row, dict) else Unreadable(f"a {type(row).__name__} and no object")


def _json(file: Path, skip: int) -> Iterator[RawRow | Unreadable]:
    rows = json.loads(file.read_text(encoding="utf-8-sig"))
    if not isinstance(rows, list):
        raise ValueError("it holds no list of rows; for one row a line use .jsonl")
    for row in rows[skip:]:
        yield row if isinstance(row, dict) else Unreadable(f"a {type(row).__name__} and no object")


def _table(kind: str) -> Callable[[Path, int], Iterator[RawRow | Unreadable]]:
    """A function that streams the rows of a Parquet or Arrow file."""

    def rows(file: Path, skip: int) -> Iterator[RawRow | Unreadable]:
        from datasets import load_dataset

        # without a batch size Parquet is read one row group at a time, however large that is
        settings = {"batch_size": 256} if kind == "parquet" else {}
        yield from _all_rows(
            load_dataset(kind, data_files=str(file), split="train", streaming=True, **settings).skip(skip)
        )

    return rows


def _all_rows(rows: Any) -> Iterator[RawRow]:
    """All rows of a streamed data set, in every loader process.

    Plain iteration would give a loader process only its part of them, and all processes must see the same order.
    """
    for batch in rows.iter(batch_size=256):
        for cells in zip(*batch.values(), strict=True):
            yield dict(zip(batch, cells, strict=True))


_FORMATS = {".jsonl": _lines, ".json": _json, ".parquet": _table("parquet"), ".arrow": _table("arrow")}
"""File suffix -> how its rows are read from a given one on."""

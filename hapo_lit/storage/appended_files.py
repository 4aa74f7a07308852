"""A store of values on disk to which many processes add, on one machine or on several that share a folder.

Each process appends lines to a file of its own, so that no locks are needed, which network file systems do not keep.
A line is key, value and a checksum of both.  One whose checksum is another, as a damaged disk or a killed process
leaves it, is passed over and taken out, so that its value is made again.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from hapo_lit.storage.atomic import appearing

SUFFIX = ".jsonl"


class AppendedFiles:
    """Values by their keys.

    What others add is seen by the processes that start after them.

    Args:
        folder: of the files; it is made when there is something to keep.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._values: dict[str, float] = {}
        self._read = False
        self._file: Path | None = None
        self._owner = 0

    def values(self) -> Mapping[str, float]:
        """All values, those added by this process too."""
        if not self._read:
            self._read = True
            for file in sorted(self.folder.glob(f"*{SUFFIX}")):
                self._values |= _read(file)
        return self._values

    def add(self, values: Mapping[str, float]) -> None:
        """Keep more values.  Where they cannot be written, that is said once, and they last as long as the process."""
        if not values:
            return
        self.values()
        self._values.update(values)
        if self._owner != os.getpid():  # a forked process needs a file of its own
            self._owner, self._file = os.getpid(), self.folder / f"{uuid.uuid4().hex}{SUFFIX}"
        if self._file is None:
            return
        lines = "\n" + "".join(map(_line, values.items()))  # after what was left incomplete
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(lines)
        except OSError as error:
            print(f"warning: nothing is kept in {self.folder}: {error}", file=sys.stderr)
            self._file = None


def _line(item: tuple[str, float]) -> str:
    return json.dumps([*item, _checksum(item)]) + "\n"


def _checksum(item: tuple[object, object]) -> int:
    return zlib.crc32(json.dumps(item).encode())


def _read(file: Path) -> dict[str, float]:
    """The values in a file; lines that are damaged are named by their number and taken out."""
    *lines, unfinished = file.read_bytes().split(b"\n")
    parsed = [(line, _parsed(line)) for line in lines if line]
    found = dict(value for _, value in parsed if value is not None)
    if len(parsed) > (whole := sum(value is not None for _, value in parsed)):
        print(
            f"warning: {len(parsed) - whole:,} of {len(parsed):,} lines in {file} are damaged: what they said is made "
            f"again",
            file=sys.stderr,
        )
        with suppress(OSError), appearing(file, shared=True) as draft:  # else they are named once more next time
            draft.write_bytes(b"\n".join([*(line for line, value in parsed if value is not None), unfinished]))
    return found


def _parsed(line: bytes) -> tuple[str, float] | None:
    try:
        key, value, checksum = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return None
    if not isinstance(key, str) or type(value) not in (int, float) or checksum != _checksum((key, value)):
        return None
    return key, value

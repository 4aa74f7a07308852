"""A store of values on disk to which many processes add, on one machine or on several that share a folder.

Each process appends lines to a file of its own, so that no locks are needed, which network file systems do not keep.
A line that a killed process or a full disk left incomplete is passed over.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

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
                self._values |= _lines(file)
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
        lines = "\n" + "".join(f"{json.dumps(item)}\n" for item in values.items())  # after what was left incomplete
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(lines)
        except OSError as error:
            print(f"warning: nothing is kept in {self.folder}: {error}", file=sys.stderr)
            self._file = None


def _lines(file: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in file.read_bytes().split(b"\n"):
        try:
            key, value = json.loads(line)
        except (ValueError, TypeError):  # a line that was not finished, or an empty one
            continue
        if isinstance(key, str) and isinstance(value, int | float):
            found[key] = value
    return found

"""Checksums of files that were written once: a disk or a copy may change a byte, and then they are made again."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

Checksum = tuple[int, int]
"""The size of a file in bytes, and its CRC-32."""
LIST = "checksums.json"
"""In a folder: name -> checksum of each of its files."""


def checksum_of(path: Path) -> Checksum:
    """Size and checksum of a file, which is read."""
    size, total = 0, 0
    with path.open("rb") as file:
        while block := file.read(2**22):
            size, total = size + len(block), zlib.crc32(block, total)
    return size, total


def list_files(folder: Path) -> None:
    """Write down the checksums of all files in a folder, in :data:`LIST`."""
    listed = {path.name: checksum_of(path) for path in sorted(folder.iterdir()) if path.is_file()}
    (folder / LIST).write_text(json.dumps(listed))


def damage(folder: Path, only: str | None = None) -> str:
    """What is wrong with the listed files of a folder, or with ``only`` one of them; empty = nothing, or no list."""
    if not (folder / LIST).is_file():
        return ""
    try:
        listed = json.loads((folder / LIST).read_text())
        for name, (size, checksum) in listed.items():
            if only in (None, name) and checksum_of(folder / name) != (size, checksum):
                return f"checksum of {name}"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return " ".join(str(error).split())
    return ""

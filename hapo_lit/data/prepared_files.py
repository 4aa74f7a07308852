"""The two files of prepared problems: an Arrow file, and beside it what is known of it with the checksums of both."""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path
from typing import Any

from hapo_lit.storage.atomic import appearing
from hapo_lit.storage.checksums import checksum_of


def keep(path: Path, facts: dict[str, Any]) -> None:
    """Write the facts on an Arrow file that has just been written."""
    with appearing(_beside(path), shared=True) as draft:  # the last to appear: without it the set is read again
        draft.write_text(json.dumps({"facts": facts, "own": _own(facts), "arrow": checksum_of(path)}))


def kept(path: Path) -> dict[str, Any] | None:
    """The facts on an Arrow file, which is read once; None = there is none, or it is damaged, which is said."""
    if not (path.is_file() and _beside(path).is_file()):
        return None
    try:
        found = json.loads(_beside(path).read_text())
        facts: dict[str, Any] = found["facts"]
        if found["own"] != _own(facts):
            raise ValueError("its checksum is another")
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"warning: {_beside(path)} is damaged ({error}): its problems are prepared again", file=sys.stderr)
        return None
    if found["arrow"] != list(checksum_of(path)):  # mapped as it is, it could end the process
        print(f"warning: {path} is damaged (checksum): its problems are prepared again", file=sys.stderr)
        return None
    return facts


def _beside(path: Path) -> Path:
    return path.with_suffix(".json")


def _own(facts: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(facts).encode())

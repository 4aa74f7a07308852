"""What a door can have at once: it imports neither torch nor Hydra, so that a mistyped word is answered quickly."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

PROGRAM = sys.argv[0]
"""The file that this process was started from, before a door gives Hydra its own arguments."""


class SetupError(Exception):
    """Something the user gave cannot be used; the message names it and the fix."""


def config_folder() -> str:
    """``conf/``, inside the installed package or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "conf"
    return str(inside if inside.is_dir() else package.parent / "conf")


def stop(message: str) -> NoReturn:
    """Say what is wrong and leave."""
    print(f"hapo: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def cut(text: str, length: int) -> str:
    """A text, its middle left out if it is longer than that."""
    return text if len(text) <= length else f"{text[: length // 2]} ... {text[-length // 2 :]}"


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean ...?``, or nothing if no known name is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"; did you mean {close[0]!r}?" if close else ""

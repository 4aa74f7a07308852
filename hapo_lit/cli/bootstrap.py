"""What a door can have at once: it imports neither torch nor Hydra, so that a mistyped word is answered quickly."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

PROGRAM = sys.argv[0]
"""The file that this process was started from, before a door gives Hydra its own arguments."""


def config_folder() -> str:
    """``conf/``, inside the installed package or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "conf"
    return str(inside if inside.is_dir() else package.parent / "conf")


def stop(message: str) -> NoReturn:
    """Say what is wrong and leave."""
    print(f"hapo: error: {message}", file=sys.stderr)
    raise SystemExit(2)

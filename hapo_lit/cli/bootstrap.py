"""What an entry point needs before anything heavy is imported: the configuration's folder, and how errors are shown.

Imports neither torch nor Hydra, so that a mistyped word is answered at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from hapo_lit.errors import one_line


def config_folder() -> str:
    """``conf/``, inside the installed package or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "conf"
    return str(inside if inside.is_dir() else package.parent / "conf")


def stop(message: str) -> NoReturn:
    """Say what is wrong and leave."""
    print(f"hapo: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def stop_with(error: BaseException, message: str) -> NoReturn:
    """Say what is wrong and leave; with ``HAPO_TRACEBACK=1`` in the environment the error is raised instead."""
    if os.environ.get("HAPO_TRACEBACK") == "1":
        raise error
    stop(message)


@contextmanager
def one_line_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Errors of these kinds end the process by :func:`stop_with`."""
    try:
        yield
    except kinds as error:
        stop_with(error, one_line(unwrapped(str(error)), 1000))


def unwrapped(text: str) -> str:
    """A message on one line."""
    return " ".join(text.split())

"""What a machine has run out of, as an error says it."""

from __future__ import annotations

import errno
import re

FULL = {errno.ENOSPC, errno.EDQUOT}
"""Error numbers of a disk without room."""
FILES = {errno.EMFILE, errno.ENFILE}
"""Error numbers of a limit on open files."""


def shortage(error: BaseException) -> str | None:
    """What the machine lacks and what helps, if that is what an error came from; else None."""
    cause: BaseException | None = error
    while cause is not None:
        text, number = str(cause), cause.errno if isinstance(cause, OSError) else None
        if re.search(r"shared memory|/torch_\d+|/dev/shm|Bus error", text):
            return f"there is no room in shared memory ({_short(text)}): make room in /dev/shm, or set data.workers=0"
        if number in FULL or "No space left on device" in text:
            return f"the disk is full ({_short(text)}): make room"
        if number in FILES or re.search("Too many open files|items of ancdata", text):
            return f"too many files are open ({_short(text)}): raise the limit with ulimit -n, or lower data.workers"
        if number == errno.EROFS:
            return f"the disk cannot be written any more ({_short(text)})"
        cause = cause.__cause__ or cause.__context__
    return None


def _short(text: str) -> str:
    return " ".join(text.split())[:200]

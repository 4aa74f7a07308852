"""Whether the data of a run are those of the checkpoint that it resumes from."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from hapo_lit.errors import ResumeError

BY_CONTENT = "content "
"""What the fingerprint of local files begins with; those of earlier versions changed with the time of a file."""


def require_same(then: Mapping[str, Any], now: Mapping[str, Any], rank: int) -> None:
    """Raise ``ResumeError`` unless a position means the same batch.

    Args:
        then, now: what the data said of themselves, by name; ``then`` may hold more.
        rank: of this process; rank 0 says what cannot be compared.
    """
    for name, mine in now.items():
        theirs = then.get(name)
        if theirs == mine:
            continue
        if name == "tokenizer":
            raise ResumeError(
                f"the checkpoint was written with another tokenizer ({theirs} then, {mine} now): resume "
                f"with the same model, or start a new run"
            )
        if name == "fingerprint" and _is_of_earlier_version(str(theirs), str(mine)):
            if rank == 0:
                print("warning: the checkpoint knows its data files by their time: not compared", file=sys.stderr)
            continue
        raise ResumeError(
            f"the training data changed since the checkpoint was written ({name} {theirs} then, "
            f"{mine} now): resume with the same data.* and seed, or start a new run"
        )


def _is_of_earlier_version(theirs: str, mine: str) -> bool:
    return mine.startswith(BY_CONTENT) and not theirs.startswith(BY_CONTENT)

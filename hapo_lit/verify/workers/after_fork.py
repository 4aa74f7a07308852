"""What a forked process must give up: processes and locks that are its parent's.

The registry belongs to the module, since ``os.register_at_fork`` cannot be undone: one callback for the process holds
weak references to all that is open, where a callback for each would keep them alive.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forgets(Protocol):
    def forget(self) -> None:
        """In a forked process, before anything else runs: let go of what is the parent's."""


_open: weakref.WeakSet[Forgets] = weakref.WeakSet()


def register(item: Forgets) -> None:
    """Call ``forget`` in each process that is forked while this object lives."""
    _open.add(item)


def _forget() -> None:
    for item in list(_open):
        item.forget()


os.register_at_fork(after_in_child=_forget)

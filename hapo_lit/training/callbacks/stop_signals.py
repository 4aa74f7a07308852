"""Signals that ask a run to stop: it finishes its step, saves a checkpoint and leaves."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any


class Stopped(Exception):
    """A signal ended the run; its checkpoint is ``path``, or there was no step yet and ``path`` is None."""

    def __init__(self, signum: int, path: Path | None) -> None:
        super().__init__(signal.Signals(signum).name)
        self.path = path
        self.status = 0 if signum == signal.SIGTERM else 128 + signum
        """What the process is to end with: success if a scheduler asked."""


class StopSignals:
    """Remembers SIGTERM or SIGINT; a second one ends the process at once."""

    def __init__(self) -> None:
        self.received = 0
        """The number of the signal that came; 0 = none has."""
        self._former: dict[int, Any] = {}
        """Signal -> the handler it had before."""

    def catch(self) -> None:
        """Remember signals from now on."""
        if threading.current_thread() is not threading.main_thread():
            return  # only there can signals be caught
        for signum in (signal.SIGTERM, signal.SIGINT):
            former = signal.signal(signum, self._remember)
            self._former.setdefault(signum, former)

    def catch_again(self) -> None:
        """Take signals back from handlers that Lightning has put in place since :meth:`catch`."""
        if self._former:
            self.catch()

    def restore(self) -> None:
        """Give signals back to the handlers they had before :meth:`catch`."""
        for signum, handler in self._former.items():
            signal.signal(signum, handler)
        self._former = {}

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        if self.received:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        self.received = signum

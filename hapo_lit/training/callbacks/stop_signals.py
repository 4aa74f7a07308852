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
        self.status = 128 + signum if signum == signal.SIGINT else 0
        """What the process is to end with: success if a scheduler asked, or the terminal is gone."""


INSISTENT = (signal.SIGTERM, signal.SIGINT)
"""A second of these ends the process at once."""
CAUGHT = (*INSISTENT, signal.SIGHUP, signal.SIGUSR1)
"""Also what says that a terminal is gone, often twice, and a scheduler's notice (SLURM's ``--signal=USR1@300``)."""


class StopSignals:
    """Remembers the first signal of :data:`CAUGHT`.

    One that the process was started to ignore, as ``nohup`` does with SIGHUP, stays ignored.
    """

    def __init__(self) -> None:
        self.received = 0
        """The number of the signal that came; 0 = none has."""
        self._insisted = False
        self._former: dict[int, Any] = {}
        """Signal -> the handler it had before."""
        self._terminals: list[int] = []
        """What is printed goes there."""

    def catch(self) -> None:
        """Remember signals from now on."""
        if threading.current_thread() is not threading.main_thread():
            return  # only there can signals be caught
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        for signum in CAUGHT:
            if signal.getsignal(signum) is not signal.SIG_IGN:
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
        if signum in INSISTENT:
            if self._insisted:
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
            self._insisted = True
        if signum == signal.SIGHUP:
            self._leave_terminals()
        self.received = self.received or signum

    def _leave_terminals(self) -> None:
        """Print to nowhere what would go to a terminal that is gone, where it would be an error."""
        for descriptor in self._terminals:
            if not os.isatty(descriptor):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, descriptor)
                os.close(null)

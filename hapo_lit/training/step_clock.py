"""Where the time between two steps goes."""

from __future__ import annotations

import time


class StepClock:
    """Measures what lies between the end of a step and the beginning of the next, and has no name of its own.

    Callbacks, loggers and the loop take it.  Evaluations, checkpoints and waiting for data are logged by themselves.
    """

    def __init__(self) -> None:
        self._ended: float | None = None
        self._named = 0.0

    def begin(self, waited: float) -> float:
        """Seconds since the last step, without ``waited``, those for data; 0 at the first step of a process."""
        since = 0.0 if self._ended is None else time.perf_counter() - self._ended - self._named - waited
        return max(since, 0.0)

    def leave_out(self, seconds: float) -> None:
        """Time since the last step that is logged under another name."""
        self._named += seconds

    def end(self) -> None:
        """A step is done."""
        self._ended, self._named = time.perf_counter(), 0.0

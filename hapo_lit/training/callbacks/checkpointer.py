"""Saves checkpoints: when they are due, where held-out accuracy is best, and when the run is asked to stop."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from hapo_lit.errors import SaveError, UnhealthyError
from hapo_lit.numerics.ranges import SettingError, check_count
from hapo_lit.training.callbacks.log_metrics import log
from hapo_lit.training.callbacks.stop_signals import Stopped, StopSignals
from hapo_lit.training.checkpoint_folder import CheckpointFolder
from hapo_lit.training.finite import require_finite
from hapo_lit.training.interfaces import RunCallback, RunModule, RunTrainer
from hapo_lit.training.run_state import RunState, capture
from hapo_lit.training.shards import ShardWriter

BY_CALLBACK = 1 << 16
"""In the place of a signal's number: a callback asks the run to stop (:class:`UnhealthyError`)."""


class Checkpointer(RunCallback):
    """Saves the run state when it is due, where held-out accuracy is best, and when the run is asked to stop.

    While ``signals`` are caught, SIGTERM, SIGINT, SIGHUP and SIGUSR1 let the step finish, save and raise
    :class:`Stopped` on every rank; a second SIGTERM or SIGINT ends the process at once. A checkpoint that is due at
    a step with an evaluation is written after it, so that what comes before a checkpoint stands in the logs.
    Sharded checkpoints are written while training goes on; the next one, the end of the run and a signal wait for
    that.

    Args:
        folder: where checkpoints are; see :class:`hapo_lit.training.checkpoint_folder.CheckpointFolder`.
        every: steps between two.
        minutes: also whenever so many have passed since the last one; None = the clock does not matter.
        keep: how many of the newest stay; -1 = all.
        best: the held-out accuracy whose best checkpoint is kept besides; None = none.
        evaluate_every: steps between evaluations.
    """

    def __init__(
        self,
        folder: str,
        every: int,
        evaluate_every: int,
        minutes: float | None = None,
        keep: int = 2,
        best: str | None = "heldout/sampled",
    ) -> None:
        if minutes is not None and not minutes > 0:
            raise SettingError("minutes", f"must be above 0, or null for never, got {minutes}")
        self.folder = CheckpointFolder(folder, keep)
        self.every, self.minutes, self.best = check_count("every", every), minutes, best
        self.evaluate_every = check_count("evaluate_every", evaluate_every)
        self.signals = StopSignals()
        self.settings: dict[str, Any] = {}
        """What the run state says of the configuration; set by the entry point."""
        self.shards: ShardWriter | None = None
        """Writes sharded checkpoints; set by ``hapo fabric`` if it is to, on every rank."""
        self.best_value, self.best_step = float("-inf"), 0
        self._saved_step = -1
        self._saved_at = time.monotonic()

    def resume(self, state: RunState, is_rank_0: bool) -> None:
        """Go on after a checkpoint in ``folder``, and do what the run may have been killed before it could do."""
        self.best_value, self.best_step = state["best"]
        self._saved_step = state["run"]["step"]
        if is_rank_0:
            # a finished run was evaluated after its last checkpoint, which cannot say that it is the best
            if self.best_step in self.folder.steps() and self.folder.best() < self.best_step:
                self.folder.mark_best(self.best_step)
            self.folder.prune()

    def on_fit_start(self, trainer: RunTrainer, pl_module: RunModule) -> None:
        self._saved_at = time.monotonic()

    def on_train_start(self, trainer: RunTrainer, pl_module: RunModule) -> None:
        self.signals.catch_again()  # Lightning's own handlers come after `on_fit_start`

    def on_validation_start(self, trainer: RunTrainer, pl_module: RunModule) -> None:
        self.signals.catch_again()

    def on_train_batch_end(self, trainer: RunTrainer, pl_module: RunModule, *args: object) -> None:
        evaluated_next = pl_module.step % self.evaluate_every == 0 and pl_module.data.has_heldout
        if not evaluated_next or trainer.limit_val_batches == 0:
            self._save_if_due(trainer, pl_module, better=False)
        else:
            require_finite(pl_module)  # before it is measured

    def on_validation_end(self, trainer: RunTrainer, pl_module: RunModule) -> None:
        if not pl_module.step:  # before training there is nothing to keep
            if signum := pl_module.ranks.max(self.signals.received):
                raise Stopped(signum, None)
            return
        value = pl_module.heldout[self.best] if self.best in pl_module.heldout else float("-inf")
        better = value > self.best_value
        if better:
            self.best_value, self.best_step = value, pl_module.step
        self._save_if_due(trainer, pl_module, better)

    def wait(self) -> None:
        """Until the checkpoint that is being written, if one is, has its name.

        Raises:
            SaveError: it could not be written.
        """
        if self.shards is not None:
            with self._saving(self._saved_step):
                self.shards.wait()

    def settle(self) -> None:
        """As :meth:`wait`, where a run ends by another error: that the checkpoint could not be written is only said."""
        try:
            self.wait()
        except SaveError as error:
            print(error, file=sys.stderr)

    def _save_if_due(self, trainer: RunTrainer, module: RunModule, better: bool) -> None:
        if self.shards is not None and self.shards.is_writing and not module.ranks.max(int(not self.shards.has_ended)):
            self.wait()  # for nothing: whether it went well is said on all ranks, in the same step
        step, last = module.step, module.step == module.phases.steps
        overdue = self.minutes is not None and time.monotonic() - self._saved_at > 60 * self.minutes
        # one rank speaks for all
        asked = module.ranks.max(BY_CALLBACK if module.stop_reason else self.signals.received)
        due = step % self.every == 0 or last or better or asked
        if (due or module.ranks.max(int(overdue))) and step != self._saved_step:
            self.wait()
            require_finite(module)
            with self._saving(step):
                self._save(trainer, module, better)
        elif better:
            self.wait()
            if trainer.is_global_zero:
                self.folder.mark_best(step)
        if asked or last:
            self.wait()
        if asked == BY_CALLBACK and not last:
            raise UnhealthyError(
                f"stopped after step {step} by {module.stop_reason or 'another process'}, the checkpoint is "
                f"{self.folder.path(step)}; to continue: resume=auto"
            )
        if asked and not last:
            raise Stopped(asked, self.folder.path(step))

    def _save(self, trainer: RunTrainer, module: RunModule, better: bool) -> None:
        for logger in trainer.loggers:
            logger.save()
        step, started = module.step, time.perf_counter()
        state = capture(module, module.data, self.settings, weights=self.shards is None)
        state["best"] = (self.best_value, self.best_step)
        if self.shards is not None:
            self.shards.write(self.folder.draft(step), state, partial(self.folder.publish, step, better))
        else:
            if trainer.is_global_zero:
                self.folder.write(step, state, better)
            module.ranks.barrier()  # no rank continues before the checkpoint is there
        self._saved_step, self._saved_at = step, time.monotonic()
        seconds = time.perf_counter() - started
        module.clock.leave_out(seconds)
        log(trainer, {"time/checkpoint": seconds}, step)

    @contextmanager
    def _saving(self, step: int) -> Iterator[None]:
        """Errors in here are about the checkpoint of that step."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            if self.shards is None:
                self.folder.drop_drafts()
            if isinstance(error, SaveError):  # which says it all
                raise
            raise SaveError(
                f"the checkpoint of step {step} could not be written to {self.folder.folder} ({error}): make room "
                f"there; to continue: resume=auto"
            ) from error

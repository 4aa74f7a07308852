"""What a run shows and writes besides its metrics.

Both doors call these at the same moments; ``trainer`` is Lightning's Trainer in one and its Fabric in the other, and
only what they share is asked of it: ``is_global_zero``, ``loggers``, ``world_size``.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from torch import Tensor

from hapo_lit.errors import SaveError
from hapo_lit.training.run_state import StateFolder, capture
from hapo_lit.training.tensorboard import show_completions
from hapo_lit.types import Experience


def in_order(**named: Callback) -> list[Callback]:
    """Callbacks by name, so that one can be changed by name, as the list that a door takes."""
    return [callback for callback in named.values() if callback is not None]


class Progress(RichProgressBar):
    """A progress bar with reward, gate open rate and time left."""

    def __init__(self) -> None:
        super().__init__(theme=RichProgressBarTheme(metrics_text_delimiter=" ", metrics_format=".2f"))

    def _get_train_description(self, current_epoch: int) -> str:
        return "train"  # a run is one pass over an endless stream: epochs mean nothing here

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        """Without the speed column, so that the metrics fit beside the bar in 80 columns."""
        return list(super().configure_columns(trainer))[:-1]

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = dict(super().get_metrics(trainer, pl_module))
        metrics.pop("v_num", None)
        return metrics


class Metrics(Callback):
    """Tells the loggers what a step and an evaluation gave."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        _log(trainer, pl_module.metrics, pl_module.step)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        _log(trainer, pl_module.heldout, pl_module.step)


def _log(trainer: Any, metrics: Mapping[str, float], step: int) -> None:
    for logger in trainer.loggers:  # not self.log, which would write only after the state has been saved
        logger.log_metrics(dict(metrics), step=step)


class Stopped(Exception):
    """A signal ended the run; its state is saved in ``path``, or there was no step yet and ``path`` is None."""

    def __init__(self, signum: int, path: Path | None) -> None:
        super().__init__(signal.Signals(signum).name)
        self.path = path
        self.status = 0 if signum == signal.SIGTERM else 128 + signum
        """What the process is to end with: success if a scheduler asked."""


class Checkpointer(Callback):
    """Saves the run's state when it is due, where held-out accuracy is best, and when a signal asks the run to stop.

    Once it listens, SIGTERM and SIGINT let the step finish, save and raise :class:`Stopped` on every rank; a second one
    ends the process at once.  A state that is due at a step with an evaluation is saved after it, so that no state
    lacks what stands before it in the logs.

    Args:
        folder: where states lie; see :class:`hapo_lit.training.run_state.StateFolder`.
        every: steps between two.
        minutes: also whenever so many have passed since the last one; None = never for that.
        keep: how many of the newest stay; -1 = all.
        best: the held-out number whose best state is kept besides; None = none.
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
        if minutes is not None and minutes <= 0:
            raise ValueError(f"save_minutes must be above 0, or null for never, got {minutes}")
        self.folder = StateFolder(folder, keep)
        self.every, self.minutes, self.best, self.evaluate_every = every, minutes, best, evaluate_every
        self.settings: dict[str, Any] = {}
        """What the state says of the configuration; set by the door."""
        self.write_shards: Callable[[Path, dict[str, Any]], None] | None = None
        """Writes a sharded state, on every rank; set by a door whose strategy has one."""
        self.best_value, self.best_step = float("-inf"), 0
        self._signal = 0
        self._saved = -1
        self._clock = time.monotonic()
        self._handlers: dict[int, Any] = {}

    def goes_on(self, state: Mapping[str, Any], first: bool) -> None:
        """The run goes on from a state that lies in the folder already; ``first`` = this is rank 0."""
        self.best_value, self.best_step = state["best"]
        self._saved = state["run"]["step"]
        if first:  # it may have been killed just before this
            if self.best_step in self.folder.steps():
                self.folder.mark_best(self.best_step)
            self.folder.prune()

    # -- signals

    def listen(self) -> None:
        """From now on a signal is remembered; Lightning puts handlers of its own in place, so this may be repeated."""
        if threading.current_thread() is not threading.main_thread():
            return  # only there can signals be caught
        for each in (signal.SIGTERM, signal.SIGINT):
            handler = signal.signal(each, self._remember)
            self._handlers.setdefault(each, handler)

    def release(self) -> None:
        """Give signals back to whoever had them."""
        for each, handler in self._handlers.items():
            signal.signal(each, handler)
        self._handlers = {}

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if self._handlers:
            self.listen()

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._clock = time.monotonic()
        if self._handlers:
            self.listen()

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        if self._signal:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        self._signal = signum

    # -- saving

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        evaluated_next = pl_module.step % self.evaluate_every == 0 and pl_module.data.has_heldout
        if not evaluated_next or getattr(trainer, "limit_val_batches", None) == 0:
            self._save_if_due(trainer, pl_module, better=False)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not pl_module.step:  # before training there is nothing to keep
            if signum := pl_module.ranks.max(self._signal):
                raise Stopped(signum, None)
            return
        value = pl_module.heldout.get(self.best, float("-inf"))
        better = value > self.best_value
        if better:
            self.best_value, self.best_step = value, pl_module.step
        self._save_if_due(trainer, pl_module, better)

    def _save_if_due(self, trainer: Any, module: Any, better: bool) -> None:
        step, last = module.step, module.step == module.phases.steps
        overdue = self.minutes is not None and time.monotonic() - self._clock > 60 * self.minutes
        signum = module.ranks.max(self._signal)  # all ranks stop, whichever was told to
        due = step % self.every == 0 or last or better or signum
        if (due or module.ranks.max(int(overdue))) and step != self._saved:
            try:
                self._save(trainer, module, better)
            except (OSError, RuntimeError) as error:
                self.folder.drop_unfinished()
                raise SaveError(
                    f"the state of step {step} could not be written to {self.folder.folder} ({error}): make room "
                    f"there, and go on with resume=auto"
                ) from error
        elif better and trainer.is_global_zero:
            self.folder.mark_best(step)
        if signum and not last:
            raise Stopped(signum, self.folder.path(step))

    def _save(self, trainer: Any, module: Any, better: bool) -> None:
        for logger in trainer.loggers:
            logger.save()
        step, zero = module.step, trainer.is_global_zero
        state = capture(module, module.data, self.settings, weights=self.write_shards is None)
        state["best"] = (self.best_value, self.best_step)
        if self.write_shards is not None:
            self.write_shards(self.folder.unfinished(step), state)
            if zero:
                self.folder.publish(step, better)
        elif zero:
            self.folder.write(step, state, better)
        module.ranks.barrier()  # no rank goes on before the checkpoint is there
        self._saved, self._clock = step, time.monotonic()


class Completions(Callback):
    """Writes some groups as JSON lines: prompt, responses, who wrote them, verdicts, advantages; and shows them as a
    table in TensorBoard.

    Args:
        path: the file; lines are appended.
        every: steps between two records.
        prompts: groups per record.
    """

    def __init__(self, path: str, every: int, prompts: int = 4) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1 step, got {every}")
        self.path, self.every, self.prompts = Path(path), every, prompts

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        experience = pl_module.experience
        if not trainer.is_global_zero or experience is None or (pl_module.step - 1) % self.every:
            return
        group = experience.group
        size = group.tokens.shape[1]
        texts = pl_module.decode(group)
        prompts = pl_module.tokenizer.batch_decode(
            [tokens[mask].tolist() for tokens, mask in zip(group.prompt_tokens, group.prompt_mask, strict=True)],
            skip_special_tokens=True,
        )
        records = [
            {
                "step": pl_module.step,
                "prompt": prompt,
                "answer": batch.answers[index],
                "gate_open": bool(experience.decision.open[index]),
                "responses": [
                    {
                        "text": texts[index * size + row],
                        "by": "teacher" if group.is_teacher[index, row] else "policy",
                        "reward": float(group.rewards[index, row]),
                        "advantage": round(float(experience.advantages[index, row]), 6),
                        "finished": bool(group.finished[index, row]),
                    }
                    for row in range(size)
                    if group.present[index, row]
                ],
            }
            for index, prompt in enumerate(prompts[: self.prompts])
        ]
        with self.path.open("a") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        show_completions(trainer, records, pl_module.step)


class Consistency(Callback):
    """What injection does to the gradient: that of the batch against that of the same rollouts without their teachers.

    Every ``every`` steps, at the weights before the update, ``consistency/``:

    ``cosine``      of the two gradients; missing where one of them is zero, as in a batch without signal of its own
    ``norm_ratio``  norm with the teacher over norm without; missing where the latter is zero
    ``norm``, ``norm_without``   the norms, before clipping

    As the gate closes, cosine and ratio go to one: the estimator has become the on-policy one.  Each measurement costs
    two more updates' worth of passes and changes nothing in the run.

    Args:
        every: steps between measurements; None = never.
    """

    def __init__(self, every: int | None = None) -> None:
        if every is not None and every < 1:
            raise ValueError(f"consistency_every must be at least 1 step, or null for never, got {every}")
        self.every = every

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if self.every is not None:
            pl_module.before_update.append(lambda experience: self._measure(trainer, pl_module, experience))

    def _measure(self, trainer: Any, pl_module: Any, experience: Experience) -> None:
        assert self.every is not None
        if pl_module.step % self.every:
            return
        without = pl_module.without_teacher(experience)
        if without is None:
            return
        gradient, alone = pl_module.gradient(experience), pl_module.gradient(without)
        norm, norm_alone = _inner(gradient, gradient) ** 0.5, _inner(alone, alone) ** 0.5
        metrics = {"norm": norm, "norm_without": norm_alone}
        if norm_alone > 0:
            metrics["norm_ratio"] = norm / norm_alone
        if norm > 0 and norm_alone > 0:
            metrics["cosine"] = _inner(gradient, alone) / (norm * norm_alone)
        named = {f"consistency/{name}": value for name, value in metrics.items()}
        _log(trainer, named, pl_module.step + 1)


def _inner(first: list[Tensor], second: list[Tensor]) -> float:
    """The inner product of two gradients, added up in float64."""
    return float(sum((a * b).sum(dtype=torch.float64) for a, b in zip(first, second, strict=True)))


class Groups(Callback):
    """Writes one line for each group: what the gate saw and what came of it, for reports on the gate.

    Columns: ``step``, ``prompt`` (id), ``successes``, ``trials``, ``open``, ``teacher`` (a row was injected).

    Args:
        path: the CSV file; lines are appended.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        experience = pl_module.experience
        if experience is None or experience.rollouts is None:
            return
        successes, trials = experience.rollouts.success_counts()
        taught = (experience.group.is_teacher & experience.group.present).any(1)
        columns = (experience.group.prompt_ids, successes, trials, experience.decision.open, taught)
        rows = pl_module.ranks.gather(torch.stack([column.long() for column in columns], 1))
        if not trainer.is_global_zero:
            return
        lines = [",".join(map(str, (pl_module.step, *row))) for row in rows.tolist()]
        begun = self.path.exists() and self.path.stat().st_size
        with self.path.open("a") as file:
            file.write(("" if begun else "step,prompt,successes,trials,open,teacher\n") + "\n".join(lines) + "\n")

"""What a run shows and writes besides its metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from torch import Tensor


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


class Checkpoints(ModelCheckpoint):
    """A checkpoint every so many *training* steps, whatever number of optimiser steps one of them takes.

    Args:
        folder: where they go, as ``step-<step>.ckpt`` and ``last.ckpt``: no ``=``, so that ``resume=`` needs no quotes.
        every: training steps between two.
        keep: how many of the newest stay besides the last; -1 = all.
    """

    def __init__(self, folder: str, every: int, keep: int = 1) -> None:
        super().__init__(
            dirpath=folder,
            filename="step-{step}",
            auto_insert_metric_name=False,
            every_n_train_steps=1,
            save_top_k=keep,
            save_last=True,
            enable_version_counter=False,
        )
        self.every = every

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.step % self.every == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class Completions(Callback):
    """Writes some groups as JSON lines: prompt, responses, who wrote them, verdicts, advantages.

    Args:
        path: the file; lines are appended.
        every: steps between two records.
        prompts: groups per record.
    """

    def __init__(self, path: str, every: int, prompts: int = 4) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1 step, got {every}")
        self.path, self.every, self.prompts = Path(path), every, prompts

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
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
        with self.path.open("a") as file:
            for index, prompt in enumerate(prompts[: self.prompts]):
                record = {
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
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


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
        self._measured = -1

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        experience = pl_module.experience
        if self.every is None or experience is None:
            return
        if pl_module.step % self.every or pl_module.step == self._measured:
            return
        self._measured = pl_module.step  # the first of several updates on a batch
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
        for logger in trainer.loggers:  # not self.log, which would repeat the value at every step until the next one
            logger.log_metrics(named, step=pl_module.step + 1)


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

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        experience = pl_module.experience
        if not trainer.is_global_zero or experience is None or experience.rollouts is None:
            return
        successes, trials = experience.rollouts.success_counts()
        taught = (experience.group.is_teacher & experience.group.present).any(1)
        columns = (experience.group.prompt_ids, successes, trials, experience.decision.open.int(), taught.int())
        lines = [
            ",".join(map(str, (pl_module.step, *row)))
            for row in zip(*(column.tolist() for column in columns), strict=True)
        ]
        begun = self.path.exists()
        with self.path.open("a") as file:
            file.write(("" if begun else "step,prompt,successes,trials,open,teacher\n") + "\n".join(lines) + "\n")

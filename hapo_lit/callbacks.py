"""What a run shows and writes besides its metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme


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

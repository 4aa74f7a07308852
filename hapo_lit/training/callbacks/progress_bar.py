"""The progress bar of ``hapo train``."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme


class ProgressBar(RichProgressBar):
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

"""Metrics to the loggers: TensorBoard and ``metrics.csv``."""

from __future__ import annotations

from collections.abc import Mapping

from hapo_lit.training.interfaces import RunCallback, RunModule, RunTrainer


class LogMetrics(RunCallback):
    """Logs the metrics of every step and every evaluation."""

    def on_train_batch_end(self, trainer: RunTrainer, pl_module: RunModule, *args: object) -> None:
        log(trainer, pl_module.metrics, pl_module.step)

    def on_validation_end(self, trainer: RunTrainer, pl_module: RunModule) -> None:
        log(trainer, pl_module.heldout, pl_module.step)


def log(trainer: RunTrainer, metrics: Mapping[str, float], step: int) -> None:
    """Give metrics to every logger, before a callback that comes later saves a checkpoint.

    ``self.log`` would write them after all callbacks, when the checkpoint is on disk already.
    """
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=step)

"""What goes to TensorBoard besides curves: histograms and texts."""

from __future__ import annotations

from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from hapo_lit.training.interfaces import RunTrainer


def show_histogram(trainer: RunTrainer, name: str, values: Tensor, step: int) -> None:
    """Show the distribution of some values, if the run logs to TensorBoard."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_histogram(name, values, step)


def show_text(trainer: RunTrainer, name: str, markdown: str, step: int) -> None:
    """Show a text in Markdown, if the run logs to TensorBoard."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(name, markdown, step)

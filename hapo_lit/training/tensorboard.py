"""What goes to TensorBoard: curves, histograms and texts."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from hapo_lit.training.interfaces import RunTrainer


class StepwiseTensorBoardLogger(TensorBoardLogger):
    """Lightning's logger, which writes the numbers of a step as one event and not as one for each.

    Every event is passed to a thread that writes, which takes longer than all else that is done for a number.
    """

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write numbers of a step; what is no number, or has a prefix, goes Lightning's way."""
        if self._prefix or not all(isinstance(value, int | float) for value in metrics.values()):
            super().log_metrics(dict(metrics), step)
            return
        writer = self.experiment._get_file_writer()  # a new one where Lightning has closed the last
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]  # loaded by now

        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        writer.add_summary(Summary(value=values), step)


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

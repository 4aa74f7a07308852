"""``metrics.csv`` as a file that a kill cannot empty."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from hapo_lit.numerics.ranges import check_count
from hapo_lit.storage.atomic import appearing


class SafeCSVLogger(CSVLogger):
    """Lightning's logger, whose file is replaced and not overwritten when a new metric makes its header longer.

    Args:
        folder: ``metrics.csv`` goes here.
        every: steps between writes; a checkpoint that is saved writes too.
    """

    def __init__(self, folder: str, every: int = 20) -> None:
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=check_count("every", every))

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            os.makedirs(self.log_dir, exist_ok=True)
            self._experiment = _SafeWriter(self.log_dir)
        return self._experiment


class _SafeWriter(ExperimentWriter):
    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        with open(self.metrics_file_path, newline="") as file:
            rows = list(csv.DictReader(file))
        with appearing(Path(self.metrics_file_path)) as draft, draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=fieldnames)
            writer.writeheader()
            writer.writerows(rows)

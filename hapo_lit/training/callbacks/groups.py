"""Every group of a run as a line of ``groups.csv``, for reports on the gate."""

from __future__ import annotations

from pathlib import Path

import torch

from hapo_lit.training.interfaces import RunCallback, RunModule, RunTrainer


class Groups(RunCallback):
    """Writes one line for each group: what the gate saw and what came of it.

    Columns: ``step``, ``prompt`` (id), ``successes``, ``trials``, ``open``, ``teacher`` (a row was injected).

    Args:
        path: the CSV file; lines are appended.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, trainer: RunTrainer, pl_module: RunModule, *args: object) -> None:
        experience = pl_module.experience
        if experience is None or experience.rollouts is None:
            return
        successes, trials = experience.rollouts.success_counts()
        taught = (experience.group.is_teacher & experience.group.present).any(1)
        flags = torch.stack([experience.decision.open, taught]).long()
        rows = pl_module.ranks.gather(torch.stack([experience.group.prompt_ids, successes, trials, *flags], 1))
        if not trainer.is_global_zero:
            return
        lines = [",".join(map(str, (pl_module.step, *row))) for row in rows.tolist()]
        with self.path.open("a") as file:
            if not file.tell():
                lines.insert(0, "step,prompt,successes,trials,open,teacher")
            file.write("\n".join(lines) + "\n")

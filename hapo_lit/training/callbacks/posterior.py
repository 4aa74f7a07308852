"""How the gate's estimates are spread, as a histogram in TensorBoard."""

from __future__ import annotations

from hapo_lit.numerics.ranges import check_count
from hapo_lit.training.interfaces import RunCallback, RunModule, RunTrainer
from hapo_lit.training.metric_names import POSTERIOR
from hapo_lit.training.tensorboard import show_histogram


class Posterior(RunCallback):
    """Shows how the posterior means of the step's prompts are spread, over all ranks; nothing if the gate has none.

    Args:
        every: steps between two histograms.
    """

    def __init__(self, every: int) -> None:
        self.every = check_count("every", every)

    def on_train_batch_end(self, trainer: RunTrainer, pl_module: RunModule, *args: object) -> None:
        experience = pl_module.experience
        if (pl_module.step - 1) % self.every or experience is None or experience.rollouts is None:
            return
        if not pl_module.phases.at(pl_module.step - 1).algorithm.estimates:
            return
        means = pl_module.ranks.gather(experience.decision.confidence)
        if trainer.is_global_zero:
            show_histogram(trainer, POSTERIOR, means, pl_module.step)

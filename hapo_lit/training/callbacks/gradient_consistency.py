"""What injection does to the gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from hapo_lit.numerics.ranges import check_optional_count
from hapo_lit.training.callbacks.log_metrics import log
from hapo_lit.training.interfaces import RunCallback, RunModule, RunTrainer
from hapo_lit.types import Experience


class GradientConsistency(RunCallback):
    """Compares the gradient of a batch with that of the same rollouts without their teachers.

    Every ``every`` steps, at the weights before the update, it logs under ``consistency/``:

    ``cosine``      of the two gradients; missing where one of them is zero, as in a batch without signal of its own
    ``norm_ratio``  norm with the teacher over norm without; missing where the latter is zero
    ``norm``, ``norm_without``   the norms, before clipping

    As the gate closes, cosine and ratio go to one: the estimator has become the on-policy one.  Each measurement costs
    two more updates' worth of passes and changes nothing in the run.

    Args:
        every: steps between measurements; None = never.
    """

    def __init__(self, every: int | None = None) -> None:
        self.every = check_optional_count("every", every)

    def on_fit_start(self, trainer: RunTrainer, pl_module: RunModule) -> None:
        if (every := self.every) is None:
            return

        def measure(experience: Experience) -> None:
            if pl_module.step % every == 0 and (metrics := compared(pl_module, experience)):
                named = {f"consistency/{name}": value for name, value in metrics.items()}
                log(trainer, named, pl_module.step + 1)

        pl_module.before_update_hooks.append(measure)


def compared(module: RunModule, experience: Experience) -> dict[str, float]:
    """The two gradients of a batch, compared; nothing if the batch has no rollouts."""
    without = module.phase.algorithm.without_teacher(experience, module.ranks)
    if without is None:
        return {}
    gradient, gradient_without = module.gradient(experience), module.gradient(without)
    norm, norm_without = _inner(gradient, gradient) ** 0.5, _inner(gradient_without, gradient_without) ** 0.5
    metrics = {"norm": norm, "norm_without": norm_without}
    if norm_without > 0:
        metrics["norm_ratio"] = norm / norm_without
    if norm > 0 and norm_without > 0:
        metrics["cosine"] = _inner(gradient, gradient_without) / (norm * norm_without)
    return metrics


def _inner(first: list[Tensor], second: list[Tensor]) -> float:
    """The inner product of two gradients, added up in float64."""
    return float(sum((a * b).sum(dtype=torch.float64) for a, b in zip(first, second, strict=True)))

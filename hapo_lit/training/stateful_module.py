"""The LightningModule's memory: its optimiser, and what checkpoints hold of it besides weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any, cast

import torch
from lightning import LightningModule
from torch.optim import Optimizer
from transformers import PreTrainedModel

from hapo_lit.errors import ResumeError
from hapo_lit.policy.deferred import take_weights
from hapo_lit.policy.sharding import shard_optimizer_state
from hapo_lit.training.optimizer import made, trained_parameters, unwrapped
from hapo_lit.training.phases import Phases
from hapo_lit.training.update import SkipLimit


class StatefulModule(LightningModule):
    """The part of :class:`~hapo_lit.training.module.HapoModule` that makes the optimiser, and saves and resumes.

    Args:
        policy: the model that learns.
        phases: which algorithm, loss and learning rate act when.
        optimizer: parameters -> optimiser.
        max_skipped: updates in a row that may be skipped.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        phases: Phases,
        optimizer: Callable[[Iterable[torch.nn.Parameter]], Optimizer],
        max_skipped: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy, self.phases, self.make_optimizer = policy, phases, optimizer
        self.skips = SkipLimit(max_skipped)
        self.step = 0
        """Training steps done: one batch of prompts each, however many optimiser steps it takes."""
        self.optimizer: Optimizer | None = None
        """Set by ``hapo fabric``; the Trainer keeps its own."""
        self.callback_memory: dict[str, dict[str, Any]] = {}
        """What callbacks remember from step to step, by their names."""
        self.stop_reason: str | None = None
        """The setting by which a callback asks for the end of the run, after this step and with a checkpoint."""
        self._saved_optimizer: dict[str, Any] | None = None

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take over weights; models that get theirs once they are sharded get these then."""
        rest = take_weights(self, state_dict)
        return super().load_state_dict(rest, strict=strict and len(rest) == len(state_dict), assign=assign)

    def configure_optimizers(self) -> Optimizer:
        parameters = trained_parameters(self.policy)
        optimizer = made(self.make_optimizer, parameters)
        if self._saved_optimizer is not None:
            optimizer.load_state_dict(shard_optimizer_state(self._saved_optimizer, parameters))
            self._saved_optimizer = None
        return optimizer

    def _optimizer(self) -> Optimizer:
        """The optimiser under the wrapper of Fabric or of the Trainer."""
        return cast(Optimizer, self.optimizers() if self.optimizer is None else self.optimizer)

    def optimizer_state(self) -> dict[str, Any]:
        """The state of torch's own optimiser."""
        return unwrapped(self._optimizer()).state_dict()

    def resume_optimizer(self, state: dict[str, Any]) -> None:
        """Keep the state that the optimiser gets when it is made."""
        self._saved_optimizer = state

    def run_state(self) -> dict[str, Any]:
        """What this module remembers besides weights and optimiser."""
        return {
            "step": self.step,
            "skipped": self.skips.in_a_row,
            "phases": self.phases.state_dict(),
            "callbacks": deepcopy(self.callback_memory),
        }

    def load_run_state(self, state: Mapping[str, Any]) -> None:
        """Remember what :meth:`run_state` gave."""
        self.phases.load_state_dict(state["phases"])
        self.step, self.skips.in_a_row = state["step"], state["skipped"]
        self.callback_memory = deepcopy(state.get("callbacks", {}))  # which earlier versions did not have

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["hapo"] = self.run_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "hapo" not in checkpoint:
            raise ResumeError("this checkpoint was not written by hapo_lit: it holds no step and no gate")
        self.load_run_state(checkpoint["hapo"])

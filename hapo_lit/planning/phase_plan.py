"""What the steps of a run consist of, from its settings: prompts, rollouts, rows, passes, tokens.

Nothing here runs a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
import torch

from hapo_lit.device_memory import RolloutBatch
from hapo_lit.protocols import Algorithm, Gate, HasOpenProbability
from hapo_lit.rows import MicroBatchLimit
from hapo_lit.training.module import HapoModule
from hapo_lit.types import PromptBatch, RolloutGroup


@dataclass(frozen=True)
class PhasePlan:
    """A phase's steps; numbers are over all processes where nothing else is said.

    Example:
        ``PhasePlan(steps=500, prompts=128, rollouts=8, rows=8, teachers=1, processes=8,
        micro_batch_limit=MicroBatchLimit(rows=1), passes=1,
        minibatches=2, prompt=1024, response=8192)`` has ``micro_batches == 64``.
    """

    steps: int
    prompts: int
    """Prompts of a step."""
    rollouts: int
    """Sampled responses of a prompt; 0 in a supervised phase."""
    rows: int
    """Rows of a prompt that the policy may have to run, at most: rollouts and the teacher's row."""
    teachers: int
    """Rows of each prompt that are the teacher's, at most."""
    processes: int
    micro_batch_limit: MicroBatchLimit
    passes: int
    """Passes over each batch."""
    minibatches: int
    """Optimiser steps in a pass."""
    prompt: int
    """Tokens of a prompt, at most."""
    response: int
    """Tokens of a response, at most."""

    @property
    def supervised(self) -> bool:
        """True = nothing is sampled."""
        return not self.rollouts

    @property
    def prompts_per_process(self) -> int:
        """Prompts of a step that one process has."""
        return self.prompts // self.processes

    @property
    def updates(self) -> int:
        """Optimiser steps on each batch."""
        return self.passes * self.minibatches

    @property
    def minibatch(self) -> int:
        """Prompts of a mini-batch, at most."""
        return ceil(self.prompts / self.minibatches)

    @property
    def rows_per_update(self) -> int:
        """Rows that one process runs for an optimiser step, at most."""
        return ceil(self.minibatch / self.processes) * self.rows

    @property
    def micro_batches(self) -> int:
        """Forward and backward passes of one process for an optimiser step, at most."""
        return ceil(self.rows_per_update / self.micro_batch)

    @property
    def micro_batch(self) -> int:
        """Rows of a micro-batch of rows of the greatest length."""
        size, tokens = self.micro_batch_limit.rows, self.micro_batch_limit.tokens
        longest = size if tokens is None else max(1, tokens // (self.prompt + self.response))
        return min(size, longest, self.rows_per_update)

    @property
    def fullest_micro_batch(self) -> tuple[int, int, int]:
        """Rows of a micro-batch that has most tokens, and the tokens of their prompts and of their responses.

        Where tokens are limited, some shorter rows may fill a micro-batch that as many of the greatest length do not.
        """
        size, tokens = self.micro_batch_limit.rows, self.micro_batch_limit.tokens
        longest, rows = self.prompt + self.response, self.micro_batch
        if tokens is None or tokens <= rows * longest or rows == min(size, self.rows_per_update):
            return rows, self.prompt, self.response
        response = min(self.response, tokens // (rows + 1) - 1)
        return rows + 1, min(self.prompt, tokens // (rows + 1) - response), response

    @property
    def sampled_tokens(self) -> int:
        """Tokens sampled in a step, at most."""
        return self.prompts * self.rollouts * self.response

    @property
    def trained_tokens(self) -> int:
        """Tokens, prompts included, in the passes with gradients of a step, at most."""
        return self.prompts * self.rows * (self.prompt + self.response) * self.passes

    @property
    def rollout_batch(self) -> RolloutBatch:
        """What one process samples in a step."""
        return RolloutBatch.largest(self.prompts, self.processes, self.rollouts, self.prompt, self.response)

    def line(self) -> str:
        """A step in a line."""
        sampled = f" x {self.rollouts} responses, at most {self.sampled_tokens:,} tokens sampled"
        updates = f"{self.updates} update{'s' if self.updates > 1 else ''}"
        passes = f"{self.micro_batches:,} pass{'es' if self.micro_batches > 1 else ''} of {self.micro_batch:,} rows"
        return (
            f"a step: {self.prompts:,} prompts{'' if self.supervised else sampled}; {updates} on at most "
            f"{self.trained_tokens:,} tokens, each in at most {passes}{' a process' if self.processes > 1 else ''}"
        )


def phase_plans(module: HapoModule, prompts: int, processes: int, prompt: int, response: int) -> list[PhasePlan]:
    """A plan for each phase of a module.

    Args:
        module: has the phases.
        prompts: of a step, over all processes.
        processes: that share them.
        prompt, response: tokens of each, at most.

    Raises:
        ValueError: the processes cannot get equally many prompts.
    """
    if prompts % processes:
        near = next(count for count in range(processes, 0, -1) if prompts % count == 0)
        raise ValueError(
            f"prompts_per_step={prompts} is not divisible by {processes} processes: set "
            f"prompts_per_step={ceil(prompts / processes) * processes}, or take {near} processes"
        )
    plans = []
    for phase, steps in module.phases.with_steps():
        rows, teachers = rows_per_prompt(phase.algorithm, len(steps))
        plans.append(
            PhasePlan(
                steps=len(steps),
                prompts=prompts,
                rollouts=phase.algorithm.rollouts_per_prompt,
                rows=rows,
                teachers=teachers,
                processes=processes,
                micro_batch_limit=module.micro_batch_limit,
                passes=module.updates_per_batch,
                minibatches=min(module.minibatches, prompts),
                prompt=prompt,
                response=response,
            )
        )
    return plans


def rows_per_prompt(algorithm: Algorithm, steps: int) -> tuple[int, int]:
    """Rows of a prompt, and how many of them are the teacher's, both at most; found by letting the injector act."""
    if algorithm.injector is None:
        return 1, 1
    rollouts = algorithm.rollouts_per_prompt
    if algorithm.gate is not None and not can_open(algorithm.gate, rollouts, steps):
        return rollouts, 0
    one = torch.ones(1, 1, dtype=torch.bool)
    many = one.expand(1, rollouts)
    group = RolloutGroup(
        prompt_ids=torch.zeros(1, dtype=torch.int64),
        prompt_tokens=one.long(),
        prompt_mask=one,
        tokens=many.long()[..., None],
        mask=many[..., None],
        rewards=torch.zeros(1, rollouts),
        finished=many,
        is_teacher=~many,
        present=many,
        behaviour_logprobs=torch.zeros(1, rollouts, 1),
    )
    prompts = PromptBatch(
        prompt_ids=group.prompt_ids,
        tokens=one.long(),
        mask=one,
        answers=("",),
        teacher_tokens=one.long(),
        teacher_mask=one,
        teacher_rewards=torch.ones(1),
    )
    taught = algorithm.injector(group, prompts, one[0], 0)
    return max(rollouts, int(taught.present.sum())), int(taught.is_teacher.sum())


def can_open(gate: Gate, rollouts: int, steps: int) -> bool:
    """Whether a gate may open in the first, middle or last of ``steps``; True where that is not known."""
    rates = np.linspace(0, 1, 11)
    found = [open_probabilities(gate, rates, rollouts, visit) for visit in (0, steps // 2, steps - 1)]
    return any(probabilities is None or bool((probabilities > 0).any()) for probabilities in found)


def open_probabilities(gate: Gate, rates: np.ndarray, rollouts: int, visit: int) -> np.ndarray | None:
    """P(open) of a gate at some success rates; None = it is not known in closed form."""
    return gate.open_probability(rates, rollouts, visit) if isinstance(gate, HasOpenProbability) else None

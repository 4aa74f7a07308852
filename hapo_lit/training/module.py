"""The LightningModule: owns policy, reference and optimiser.  Training's backward passes are here only.

A training step is ``optimise(collect(batch), loss)``.  ``hapo train`` and ``hapo fabric`` both call ``run_step``, and
differ in whose ``loss`` they hand over (the module's own, or that of Fabric's wrapper) and in how a backward pass is
kept from exchanging gradients between ranks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hapo_lit.numerics.tallies import accumulate, tally
from hapo_lit.policy.adapters import has_adapter, without_adapter
from hapo_lit.policy.attention import leaves_padding_out
from hapo_lit.policy.compiling import compiled_copy
from hapo_lit.policy.scoring import logprobs_as_in_update, token_logprobs
from hapo_lit.policy.sharding import rest_gathered, total_norm, unsharded
from hapo_lit.policy.vocabulary import hide_unreadable, unreadable_ids
from hapo_lit.protocols import ALONE, Ranks
from hapo_lit.rows import LossOutput, MicroBatchLimit, Rows, Text, UncastRows
from hapo_lit.training.decoding import decode_responses
from hapo_lit.training.evaluation import Evaluator, HeldOutEvaluation
from hapo_lit.training.interfaces import RunData
from hapo_lit.training.metrics import (
    GradientShare,
    anneal_tallies,
    for_progress_bar,
    over_ranks,
    reward_tallies,
    tallied,
)
from hapo_lit.training.optimizer import set_for_step, trained_parameters
from hapo_lit.training.out_of_memory import when_out_of_memory
from hapo_lit.training.phases import Phase, Phases
from hapo_lit.training.ranks import ranks_over
from hapo_lit.training.stateful_module import StatefulModule
from hapo_lit.training.step_clock import StepClock
from hapo_lit.training.update import check_settings, micro_batches, split_by_prompts
from hapo_lit.types import Experience, PromptBatch, RolloutGroup

Loss = Callable[[Rows], LossOutput]
"""The loss of a micro-batch: :meth:`HapoModule.loss`, or the same through a wrapper."""
NoSync = Callable[[], AbstractContextManager]
"""Makes a context in which backward passes do not exchange gradients between ranks."""


class HapoModule(StatefulModule):
    """Group policy optimisation under manual optimisation.

    Args:
        policy: the model that learns.
        tokenizer: its tokenizer.
        phases: which algorithm, loss and learning rate act when.
        optimizer: parameters -> optimiser.
        evaluators: name -> how held-out accuracy is measured; logged as ``heldout/<name>``.
        max_grad_norm: gradients are scaled down to this norm.
        micro_batch_size, micro_batch_tokens: responses per forward and backward pass, and tokens with prompts and
            padding (None = any number), at most; the loss does not depend on them.
        updates_per_batch: passes over each batch of rollouts (μ of GRPO).
        minibatches: optimiser steps in each pass: parts of the batch's prompts, each weighted as if it were the batch;
            at most one for each prompt.  With one pass and one part ratios are exactly one and no old policy is scored.
        temperature: of the engine, so that log-probabilities are those of the distribution sampled from.
        max_skipped: updates in a row that may have a loss or gradient that is not finite; each is skipped and counted,
            and one more ends the run.
        balance_tokens: True = several ranks deal the rows of a batch to one another, so that each has about as many
            tokens; the loss does not depend on it.
        padding_free: see :func:`hapo_lit.policy.attention.leaves_padding_out`.

    A policy with a LoRA adapter is its own reference: the base, with the adapter off.
    """

    data: RunData
    """The prompts, whose position is part of the run state; set by ``setup`` or by ``hapo fabric``."""

    def __init__(
        self,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        phases: Phases,
        optimizer: Callable[[Iterable[torch.nn.Parameter]], Optimizer],
        evaluators: Mapping[str, Evaluator],
        max_grad_norm: float = 1.0,
        micro_batch_size: int = 128,
        updates_per_batch: int = 1,
        minibatches: int = 1,
        temperature: float = 1.0,
        max_skipped: int = 4,
        micro_batch_tokens: int | None = None,
        balance_tokens: bool = True,
        padding_free: bool | None = None,
    ) -> None:
        super().__init__(policy, phases, optimizer, max_skipped)
        counts: dict[str, int | None] = {"micro_batch_size": micro_batch_size, "updates_per_batch": updates_per_batch}
        counts |= {"minibatches": minibatches, "micro_batch_tokens": micro_batch_tokens}
        check_settings(temperature, max_grad_norm, max_skipped, counts)
        self.tokenizer = tokenizer
        hide_unreadable(policy, tokenizer)
        self.reference: PreTrainedModel | None = None
        if any(phase.loss.needs_reference for phase in phases) and not has_adapter(policy):
            self.reference = compiled_copy(policy).requires_grad_(False)
        self.evaluation = HeldOutEvaluation(evaluators)
        padding_free = leaves_padding_out(policy, padding_free)
        self.micro_batch_limit = MicroBatchLimit(micro_batch_size, micro_batch_tokens, padding_free)
        self.balance_tokens = balance_tokens
        self.updates_per_batch, self.minibatches, self.temperature = updates_per_batch, minibatches, temperature
        self.max_grad_norm = max_grad_norm
        self.experience: Experience | None = None
        """What the last step collected, for callbacks."""
        self.metrics: dict[str, float] = {}
        """Metrics of the last step, over all ranks."""
        self.heldout: dict[str, float] = {}
        """Results of the last evaluation, over all ranks."""
        self.before_update_hooks: list[Callable[[Experience], None]] = []
        """Called in each step with its experience, at the weights that sampled it."""
        self.clock = StepClock()
        """What takes time between two steps and is logged under a name of its own is told to it."""
        self._sync_seconds = 0.0
        self._gradient_share = GradientShare()

    # -- one step ------------------------------------------------------------------------------------------------

    def run_step(self, batch: PromptBatch, loss: Loss, no_sync: NoSync) -> None:
        """One training step; afterwards ``metrics`` and ``experience`` hold what it gave."""
        between, started = self.clock.begin(self.data.waited), time.perf_counter()
        with when_out_of_memory("sampling", lower="prompts_per_step, group_size or max_response_tokens"):
            self.experience = experience = self.collect(batch)
        measured = reward_tallies(experience, batch.difficulties, self.data.difficulties) | anneal_tallies(experience)
        measured |= tallied(self.phase.algorithm.metrics() | {"time/sync": self._sync_seconds})
        for hook in self.before_update_hooks:
            hook(experience)
        with when_out_of_memory(
            "updating", lower="module.micro_batch_size or micro_batch_tokens, then max_response_tokens"
        ):
            measured |= self.optimise(experience, loss, no_sync)
        self.step += 1
        self.data.advance(batch, self.step)
        times = {"time/step": time.perf_counter() - started, "time/data": self.data.waited, "time/between": between}
        self.metrics = over_ranks(measured | tallied(times), self.ranks, self.device)
        self.clock.end()

    def collect(self, batch: PromptBatch) -> Experience:
        """Sample, verify, gate, inject, credit: :meth:`hapo_lit.algorithm.Hapo.collect` with this module's parts."""
        algorithm = self.phase.algorithm
        started = time.perf_counter()
        algorithm.sync(self.policy)
        self._sync_seconds = time.perf_counter() - started
        with unsharded(self.policy) if algorithm.samples_from_policy else nullcontext():
            experience = algorithm.collect(batch, self.step, self.decode, self.ranks)
        algorithm.sleep()
        return experience

    def optimise(self, experience: Experience, loss: Loss, no_sync: NoSync = nullcontext) -> dict[str, Tensor]:
        """Update the policy on credited experience.

        Rows that cannot contribute are left out; where none is left on any rank no parameter has a gradient and the
        optimiser's step changes nothing.  Otherwise every rank makes the same number of backward passes, and gradients
        are exchanged in the last of them.

        Returns:
            tallies of this rank.

        Raises:
            NotFiniteError: more than ``max_skipped`` updates in a row had a loss or gradient that is not finite.
        """
        began = time.perf_counter()
        optimizer = self._optimizer()
        set_for_step(optimizer, self.phases, self.step)
        count = min(self.minibatches, len(experience.group.prompt_ids) * self.ranks.world)
        updates = self.updates_per_batch * count
        parts = [
            self.micro_batches(part, policy_moves=updates > 1)
            for part in split_by_prompts(experience, count, self.phase.algorithm.weighting, self.ranks)
        ]
        started, measured = time.perf_counter(), dict[str, Tensor]()
        total, norms, skipped = torch.zeros(()), torch.zeros(()), 0
        for batches, _ in parts * self.updates_per_batch:
            update, norm = torch.zeros(()), torch.zeros(())
            for index, rows in enumerate(batches, 1):
                with nullcontext() if index == len(batches) else no_sync():
                    output = loss(rows)
                    self.backward_pass(output.loss)
                update = update + output.loss.detach()
                accumulate(measured, {name: metric.detach() for name, metric in output.metrics.items()})
            accumulate(measured, self._gradient_share.seen())
            if batches:
                norm = total_norm(trained_parameters(self.policy), self.max_grad_norm)
            total, norms = total + update / updates, norms + norm / updates
            if self.ranks.max(int(not bool((update + norm).isfinite()))):
                skipped += 1
                optimizer.zero_grad(set_to_none=True)
                self.skips.update_skipped(experience, self.step)
                continue
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)  # at once, since sampling follows
            self.skips.update_made()
            torch.clear_autocast_cache()  # it holds casts of the weights as they were
        for name, value in {"loss/total": total, "update/gradient_norm": norms}.items():
            measured[name] = tally(value, torch.ones_like(value))
        numbers = {
            "update/learning_rate": self.phases.learning_rate(self.step),
            "update/row_share": sum(share for _, share in parts),
            "update/skipped": float(skipped),
            "time/score": started - began,
            "time/update": time.perf_counter() - started,
        }
        return measured | tallied(numbers)

    def backward_pass(self, loss: Tensor) -> None:
        """Add up gradients, without autocast: it would compute those of the float32 head in bfloat16."""
        with torch.autocast(loss.device.type, enabled=False):
            self.manual_backward(loss)

    def loss(self, rows: Rows) -> LossOutput:
        """The loss of a micro-batch, with gradients."""
        policy_loss = self.phase.loss
        logprobs, entropy = self.logprobs(self.policy, rows.text, policy_loss.needs_entropy)
        output = policy_loss(logprobs, entropy, rows)
        self._gradient_share.watch(logprobs, rows.is_teacher)
        counted = rows.text.mask & (rows.token_weights != 0)
        mean_entropy = tally(entropy.detach()[counted].sum(), counted.sum())
        return LossOutput(output.loss, {**output.metrics, "loss/entropy": mean_entropy})

    def logprobs(self, model: PreTrainedModel, text: Text, entropy_gradient: bool = False) -> tuple[Tensor, Tensor]:
        """Log-probabilities of a micro-batch's response tokens under a model, and the entropies, both ``[N, T]``."""
        padding_free = self.micro_batch_limit.padding_free
        return token_logprobs(
            model, text, self.temperature, entropy_gradient=entropy_gradient, padding_free=padding_free
        )

    def uncast_loss(self, rows: UncastRows) -> LossOutput:
        """:meth:`loss` for rows that come through Fabric's wrapper."""
        return self.loss(rows.rows)

    # -- what a step and its callbacks need ----------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """The phase of the step that is due; after the last step, the last one."""
        return self.phases.at(min(self.step, self.phases.steps - 1))

    @property
    def ranks(self) -> Ranks:
        """The processes of this run, whether Fabric or the Trainer started them."""
        launcher = self._fabric if self._fabric is not None else self._trainer
        if launcher is None or launcher.world_size == 1:
            return ALONE
        return ranks_over(self.all_gather, self.device, launcher.global_rank, launcher.world_size)

    def decode(self, group: RolloutGroup) -> list[str]:
        """The ``P * G`` responses as text, without the token that ended them."""
        return decode_responses(group, self.tokenizer, unreadable_ids(self.policy))

    def micro_batches(self, experience: Experience, policy_moves: bool) -> tuple[list[Rows], float]:
        """:func:`hapo_lit.training.update.micro_batches` with log π_old and log π_ref.

        These come from passes over the very micro-batches of the update, so that before the first update every ratio is
        exactly one, in every precision.  ``policy_moves``: before the batch is used up, so that π_old is needed.
        """
        batches, row_share = micro_batches(
            experience, self.phase.loss, self.micro_batch_limit, self.ranks, self.balance_tokens
        )
        if not self.phase.algorithm.rollouts_per_prompt:  # teachers alone are compared with no policy
            return batches, row_share
        return [self.score(rows, policy_moves) for rows in batches], row_share

    @torch.no_grad()
    def score(self, rows: Rows, policy_moves: bool) -> Rows:
        """A micro-batch with log π_old, if the policy moves before it is used up, and log π_ref, with a KL term."""
        if policy_moves:
            rows = rows._replace(old_logprobs=self.logprobs(self.policy, rows.text)[0])
        if self.phase.loss.needs_reference:
            with without_adapter(self.policy) if self.reference is None else rest_gathered(self.reference):
                model = self.policy if self.reference is None else self.reference
                rows = rows._replace(reference_logprobs=self.logprobs(model, rows.text)[0])
        return rows

    def logprobs_of(self, text: Text) -> Tensor:
        """``[N, T]`` log-probabilities of responses under the policy as it is, in the order and trim of an update.

        Collective: every rank must call it, each for one response or more.
        """
        return logprobs_as_in_update(self.policy, text, self.temperature, self.micro_batch_limit, self.ranks)

    def gradient(self, experience: Experience) -> list[Tensor]:
        """The gradient of a batch's loss at the present weights, by parameter; asking changes nothing."""
        parameters = trained_parameters(self.policy)
        held = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        for rows in self.micro_batches(experience, policy_moves=False)[0]:
            self.backward_pass(self.loss(rows).loss)
        self._gradient_share.seen()  # which is no part of an update
        found = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters]
        for parameter, gradient in zip(parameters, held, strict=True):
            parameter.grad = gradient
        return found

    # -- what the Trainer calls ----------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        self.data = self.trainer.datamodule  # type: ignore[attr-defined]

    def training_step(self, batch: PromptBatch, batch_index: int) -> None:
        self.run_step(batch, self.loss, getattr(self.trainer.strategy, "block_backward_sync", nullcontext))
        # For callbacks of Lightning's own, which look here; log_dict would take as long as the update of a small model.
        numbers = torch.tensor(list(self.metrics.values())).unbind()
        self.trainer.callback_metrics.update(zip(self.metrics, numbers, strict=True))
        self.trainer.progress_bar_metrics.update(for_progress_bar(self.metrics))

    def on_validation_epoch_start(self) -> None:
        self.evaluation.begin(self.policy)

    def validation_step(self, batch: PromptBatch, batch_index: int) -> None:
        self.evaluation.add(batch, self.step, self.decode)

    def on_validation_epoch_end(self) -> None:
        self.heldout = self.evaluation.finish(self.ranks, self.device)
        self.clock.leave_out(self.heldout["time/evaluate"])
        if self._fabric is None:
            self.log_dict(self.heldout, logger=False)

"""The LightningModule: owns policy, reference and optimiser.  Everything with a gradient is here and nowhere else.

One step is ``optimise(collect(batch), loss)``.  ``run_step`` says so for both doors, which differ in whose ``loss`` it
is (the module's own, or that of Fabric's wrapper) and in how a backward pass is kept from exchanging gradients.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from transformers import PreTrainedModel

from hapo_lit.errors import MemoryShortError, NotFiniteError, ResumeError
from hapo_lit.policy.loading import has_adapter, without_adapter
from hapo_lit.policy.scoring import token_logprobs
from hapo_lit.policy.sharding import shard_optimizer_state, total_norm, unsharded
from hapo_lit.protocols import ALONE, Ranks
from hapo_lit.rows import LossOutput, Rows, Text, UncastRows
from hapo_lit.training.evaluation import Evaluator
from hapo_lit.training.metrics import anneal_tallies, over_ranks, reward_tallies, tallied
from hapo_lit.training.phases import Phase, Phases
from hapo_lit.training.ranks import ranks_over
from hapo_lit.types import Experience, PromptBatch, RolloutGroup

NoSync = Callable[[], AbstractContextManager]
"""Makes a context in which backward passes do not exchange gradients between ranks."""


class HapoModule(LightningModule):
    """Group policy optimisation under manual optimisation.

    Args:
        policy: the model that learns.
        tokenizer: its tokenizer.
        phases: which algorithm, loss and learning rate act when.
        optimizer: parameters -> optimiser.
        evaluators: name -> how held-out accuracy is measured; logged as ``heldout/<name>``.
        max_grad_norm: gradients are scaled down to this norm.
        micro_batch_size: responses per forward and backward pass; the loss does not depend on it.
        updates_per_batch: optimiser steps on each batch of rollouts (μ of GRPO).  With 1 the ratio is exactly one and
            no old-policy pass is made.
        temperature: of the engine, so that log-probabilities are those of the distribution sampled from.
        max_skipped: updates in a row that may have a loss or gradient that is not finite; each is skipped and counted,
            and one more ends the run.

    A policy with a LoRA adapter is its own reference: the base, with the adapter off.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        tokenizer: Any,
        phases: Phases,
        optimizer: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer],
        evaluators: Mapping[str, Evaluator],
        max_grad_norm: float = 1.0,
        micro_batch_size: int = 128,
        updates_per_batch: int = 1,
        temperature: float = 1.0,
        max_skipped: int = 4,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        if temperature <= 0:
            raise ValueError(f"rollout.temperature={temperature}: training needs samples; set it above 0 (1 is usual)")
        if max_grad_norm <= 0:
            raise ValueError(f"module.max_grad_norm={max_grad_norm} would stop all learning; .inf means no clipping")
        sizes = {"micro_batch_size": (micro_batch_size, 1), "updates_per_batch": (updates_per_batch, 1)}
        for name, (value, least) in (sizes | {"max_skipped": (max_skipped, 0)}).items():
            if value < least:
                raise ValueError(f"module.{name} must be at least {least}, got {value}")
        self.policy, self.tokenizer, self.phases = policy, tokenizer, phases
        self.reference: PreTrainedModel | None = None
        if any(phase.loss.needs_reference for phase in phases) and not has_adapter(policy):
            self.reference = copy.deepcopy(policy).requires_grad_(False)
        self.make_optimizer, self.evaluators = optimizer, dict(evaluators)
        self.max_grad_norm, self.micro_batch_size = max_grad_norm, micro_batch_size
        self.updates_per_batch, self.temperature = updates_per_batch, temperature
        self.max_skipped = max_skipped
        self.step = 0
        """Training steps done: one batch of prompts each, however many optimiser steps it takes."""
        self.skipped = 0
        """Updates in a row, up to the last one, that were skipped because something was not finite."""
        self.experience: Experience | None = None
        """Of the last step, for callbacks."""
        self.metrics: dict[str, float] = {}
        """Of the last step, over all ranks."""
        self.heldout: dict[str, float] = {}
        """Of the last evaluation, over all ranks."""
        self.before_update: list[Callable[[Experience], None]] = []
        """Called with credited experience, at the weights that sampled it."""
        self.data: Any = None
        """The datamodule, whose position is part of the run's state."""
        self.optimizer: Any = None
        """Set by the Fabric door; the Trainer keeps its own."""
        self._seconds = {"time/sync": 0.0, "time/score": 0.0}
        self._optimizer_state: dict[str, Any] | None = None
        self._heldout_tallies: dict[str, Tensor] = {}
        self._evaluating = ExitStack()

    # -- one step ------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        self.data = self.trainer.datamodule  # type: ignore[attr-defined]

    def training_step(self, batch: PromptBatch, batch_index: int) -> None:
        self.run_step(batch, self.loss, getattr(self.trainer.strategy, "block_backward_sync", nullcontext))
        self.log_dict(self.metrics, logger=False)  # loggers are told by a callback, in both doors alike
        shown = {"reward": "reward/mean", "gate": "gate/open_rate"}
        numbers = {name: self.metrics[key] for name, key in shown.items() if key in self.metrics}
        self.log_dict(numbers, prog_bar=True, logger=False)

    def run_step(self, batch: PromptBatch, loss: Callable[[Rows], LossOutput], no_sync: NoSync) -> None:
        """One training step, afterwards told by ``metrics`` and ``experience``."""
        started = time.perf_counter()
        with memory_for("sampling and scoring", "prompts_per_step, group_size or max_response_tokens"):
            self.experience = experience = self.collect(batch)
        tallies = reward_tallies(experience, batch.difficulties, self.data.difficulties) | anneal_tallies(experience)
        tallies |= tallied(self.phase.algorithm.metrics() | self._seconds)
        for look in self.before_update:
            look(experience)
        with memory_for("updating", "module.micro_batch_size, then max_response_tokens, then group_size"):
            tallies |= self.optimise(experience, loss, no_sync)
        self.step += 1
        self.data.advance(batch, self.step)
        tallies |= tallied({"time/step": time.perf_counter() - started, "time/data": self.data.waited})
        self.metrics = over_ranks(tallies, self.ranks, self.device)

    def collect(self, batch: PromptBatch) -> Experience:
        """Sample, verify, gate, inject, credit: :meth:`hapo_lit.algorithm.Hapo.collect` with this module's parts."""
        algorithm = self.phase.algorithm
        with unsharded(self.policy) if algorithm.samples_from_policy else nullcontext():
            started = time.perf_counter()
            algorithm.sync(self.policy)
            self._seconds = {"time/sync": time.perf_counter() - started, "time/score": 0.0}
            experience = algorithm.collect(batch, self.step, self.decode, self.score, self.ranks)
        algorithm.sleep()
        return experience

    def optimise(
        self, experience: Experience, loss: Callable[[Rows], LossOutput], no_sync: NoSync = nullcontext
    ) -> dict[str, Tensor]:
        """Update the policy on credited experience; ``loss`` is ``self.loss`` or its wrapped double.

        Rows that cannot contribute are left out; where none is left on any rank no parameter has a gradient and the
        optimiser's step changes nothing.  Otherwise every rank makes the same number of backward passes, and gradients
        are exchanged in the last of them.

        Returns:
            tallies of this rank.

        Raises:
            NotFiniteError: more than ``max_skipped`` updates in a row had a loss or gradient that is not finite.
        """
        started = time.perf_counter()
        optimizer = self._optimizer_at(self.step)
        micro_batches, row_share = self._micro_batches(experience)
        tallies: dict[str, Tensor] = {}
        total, norm, skipped = torch.zeros(()), torch.zeros(()), 0
        for _ in range(self.updates_per_batch):
            optimizer.zero_grad(set_to_none=True)
            update = torch.zeros(())
            for index, micro in enumerate(micro_batches, 1):
                with nullcontext() if index == len(micro_batches) else no_sync():
                    output = loss(micro)
                    self.manual_backward(output.loss)
                update = update + output.loss.detach()
                for name, tally in output.metrics.items():
                    tallies[name] = tallies.get(name, 0) + tally.detach()
            if micro_batches:
                norm = total_norm(self._trained(), self.max_grad_norm)
            total = total + update / self.updates_per_batch
            if self.ranks.max(int(not bool((update + norm).isfinite()))):
                skipped += 1
                self._skip(optimizer, experience)
                continue
            self.skipped = 0
            optimizer.step()
            torch.clear_autocast_cache()  # it holds casts of the weights as they were
        numbers = {
            "loss/total": float(total),
            "update/gradient_norm": float(norm),
            "update/learning_rate": self.phases.learning_rate(self.step),
            "update/row_share": row_share,
            "update/skipped": float(skipped),
            "time/update": time.perf_counter() - started,
        }
        return tallies | tallied(numbers)

    def _skip(self, optimizer: Any, experience: Experience) -> None:
        """An update whose loss or gradient is no number changes nothing; too many in a row end the run."""
        optimizer.zero_grad(set_to_none=True)
        self.skipped += 1
        if self.skipped > self.max_skipped:
            raise NotFiniteError(
                f"in {self.skipped} updates in a row, up to step {self.step + 1}, loss or gradient was not finite, and "
                f"none was made: lower learning_rate, bound the ratios (loss=dual_clip), or use a wider precision",
                experience,
            )

    def _micro_batches(self, experience: Experience) -> tuple[list[Rows], float]:
        """The rows that contribute, in as many micro-batches as the rank with most has, and their share of all rows."""
        every = experience.rows()
        rows = every.select(self.phase.loss.contributes(every))
        idle = every.select(torch.zeros(1, dtype=torch.int64, device=self.device)).silenced()
        own = list(rows.split(self.micro_batch_size))
        return own + [idle] * (self.ranks.max(len(own)) - len(own)), rows.size / every.size

    def gradient(self, experience: Experience) -> list[Tensor]:
        """The gradient of a batch's loss at the present weights, by parameter; asking changes nothing."""
        parameters = self._trained()
        held = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        for micro in self._micro_batches(experience)[0]:
            self.manual_backward(self.loss(micro).loss)
        found = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        for parameter, gradient in zip(parameters, held, strict=True):
            parameter.grad = gradient
        return found

    def without_teacher(self, experience: Experience) -> Experience | None:
        """The batch as it would have been had the gate stayed closed; None if nothing was sampled."""
        return self.phase.algorithm.without_teacher(experience, self.score, self.ranks)

    def loss(self, rows: Rows) -> LossOutput:
        """The loss of some rows: the only method with gradients."""
        policy_loss = self.phase.loss
        logprobs, entropy = token_logprobs(
            self.policy, rows.text, self.temperature, entropy_gradient=policy_loss.needs_entropy
        )
        output = policy_loss(logprobs, entropy, rows)
        mask = rows.text.mask & (rows.token_weights != 0)
        tally = torch.stack([entropy.detach()[mask].sum(), mask.sum().to(entropy)]).double()
        share = gradient_share(output.loss, logprobs, rows.is_teacher)
        return LossOutput(output.loss, {**output.metrics, "loss/entropy": tally, "teacher/gradient_share": share})

    def uncast_loss(self, sealed: UncastRows) -> LossOutput:
        """:meth:`loss` for rows that come through Fabric's wrapper."""
        return self.loss(sealed.rows)

    @torch.no_grad()
    def score(self, group: RolloutGroup) -> dict[str, Tensor | None]:
        """log π_old, only if the policy will have moved before the batch is used up; log π_ref, only with a KL term."""
        started, text = time.perf_counter(), group.text()
        old = self._scored(self.policy, text) if self.updates_per_batch > 1 else None
        if not self.phase.loss.needs_reference:
            reference = None
        elif self.reference is not None:
            reference = self._scored(self.reference, text)
        else:
            with without_adapter(self.policy):
                reference = self._scored(self.policy, text)
        self._seconds["time/score"] = time.perf_counter() - started
        scores = {"old_logprobs": old, "reference_logprobs": reference}
        return {name: each if each is None else each.reshape(group.tokens.shape) for name, each in scores.items()}

    @torch.no_grad()
    def logprobs_of(self, text: Text) -> Tensor:
        """``[N, T]`` log-probabilities of responses under the policy as it is; every rank must ask, for as many."""
        return self._scored(self.policy, text)

    def _scored(self, model: PreTrainedModel, text: Text) -> Tensor:
        chunks = torch.arange(len(text.tokens), device=text.tokens.device).split(self.micro_batch_size)
        return torch.cat([token_logprobs(model, text.select(chunk), self.temperature)[0] for chunk in chunks])

    def decode(self, group: RolloutGroup) -> list[str]:
        """The ``P * G`` responses as text, without the token that ended them.

        Other special tokens stay visible: an answer with padding in its middle is not the answer.
        """
        lengths = (group.mask.flatten(0, 1).sum(1) - group.finished.flatten().long()).clamp(min=0)
        rows = zip(group.tokens.flatten(0, 1).tolist(), lengths.tolist(), strict=True)
        texts: list[str] = self.tokenizer.batch_decode(
            [tokens[:length] for tokens, length in rows], clean_up_tokenization_spaces=False
        )
        return texts

    # -- held-out accuracy ---------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self._heldout_tallies = {}
        if any(evaluator.engine.is_trainer for evaluator in self.evaluators.values()):
            self._evaluating.enter_context(unsharded(self.policy))
        for evaluator in self.evaluators.values():  # here, as ranks may have different numbers of batches
            evaluator.sync(self.policy)

    def validation_step(self, batch: PromptBatch, batch_index: int) -> None:
        started = time.perf_counter()
        with memory_for("evaluating", "+data.heldout_batch (256 unless set) or max_response_tokens"):
            rewards = {
                f"heldout/{name}": evaluator(batch, self.step, self.decode).double()
                for name, evaluator in self.evaluators.items()
            }
        tallies = {name: torch.tensor([each.sum(), each.numel()]).double() for name, each in rewards.items()}
        tallies["time/evaluate"] = torch.tensor([time.perf_counter() - started, 0]).double()
        for name, tally in tallies.items():
            self._heldout_tallies[name] = self._heldout_tallies.get(name, 0) + tally

    def on_validation_epoch_end(self) -> None:
        self._evaluating.close()
        for evaluator in self.evaluators.values():
            evaluator.engine.sleep()
        self._heldout_tallies["time/evaluate"][1] = 1  # seconds of all batches, averaged over ranks
        self.heldout = over_ranks(self._heldout_tallies, self.ranks, self.device)
        if self._fabric is None:
            self.log_dict(self.heldout, logger=False)

    # -- optimiser, ranks, checkpoint ----------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self.make_optimizer(self._trained())
        if self._optimizer_state is not None:
            optimizer.load_state_dict(shard_optimizer_state(self._optimizer_state, self._trained()))
            self._optimizer_state = None
        return optimizer

    def resume_optimizer(self, state: dict[str, Any]) -> None:
        """The state that the optimiser will have when it is made."""
        self._optimizer_state = state

    def optimizer_state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._inner_optimizer().state_dict()
        return state

    def _inner_optimizer(self) -> Any:
        """Torch's own optimiser: a wrapper's ``state`` is not the live one after loading."""
        optimizer: Any = self.optimizers() if self.optimizer is None else self.optimizer
        return getattr(optimizer, "optimizer", optimizer)

    def _trained(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.policy.parameters() if parameter.requires_grad]

    def _optimizer_at(self, step: int) -> Any:
        """The optimiser, set up for ``step``: its learning rate, and empty moments where a phase begins fresh."""
        inner = self._inner_optimizer()
        if self.phases.begins_fresh(step):
            inner.state.clear()
        for group in inner.param_groups:
            group["lr"] = self.phases.learning_rate(step)
        return self.optimizers() if self.optimizer is None else self.optimizer

    @property
    def phase(self) -> Phase:
        return self.phases.at(min(self.step, self.phases.steps - 1))

    @property
    def ranks(self) -> Ranks:
        launcher: Any = self._fabric if self._fabric is not None else self._trainer
        if launcher is None or launcher.world_size == 1:
            return ALONE
        return ranks_over(self.all_gather, self.device)

    def run_state(self) -> dict[str, Any]:
        """What this module remembers besides weights and optimiser."""
        return {"step": self.step, "skipped": self.skipped, "phases": self.phases.state_dict()}

    def load_run_state(self, state: Mapping[str, Any]) -> None:
        self.phases.load_state_dict(state["phases"])
        self.step, self.skipped = state["step"], state["skipped"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["hapo"] = self.run_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "hapo" not in checkpoint:
            raise ResumeError("this checkpoint was not written by hapo_lit: it holds no step and no gate")
        self.load_run_state(checkpoint["hapo"])


def gradient_share(loss: Tensor, logprobs: Tensor, is_teacher: Tensor) -> Tensor:
    """``[2]``: Σ |∂loss/∂log π| over the tokens of teacher rows, and over all; the model itself is not passed.

    Args:
        loss: scalar.
        logprobs: ``[N, T]``, which it was made from.
        is_teacher: ``[N]``.
    """
    if not loss.requires_grad:
        return torch.zeros(2, dtype=torch.float64, device=loss.device)
    (slope,) = torch.autograd.grad(loss, logprobs, retain_graph=True)
    size_N = slope.abs().sum(1, dtype=torch.float64)
    return torch.stack([size_N[is_teacher].sum(), size_N.sum()])


@contextmanager
def memory_for(doing: str, knobs: str) -> Iterator[None]:
    """Inside, running out of memory becomes a :class:`MemoryShortError` that names what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        short = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
        if not short:
            raise
        raise MemoryShortError(f"out of memory while {doing}: lower {knobs}") from error

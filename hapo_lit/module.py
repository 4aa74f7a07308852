"""The LightningModule: owns policy, reference and optimiser.  Everything with a gradient is here and nowhere else.

One step is ``optimise(collect(batch), loss)``; the Trainer's ``training_step`` says so in one line.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from transformers import PreTrainedModel

from hapo_lit.evaluation import Evaluator
from hapo_lit.metrics import anneal_metrics, ratios
from hapo_lit.phases import Phase, Phases
from hapo_lit.policy import token_logprobs
from hapo_lit.protocols import ALONE, Ranks
from hapo_lit.types import Experience, LossOutput, PromptBatch, ResumeError, RolloutGroup, Rows


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
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        if temperature <= 0:
            raise ValueError(f"rollout.temperature={temperature}: training needs samples; set it above 0 (1 is usual)")
        if max_grad_norm <= 0:
            raise ValueError(f"module.max_grad_norm={max_grad_norm} would stop all learning; .inf means no clipping")
        for name, value in {"micro_batch_size": micro_batch_size, "updates_per_batch": updates_per_batch}.items():
            if value < 1:
                raise ValueError(f"module.{name} must be at least 1, got {value}")
        self.policy, self.tokenizer, self.phases = policy, tokenizer, phases
        self.reference: PreTrainedModel | None = None
        if any(phase.loss.needs_reference for phase in phases):
            self.reference = copy.deepcopy(policy).requires_grad_(False)
        self.make_optimizer, self.evaluators = optimizer, dict(evaluators)
        self.max_grad_norm, self.micro_batch_size = max_grad_norm, micro_batch_size
        self.updates_per_batch, self.temperature = updates_per_batch, temperature
        self.step = 0
        """Training steps done: one batch of prompts each, however many optimiser steps it takes."""
        self.experience: Experience | None = None
        """Of the last step, for callbacks."""

    # -- one step ------------------------------------------------------------------------------------------------

    def training_step(self, batch: PromptBatch, batch_index: int) -> None:
        started = time.perf_counter()
        self.experience = self.collect(batch)
        metrics = anneal_metrics(self.experience) | self.phase.algorithm.metrics()
        metrics |= self.optimise(self.experience, self.loss)
        self.step += 1
        self.trainer.datamodule.used(batch, self.step)  # type: ignore[attr-defined]
        waited: float = self.trainer.datamodule.waited  # type: ignore[attr-defined]
        metrics |= {"time/step": time.perf_counter() - started, "time/data": waited, "step": float(self.step)}
        self.log_dict(metrics)
        shown = {"reward": "reward/mean", "gate": "gate/open_rate"}
        self.log_dict({k: metrics[v] for k, v in shown.items() if v in metrics}, prog_bar=True, logger=False)

    def collect(self, batch: PromptBatch) -> Experience:
        """Sample, verify, gate, inject, credit: :meth:`hapo_lit.algorithm.Hapo.collect` with this module's parts."""
        algorithm = self.phase.algorithm
        algorithm.sync(self.policy)
        return algorithm.collect(batch, self.step, self.decode, self.score, self.ranks)

    def optimise(self, experience: Experience, loss: Callable[[Rows], LossOutput]) -> dict[str, float]:
        """Update the policy on credited experience; ``loss`` is ``self.loss`` or its wrapped double.

        Rows that cannot contribute are left out; where none is left on any rank no parameter has a gradient and the
        optimiser's step changes nothing.  Otherwise every rank makes the same number of backward passes.
        """
        started = time.perf_counter()
        optimizer = self._optimizer_at(self.step)
        micro_batches, row_share = self._micro_batches(experience)
        tallies: dict[str, Tensor] = {}
        total, norm = torch.zeros(()), torch.zeros(())
        for _ in range(self.updates_per_batch):
            optimizer.zero_grad(set_to_none=True)
            for micro in micro_batches:
                output = loss(micro)
                self.manual_backward(output.loss)
                total = total + output.loss.detach() / self.updates_per_batch
                for name, tally in output.metrics.items():
                    tallies[name] = tallies.get(name, 0) + tally.detach()
            if micro_batches:
                norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            optimizer.step()
        return ratios(tallies) | {
            "loss/total": float(total),
            "update/gradient_norm": float(norm),
            "update/learning_rate": self.phases.learning_rate(self.step),
            "update/row_share": row_share,
            "time/update": time.perf_counter() - started,
        }

    def _micro_batches(self, experience: Experience) -> tuple[list[Rows], float]:
        """The rows that contribute, in as many micro-batches as the rank with most has, and their share of all rows."""
        every = experience.rows()
        rows = every.select(self.phase.loss.contributes(every))
        idle = every.select(torch.zeros(1, dtype=torch.int64, device=self.device)).silenced()
        own = list(rows.split(self.micro_batch_size))
        return own + [idle] * (self.ranks.most(len(own)) - len(own)), rows.size / every.size

    def gradient(self, experience: Experience) -> list[Tensor]:
        """The gradient of a batch's loss at the present weights, by parameter; asking changes nothing."""
        parameters = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
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
        return LossOutput(output.loss, {**output.metrics, "loss/entropy": tally})

    @torch.no_grad()
    def score(self, group: RolloutGroup) -> dict[str, Tensor | None]:
        """log π_old, only if the policy will have moved before the batch is used up; log π_ref, only with a KL term."""
        old = self._scored(self.policy, group) if self.updates_per_batch > 1 else None
        needed = self.reference is not None and self.phase.loss.needs_reference
        return {"old_logprobs": old, "reference_logprobs": self._scored(self.reference, group) if needed else None}

    def _scored(self, model: PreTrainedModel | None, group: RolloutGroup) -> Tensor:
        assert model is not None
        text = group.text()
        chunks = torch.arange(len(text.tokens), device=text.tokens.device).split(self.micro_batch_size)
        scores = [token_logprobs(model, text.select(chunk), self.temperature)[0] for chunk in chunks]
        return torch.cat(scores).reshape(group.tokens.shape)

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

    def validation_step(self, batch: PromptBatch, batch_index: int) -> None:
        started = time.perf_counter()
        self.log("step", float(self.step), batch_size=1, reduce_fx="max")  # where loggers put what stands beside it
        for name, evaluator in self.evaluators.items():
            accuracy = evaluator(self.policy, batch, self.step, self.decode).mean()
            self.log(f"heldout/{name}", accuracy, batch_size=len(batch.answers), on_epoch=True)
        self.log("time/evaluate", time.perf_counter() - started, batch_size=1, on_epoch=True, reduce_fx="sum")

    # -- optimiser, ranks, checkpoint ----------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.policy.parameters())

    def _optimizer_at(self, step: int) -> Any:
        """The optimiser, set up for ``step``: its learning rate, and empty moments where a phase begins fresh."""
        optimizer: Any = self.optimizers()
        if self.phases.begins_fresh(step):
            optimizer.state.clear()
        for group in optimizer.param_groups:
            group["lr"] = self.phases.learning_rate(step)
        return optimizer

    @property
    def phase(self) -> Phase:
        return self.phases.at(min(self.step, self.phases.steps - 1))

    @property
    def ranks(self) -> Ranks:
        if self._trainer is None or self.trainer.world_size == 1:
            return ALONE

        def gathered(values: Tensor) -> Tensor:
            """``[world, ...]``."""
            every = self.all_gather(values)
            assert isinstance(every, Tensor)
            return every

        return Ranks(
            gather=lambda values: gathered(values).flatten(0, 1),
            mean=lambda value: gathered(value).mean(),
            most=lambda count: int(gathered(torch.tensor(count, device=self.device)).max()),
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["hapo"] = {"step": self.step, "phases": self.phases.state_dict()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "hapo" not in checkpoint:
            raise ResumeError("this checkpoint was not written by hapo_lit: it holds no step and no gate")
        state = checkpoint["hapo"]
        self.phases.load_state_dict(state["phases"])
        self.step = state["step"]
        if self.step >= self.phases.steps:
            raise ResumeError(
                f"that run is finished (step {self.step} of {self.phases.steps}): to train its policy further, start "
                f"a new run with model.path=RUN/policy"
            )

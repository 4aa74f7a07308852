"""The LightningDataModule: problems in, :class:`~hapo_lit.types.PromptBatch` out, resumable at the very next batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from lightning import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset

from hapo_lit.data.collate import (
    FATES,
    TEACHER_USABLE,
    Encoded,
    collate,
    encode,
    fingerprint,
)
from hapo_lit.data.problems import ProblemSource
from hapo_lit.data.prompts import Template
from hapo_lit.data.teachers import TeacherCheck
from hapo_lit.protocols import Verifier
from hapo_lit.types import PromptBatch, ResumeError

TEACHER_SAMPLE = 1000
"""How many teacher solutions are judged for the report."""


class MathDataModule(LightningDataModule):
    """Streams training prompts for ever and held-out prompts once.

    Batch ``k`` is a function of the seed and ``k`` alone, so the position is one number and nothing that was
    prefetched can be lost.  Each epoch is a permutation of its own; what does not fill a batch at its end waits for
    another epoch, so that no prompt occurs twice in a batch.

    Args:
        source: where problems come from.
        tokenizer: the policy's.
        template: how a problem becomes a prompt.
        teacher_check: judges teachers once, before training; what it rejects is never injected.
        verifier: the policy's; here it only measures the teacher for :meth:`describe`.
        prompts_per_step: P over all ranks.
        max_prompt_tokens, max_response_tokens: limits; the latter is the engine's.
        heldout_batch: held-out prompts per batch.
        seed: of the order.
    """

    def __init__(
        self,
        source: ProblemSource,
        tokenizer: Any,
        template: Template,
        teacher_check: TeacherCheck,
        verifier: Verifier,
        prompts_per_step: int,
        max_prompt_tokens: int,
        max_response_tokens: int,
        heldout_batch: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.source, self.tokenizer, self.template = source, tokenizer, template
        self.teacher_check, self.verifier = teacher_check, verifier
        self.prompts_per_step, self.heldout_batch = prompts_per_step, heldout_batch
        self.max_prompt_tokens, self.max_response_tokens = max_prompt_tokens, max_response_tokens
        if prompts_per_step < 1:
            raise ValueError(f"prompts_per_step must be at least 1, got {prompts_per_step}")
        self.seed = seed
        self.consumed = 0
        """Batches that training has used up; ``HapoModule`` counts them, since a loader may run ahead."""
        self._train: list[Encoded] | None = None
        self._heldout: list[Encoded] = []
        self._tally: Counter[str] = Counter()
        """What became of the training problems and of their teachers."""

    def setup(self, stage: str | None = None) -> None:
        """Tokenise everything and judge the teachers, once."""
        if self._train is None:
            problems = self.source.train()
            self._train = self._encoded(problems, self._tally)
            if len(self._train) < self.prompts_per_step:
                raise ValueError(
                    f"prompts_per_step={self.prompts_per_step}, but there are only {len(self._train)} training "
                    f"problems; lower the one or bring more of the other"
                )
            self._heldout = self._encoded(self.source.heldout(), Counter())
            self._solved = [problem for problem in problems if problem.solution][:TEACHER_SAMPLE]

    def _encoded(self, problems: Any, tally: Counter[str]) -> list[Encoded]:
        return encode(
            problems,
            self.tokenizer,
            self.template,
            self.teacher_check,
            self.max_prompt_tokens,
            self.max_response_tokens,
            tally,
        )

    @property
    def train_set(self) -> list[Encoded]:
        if self._train is None:
            self.setup()
        assert self._train is not None
        return self._train

    def describe(self) -> dict[str, float]:
        """Sizes, the share of teacher solutions that are right, and of training problems whose teacher may be used;
        and how often each of the fates of :mod:`hapo_lit.data.collate` befell a problem.

        The teacher's accuracy is measured on at most :data:`TEACHER_SAMPLE` solutions, believed or not.
        """
        train = self.train_set
        right = self.verifier([p.solution for p in self._solved], [p.answer for p in self._solved])
        return {
            "train_problems": len(train),
            "heldout_problems": len(self._heldout),
            "teacher_accuracy": float(right.mean()) if len(right) else 0.0,
            "teacher_accepted": self._tally[TEACHER_USABLE] / len(train),
            **{name: self._tally[name] for name in FATES},
        }

    def train_dataloader(self) -> DataLoader[PromptBatch]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return DataLoader(_Stream(self, rank, world), batch_size=None)

    def val_dataloader(self) -> DataLoader[PromptBatch]:
        self.setup()
        pad = partial(collate, pad_id=self.tokenizer.pad_token_id)
        return DataLoader(self._heldout, batch_size=self.heldout_batch, collate_fn=pad)  # type: ignore[arg-type]

    def batch(self, index: int, rank: int = 0, world: int = 1) -> PromptBatch:
        """This rank's share of batch ``index``."""
        train = self.train_set
        if self.prompts_per_step % world:
            raise ValueError(f"prompts_per_step={self.prompts_per_step} is not divisible by {world} processes")
        epoch, within = divmod(index, len(train) // self.prompts_per_step)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(train))
        first = within * self.prompts_per_step
        chosen = order[first + rank : first + self.prompts_per_step : world]
        return collate([train[position] for position in chosen], self.tokenizer.pad_token_id)

    def state_dict(self) -> dict[str, Any]:
        return {"consumed": self.consumed, "fingerprint": fingerprint(self.train_set), "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, mine in (("fingerprint", fingerprint(self.train_set)), ("seed", self.seed)):
            if state[name] != mine:
                raise ResumeError(
                    f"the training data changed since the checkpoint was written ({name} {state[name]} then, {mine} "
                    f"now): resume with the same data.* and seed, or start a new run"
                )
        self.consumed = state["consumed"]


class _Stream(IterableDataset[PromptBatch]):
    """Batches from the datamodule's position on, for ever."""

    def __init__(self, data: MathDataModule, rank: int, world: int) -> None:
        self.data, self.rank, self.world = data, rank, world

    def __iter__(self) -> Iterator[PromptBatch]:
        index = self.data.consumed
        while True:
            yield self.data.batch(index, self.rank, self.world)
            index += 1

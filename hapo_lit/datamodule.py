"""The LightningDataModule: problems in, :class:`~hapo_lit.types.PromptBatch` out, resumable at the very next batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from lightning import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset

from hapo_lit.data.collate import Encoded, collate, encode, fingerprint
from hapo_lit.data.problems import ProblemSource
from hapo_lit.data.prompts import Template
from hapo_lit.data.teachers import TeacherCheck
from hapo_lit.types import PromptBatch, ResumeError


class MathDataModule(LightningDataModule):
    """Streams training prompts for ever and held-out prompts once.

    Batch ``k`` is a function of the seed and ``k`` alone: each epoch is its own permutation, and a batch may straddle
    two epochs.  So the position is one number, and nothing that was prefetched can be lost.

    Args:
        source: where problems come from.
        tokenizer: the policy's.
        template: how a problem becomes a prompt.
        teacher_check: judges teachers once, before training; what it rejects is never injected.
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
        prompts_per_step: int,
        max_prompt_tokens: int,
        max_response_tokens: int,
        heldout_batch: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.source, self.tokenizer, self.template = source, tokenizer, template
        self.teacher_check = teacher_check
        self.prompts_per_step, self.heldout_batch = prompts_per_step, heldout_batch
        self.max_prompt_tokens, self.max_response_tokens = max_prompt_tokens, max_response_tokens
        self.seed = seed
        self.consumed = 0
        """Batches that training has used up; ``HapoModule`` counts them, since a loader may run ahead."""
        self._train: list[Encoded] | None = None
        self._heldout: list[Encoded] = []

    def setup(self, stage: str | None = None) -> None:
        """Tokenise everything and judge the teachers, once."""
        if self._train is None:
            problems = self.source.train()
            self._train = self._encoded(problems)
            self._heldout = self._encoded(self.source.heldout())
            self._dropped = len(problems) - len(self._train)

    def _encoded(self, problems: Any) -> list[Encoded]:
        return encode(
            problems,
            self.tokenizer,
            self.template,
            self.teacher_check,
            self.max_prompt_tokens,
            self.max_response_tokens,
        )

    @property
    def train_set(self) -> list[Encoded]:
        if self._train is None:
            self.setup()
        assert self._train is not None
        return self._train

    def describe(self) -> dict[str, float]:
        """Sizes, and the share of training problems whose teacher may be used."""
        train = self.train_set
        return {
            "train_problems": len(train),
            "heldout_problems": len(self._heldout),
            "dropped_long_prompts": self._dropped,
            "teacher_accepted": sum(item.teacher_reward > 0 for item in train) / len(train),
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
        slots = range(index * self.prompts_per_step + rank, (index + 1) * self.prompts_per_step, world)
        orders = {epoch: self._order(epoch, len(train)) for epoch in {slot // len(train) for slot in slots}}
        chosen = [train[orders[slot // len(train)][slot % len(train)]] for slot in slots]
        return collate(chosen, self.tokenizer.pad_token_id)

    def _order(self, epoch: int, size: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(size)

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

"""The LightningDataModule: problems in, :class:`~hapo_lit.types.PromptBatch` out, resumable at the very next batch."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import count
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from rich.progress import track
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from hapo_lit.data.collate import FATES, PROMPT_LONG, TEACHER_USABLE, Encoded, collate, encode, fingerprint, fits
from hapo_lit.data.corpus import Corpus, reasons
from hapo_lit.data.ordering import BlockShuffler, Cursor, Shuffled
from hapo_lit.data.problems import Problem, ProblemSource
from hapo_lit.data.teachers import TeacherCheck
from hapo_lit.data.templates import Template
from hapo_lit.errors import ResumeError
from hapo_lit.protocols import Verifier
from hapo_lit.types import PromptBatch

TEACHER_SAMPLE = 1000
"""How many teacher solutions are judged for the report."""

LABELS = 12
"""How many labels of difficulty rewards are told apart by, the most frequent ones."""

LOOKED_AT = 256
"""How many problems of a large set are encoded for the report."""


class MathDataModule(LightningDataModule):
    """Streams training prompts for ever and held-out prompts once.

    A source that fits in memory is encoded at once; a prepared one is read as it is needed; a stream is shuffled block
    by block.  In all three a batch is chosen as a whole and each rank takes its share, so the position is the same on
    all ranks, and nothing that was prefetched can be lost: it travels with the batch.

    Args:
        source: where problems come from: a list in memory, :class:`~hapo_lit.data.corpus.CachedCorpus`, or a
            :class:`~hapo_lit.data.corpus.Corpus` to stream.
        tokenizer: the policy's.
        template: how a problem becomes a prompt, and a solution a response.
        teacher_check: judges teachers; what it rejects is never injected.
        verifier: the policy's; here it only measures the teacher for :meth:`describe`.
        prompts_per_step: P over all ranks.
        max_prompt_tokens, max_response_tokens: limits; the latter is the engine's.
        heldout_batch: held-out prompts per batch.
        buffer: problems in a block of a stream.
        workers: processes that read, tokenise and verify ahead of the step; 0 = none.
        seed: of the order.
        path, heldout_path, evaluation_path: what the source was told to read; kept for whoever asks.
    """

    def __init__(
        self,
        source: ProblemSource | Corpus,
        tokenizer: Any,
        template: Template,
        teacher_check: TeacherCheck,
        verifier: Verifier,
        prompts_per_step: int,
        max_prompt_tokens: int,
        max_response_tokens: int,
        heldout_batch: int = 256,
        buffer: int = 4096,
        workers: int = 0,
        seed: int = 0,
        path: Any = None,
        heldout_path: Any = None,
        evaluation_path: Any = None,
    ) -> None:
        super().__init__()
        self.source, self.tokenizer, self.template = source, tokenizer, template
        self.teacher_check, self.verifier = teacher_check, verifier
        self.prompts_per_step, self.heldout_batch = prompts_per_step, heldout_batch
        self.max_prompt_tokens, self.max_response_tokens = max_prompt_tokens, max_response_tokens
        for name, value, least in (("prompts_per_step", prompts_per_step, 1), ("data.workers", workers, 0)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.buffer, self.workers, self.seed = buffer, workers, seed
        self.path, self.heldout_path, self.evaluation_path = path, heldout_path, evaluation_path
        self.rank, self.world_size = 0, 1
        """This process's rank and the number of processes, where there is no Trainer to ask."""
        self.consumed = 0
        """Batches that training has used up; ``HapoModule`` says so, since a loader may run ahead."""
        self.waited = 0.0
        """Seconds that training waited for its last batch."""
        self._cursor: Cursor = ()
        self._shelf: _Memory | _Disk | None = None
        self._feed: Shuffled | BlockShuffler | None = None
        self._heldout: list[Encoded] = []
        self._tally: Counter[str] = Counter()
        """What became of the training problems and of their teachers."""

    def setup(self, stage: str | None = None) -> None:
        """Bring the source into order, once."""
        if self._feed is not None:
            return
        if isinstance(self.source, Corpus):
            self._feed = BlockShuffler(self.source, self._fits, self.prompts_per_step, self.buffer, self.seed)
        else:
            problems = self.source.train()
            if isinstance(problems, list):
                self._solved = [problem for problem in problems if problem.solution][:TEACHER_SAMPLE]
                self._shelf = _Memory(self._encoded(problems, self._tally))
            else:
                self._shelf = _Disk(problems, self._fits, partial(self._encoded, tally=Counter()))
                self._tally[PROMPT_LONG] = len(problems) - len(self._shelf)
            if len(self._shelf) < self.prompts_per_step:
                raise ValueError(
                    f"prompts_per_step={self.prompts_per_step}, but there are only {len(self._shelf)} training "
                    f"problems; lower the one or bring more of the other"
                )
            self._feed = Shuffled(len(self._shelf), self.prompts_per_step, self.seed)
        self._heldout = self._encoded(self.source.heldout(), Counter())
        self._check_world(self.world_size)
        if 0 < len(self._heldout) < self.world_size:
            raise ValueError(
                f"there are {len(self._heldout)} held-out problems for {self.world_size} processes: bring more, "
                f"or start fewer"
            )
        self._cursor = self._cursor or self._feed.start

    def _encoded(self, problems: Sequence[Problem], tally: Counter[str]) -> list[Encoded]:
        return encode(
            problems,
            self.tokenizer,
            self.template,
            self.teacher_check,
            self.max_prompt_tokens,
            self.max_response_tokens,
            tally,
        )

    def _fits(self, problems: Sequence[Problem]) -> list[bool]:
        return fits(problems, self.tokenizer, self.template, self.max_prompt_tokens)

    @property
    def train_set(self) -> Sequence[Encoded]:
        """The encoded training problems of a source in memory."""
        self.setup()
        if not isinstance(self._shelf, _Memory):
            raise ValueError("only a source that fits in memory has a train_set; iterate over train_dataloader()")
        return self._shelf.items

    @cached_property
    def difficulties(self) -> tuple[str, ...]:
        """The labels that rewards are told apart by, the most frequent :data:`LABELS`; the same on all ranks."""
        self.setup()
        known = self._shelf.items if isinstance(self._shelf, _Memory) else self._first
        found = Counter(each.difficulty for each in known if each.difficulty)
        return tuple(sorted(sorted(found), key=found.__getitem__, reverse=True)[:LABELS])

    # -- what is in it -------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, float]:
        """Sizes, the share of teacher solutions that are right, and of training problems whose teacher may be used;
        and how often each of the fates of :mod:`hapo_lit.data.collate` befell a problem.

        The teacher's accuracy is measured on at most :data:`TEACHER_SAMPLE` solutions, believed or not; of a set that
        is not in memory the first :data:`LOOKED_AT` problems stand for all.
        """
        self.setup()
        if isinstance(self._shelf, _Memory):
            solved, tally = self._solved, self._tally
            size = judged = len(self._shelf)
        else:
            problems, tally = self._first, Counter(self._tally)
            judged = len(self._encoded(problems, tally))
            solved = [problem for problem in problems if problem.solution]
            size = len(self._shelf) if self._shelf is not None else 0
        right = self.verifier([p.solution for p in solved], [p.answer for p in solved])
        return {
            "train_problems": size,
            "heldout_problems": len(self._heldout),
            "teacher_accuracy": float(right.mean()) if len(right) else 0.0,
            "teacher_accepted": tally[TEACHER_USABLE] / judged,
            **{name: tally[name] for name in FATES},
        }

    @cached_property
    def _first(self) -> list[Problem]:
        """Problems that stand for a set too large to look at."""
        if isinstance(self._feed, BlockShuffler):
            found: list[Problem] = []
            for batch, (epoch, *_) in self._feed.batches(self._feed.start):
                if epoch:
                    break
                found += batch
                if len(found) >= LOOKED_AT:
                    break
            return found
        assert isinstance(self._shelf, _Disk)
        return self._shelf.problems_at(range(min(LOOKED_AT, len(self._shelf))))

    def dropped(self) -> str:
        """What became of the rows that were read, in one line; empty for a source that drops none."""
        if isinstance(self.source, Corpus):
            assert isinstance(self._feed, BlockShuffler)
            return reasons(self._feed.tally)
        report = self.source.report()
        return reasons(Counter(report)) if report else ""

    def sample(self) -> tuple[str, str]:
        """A prompt and its teacher as the policy sees them, special tokens and all."""
        first = next(self._batches(0, 1))
        row = int(first.teacher_mask.any(1).int().argmax())
        prompt, teacher = first.tokens[row][first.mask[row]], first.teacher_tokens[row][first.teacher_mask[row]]
        return self.tokenizer.decode(prompt.tolist()), self.tokenizer.decode(teacher.tolist())

    # -- batches -------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> Iterable[PromptBatch]:
        self.setup()  # before loader processes are made, so that it is done once
        rank, world = self._share()
        loader: DataLoader[PromptBatch] = DataLoader(
            _Stream(self, rank, world),
            batch_size=None,
            num_workers=self.workers,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # a loader draws a seed for its processes, and would take the global one
        )
        return _Timed(loader, self)

    def val_dataloader(self) -> DataLoader[PromptBatch]:
        self.setup()
        rank, world = self._share()
        pad = partial(collate, pad_id=self.tokenizer.pad_token_id)
        mine = self._heldout[rank::world]
        return DataLoader(mine, batch_size=self.heldout_batch, collate_fn=pad, generator=torch.Generator())  # type: ignore[arg-type]

    def _share(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (self.rank, self.world_size)

    @property
    def has_heldout(self) -> bool:
        self.setup()
        return bool(self._heldout)

    def batch(self, index: int, rank: int = 0, world: int = 1) -> PromptBatch:
        """This rank's share of batch ``index`` of a source that is no stream."""
        self.setup()
        self._check_world(world)
        assert isinstance(self._feed, Shuffled)
        assert self._shelf is not None
        mine = self._shelf.take(self._feed.indices(index)[rank::world])
        return replace(collate(mine, self.tokenizer.pad_token_id), cursor=(index + 1,))

    def _batches(self, rank: int, world: int, worker: int = 0, workers: int = 1) -> Iterator[PromptBatch]:
        """This rank's shares of the batches from the position on; of these every ``workers``-th."""
        self.setup()
        self._check_world(world)
        if isinstance(self._feed, BlockShuffler):
            for number, (problems, cursor) in enumerate(self._feed.batches(self._cursor)):
                if number % workers == worker:
                    mine = self._encoded(problems[rank::world], Counter())
                    yield replace(collate(mine, self.tokenizer.pad_token_id), cursor=cursor)
        else:
            for index in count(self._cursor[0] + worker, workers):
                yield self.batch(index, rank, world)

    def _check_world(self, world: int) -> None:
        if self.prompts_per_step % world:
            raise ValueError(
                f"prompts_per_step={self.prompts_per_step} is not divisible by {world} processes: change one of them"
            )

    # -- position ------------------------------------------------------------------------------------------------

    def advance(self, batch: PromptBatch, step: int) -> None:
        """Move the position past ``batch``, which training has used as its ``step``-th."""
        self.consumed, self._cursor = step, batch.cursor or self._cursor

    def state_dict(self) -> dict[str, Any]:
        return {"consumed": self.consumed, "cursor": self._cursor, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, mine in self._identity().items():
            if name == "tokenizer" and state.get(name) != mine:
                raise ResumeError(
                    f"the state was written with another tokenizer ({state.get(name)} then, {mine} now): resume with "
                    f"the same model, or start a new run"
                )
            if state.get(name) != mine:
                raise ResumeError(
                    f"the training data changed since the checkpoint was written ({name} {state.get(name)} then, "
                    f"{mine} now): resume with the same data.* and seed, or start a new run"
                )
        self.consumed, self._cursor = state["consumed"], tuple(state["cursor"])

    def _identity(self) -> dict[str, Any]:
        """What must be the same for the position to mean the same."""
        self.setup()
        same: dict[str, Any] = {"tokenizer": self._tokenizer_hash, "seed": self.seed}
        same |= {"prompts_per_step": self.prompts_per_step}
        if isinstance(self._shelf, _Memory):
            return same | {"fingerprint": fingerprint(self._shelf.items)}
        same |= {"fingerprint": self.source.fingerprint(), "max_prompt_tokens": self.max_prompt_tokens}  # type: ignore[union-attr]
        same |= {"template": repr(vars(self.template))}
        return same | ({"buffer": self.buffer} if self._shelf is None else {})

    @cached_property
    def _tokenizer_hash(self) -> str:
        """Of all a tokenizer is; which prompts fit depends on it."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        whole = backend.to_str() if backend is not None else repr(sorted(self.tokenizer.get_vocab().items()))
        return hashlib.blake2b(f"{whole}{self.tokenizer.chat_template}".encode(), digest_size=8).hexdigest()


class _Memory:
    """Problems that were encoded at once."""

    def __init__(self, items: list[Encoded]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def take(self, indices: Iterable[int]) -> list[Encoded]:
        return [self.items[index] for index in indices]


class _Disk:
    """Problems that are read and encoded when they are needed; those with too long a prompt are left out."""

    def __init__(
        self,
        problems: Sequence[Problem],
        fits: Callable[[Sequence[Problem]], list[bool]],
        encode: Callable[[Sequence[Problem]], list[Encoded]],
    ) -> None:
        self.problems, self.encode = problems, encode
        starts = range(0, len(problems), 1000)
        shown = track(starts, "measuring prompts", transient=True, disable=len(starts) < 10)
        within = [each for start in shown for each in fits(problems[start : start + 1000])]
        self.kept = np.flatnonzero(within)

    def __len__(self) -> int:
        return len(self.kept)

    def problems_at(self, indices: Iterable[int]) -> list[Problem]:
        return [self.problems[int(self.kept[index])] for index in indices]

    def take(self, indices: Iterable[int]) -> list[Encoded]:
        return self.encode(self.problems_at(indices))


class _Stream(IterableDataset[PromptBatch]):
    """Batches from the datamodule's position on, for ever; each loader process makes its share of them."""

    def __init__(self, data: MathDataModule, rank: int, world: int) -> None:
        self.data, self.rank, self.world = data, rank, world

    def __iter__(self) -> Iterator[PromptBatch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        yield from self.data._batches(self.rank, self.world, worker, workers)


class _Timed:
    """A loader whose datamodule knows how long the last batch was waited for."""

    def __init__(self, loader: DataLoader[PromptBatch], data: MathDataModule) -> None:
        self.loader, self.data = loader, data

    def __iter__(self) -> Iterator[PromptBatch]:
        batches = iter(self.loader)
        while True:
            started = time.perf_counter()
            batch = next(batches)  # there is always another
            self.data.waited = time.perf_counter() - started
            yield batch


def _start_worker(worker: int) -> None:  # noqa: ARG001
    """The tokenizer's threads do not survive the fork, and it would warn of it."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

"""The LightningDataModule: problems in, :class:`~hapo_lit.types.PromptBatch` out, resumable at the very next batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property, partial
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from hapo_lit.contracts import check_part
from hapo_lit.data.collate import (
    OUTCOMES,
    PROMPT_TOO_LONG,
    TEACHER_READS_OTHERWISE,
    TEACHER_USABLE,
    EncodedProblem,
    collate,
    encode,
)
from hapo_lit.data.corpus import Corpus
from hapo_lit.data.fingerprints import require_same
from hapo_lit.data.loading import BatchStream, TimedLoader, start_worker
from hapo_lit.data.ordering import Cursor
from hapo_lit.data.outcomes import tally_line
from hapo_lit.data.problems import HasNotes, Problem, ProblemSource
from hapo_lit.data.teachers import REFERENCES_UNREAD, TeacherCheck, questions_of, unread_references
from hapo_lit.data.templates import HasDate, Template
from hapo_lit.data.tokens import TextEncoder, tokenizer_name, unknown_warning
from hapo_lit.data.training_set import InMemorySet, OnDemandSet, StreamedSet, TrainingSet
from hapo_lit.numerics.hashing import stable_hash
from hapo_lit.numerics.ranges import check_count
from hapo_lit.protocols import Verifier
from hapo_lit.types import PromptBatch
from hapo_lit.verify.judging import judge

FIRST_PROMPTS = 256
"""How many prompts are looked at before a run."""
MOST_WORKERS = 256
MAX_LABELS = 12
"""How many labels of difficulty rewards are told apart by, the most frequent ones."""


class MathDataModule(LightningDataModule):
    """Training prompts without end, and held-out prompts once.

    A list of problems is encoded at once; a cached corpus is read as it is needed; a stream is shuffled block by block.
    In all three cases a batch is chosen as a whole, holds a prompt once, and each rank takes its part, so that the
    position in the data is the same on all ranks.  Each batch carries the position after it: batches that a loader made
    ahead of the step are made again after a resume, and none is lost.

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
        repeats: True = a list of problems may hold one several times, and a batch too, as supervised learning may;
            otherwise the first counts, because equal prompts would get equal responses.
        path, heldout_path, evaluation_path, columns: what the source was given; not used here.
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
        repeats: bool = False,
        path: Any = None,
        heldout_path: Any = None,
        evaluation_path: Any = None,
        columns: Any = None,
    ) -> None:
        super().__init__()
        check_part("teacher_check", teacher_check, TeacherCheck)
        if not isinstance(source, Corpus):
            check_part("data.source", source, ProblemSource)
        self.source, self.tokenizer, self.template = source, tokenizer, template
        self.teacher_check, self.verifier = teacher_check, verifier
        self.prompts_per_step, self.heldout_batch = prompts_per_step, heldout_batch
        self.max_prompt_tokens, self.max_response_tokens = max_prompt_tokens, max_response_tokens
        lengths = {"max_prompt_tokens": max_prompt_tokens, "max_response_tokens": max_response_tokens}
        for name, value in {**lengths, "prompts_per_step": prompts_per_step, "heldout_batch": heldout_batch}.items():
            check_count(name, value)
        check_count("workers", workers, least=0, most=MOST_WORKERS)
        self.buffer, self.workers, self.seed, self.repeats = check_count("buffer", buffer), workers, seed, repeats
        self.path, self.heldout_path, self.evaluation_path, self.columns = path, heldout_path, evaluation_path, columns
        self.rank, self.world_size = 0, 1
        """This process's rank and the number of processes, where there is no Trainer to ask."""
        self.stop_ids: Sequence[int] = ()
        """What ends the policy's responses, besides the tokenizer's end of sequence; set before ``setup``."""
        self.consumed = 0
        """Batches that training has used; fewer than a loader that runs ahead has made."""
        self.waited = 0.0
        """Seconds that training waited for its last batch."""
        self._cursor: Cursor = ()
        self._heldout: list[EncodedProblem] = []
        self._heldout_too_long = 0
        self._training_set: TrainingSet | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read the problems and decide on their order, once."""
        if self._training_set is not None:
            return
        training_set = self._read()
        tally = Counter[str]()
        self._heldout = self._encoded(self.source.heldout(), tally)
        self._heldout_too_long = tally[PROMPT_TOO_LONG]
        first = self._heldout or next(training_set.batches(training_set.start, slice(None)))[0]
        encoder = TextEncoder(self.tokenizer, self.template, self.stop_ids)
        encoder.check_prompts(list({item.prompt_id: item.tokens for item in first[:FIRST_PROMPTS]}.values()))
        self._check_world_size(self.world_size)
        if 0 < len(self._heldout) < self.world_size:
            raise ValueError(
                f"there are {len(self._heldout)} held-out problems for {self.world_size} processes: bring more, "
                f"or start fewer"
            )
        self._training_set = training_set
        self._cursor = self._cursor or training_set.start

    def _read(self) -> TrainingSet:
        if isinstance(self.source, Corpus):
            return StreamedSet(
                self.source, self._fits, self._encoded, self.prompts_per_step, self.buffer, self.seed, self.limits()
            )
        problems = self.source.train()
        if isinstance(problems, list):
            return InMemorySet(problems, self._encoded, self.prompts_per_step, self.seed, self.repeats, self.limits())
        fingerprint: str = self.source.fingerprint()  # type: ignore[attr-defined]
        return OnDemandSet(
            problems, fingerprint, self._fits, self._encoded, self.prompts_per_step, self.seed, self.limits()
        )

    @property
    def training_set(self) -> TrainingSet:
        """The training problems in the order of this run."""
        self.setup()
        assert self._training_set is not None
        return self._training_set

    def _encoded(self, problems: Sequence[Problem], tally: Counter[str]) -> list[EncodedProblem]:
        return encode(
            problems,
            self.tokenizer,
            self.template,
            self.teacher_check,
            self.max_prompt_tokens,
            self.max_response_tokens,
            tally,
            self.stop_ids,
        )

    def _fits(self, problems: Sequence[Problem]) -> list[bool]:
        encoder = TextEncoder(self.tokenizer, self.template)
        return encoder.within([problem.problem for problem in problems], self.max_prompt_tokens)

    # -- what is in it -------------------------------------------------------------------------------------------

    @property
    def has_heldout(self) -> bool:
        self.setup()
        return bool(self._heldout)

    @cached_property
    def difficulties(self) -> tuple[str, ...]:
        """The labels that rewards are told apart by, the most frequent :data:`MAX_LABELS`; the same on all ranks."""
        counts = self.training_set.difficulties()
        counts.pop("", None)
        return tuple(sorted(sorted(counts), key=counts.__getitem__, reverse=True)[:MAX_LABELS])

    def describe(self) -> dict[str, float]:
        """How many problems there are, and how good the teacher is.

        ``teacher_accuracy`` is the share of solutions that are right, whether or not the teacher check accepts them;
        ``teacher_accepted`` is the share of training problems whose teacher may be used.  Problems are also counted by
        their :data:`~hapo_lit.data.collate.OUTCOMES`.  Of a set that is not in memory only the first problems count.
        """
        teachers, tally, encoded = self.training_set.describe()
        encoder = TextEncoder(self.tokenizer, self.template, self.stop_ids)
        solutions = [encoder.without_end(problem.solution) for problem in teachers]
        right = judge(self.verifier, solutions, questions_of(teachers)).successes.float()
        return {
            "train_problems": self.training_set.size,
            "heldout_problems": len(self._heldout),
            "teacher_accuracy": float(right.mean()) if len(right) else 0.0,
            "teacher_accepted": tally[TEACHER_USABLE] / encoded,
            REFERENCES_UNREAD: len(unread_references(self.verifier, [problem.answer for problem in teachers])),
            **{name: tally[name] for name in (*OUTCOMES, TEACHER_READS_OTHERWISE)},
        }

    def dropped(self) -> str:
        """What became of the rows that were read, in one line; empty for a source that drops none."""
        if isinstance(self.training_set, StreamedSet):
            return tally_line(self.training_set.ordering.tally)
        report = self.source.report()  # type: ignore[union-attr]
        return tally_line(Counter(report)) if report else ""

    def notes(self) -> list[str]:
        """What else a reader of the report should know of the data, a line each."""
        self.setup()
        parts = (self.source, self.teacher_check)
        lines = [line for part in parts if isinstance(part, HasNotes) for line in part.notes()]
        if count := self.training_set.duplicates:
            lines.append(f"duplicates: {count:,} training problems are left out, whose prompts occur before")
        if self._heldout_too_long:
            lines.append(
                f"held out: {self._heldout_too_long:,} problems have prompts of more than max_prompt_tokens="
                f"{self.max_prompt_tokens} and are not evaluated on"
            )
        return [self.limits(), *lines, *unknown_warning([item.tokens for item in self._heldout], self.tokenizer)]

    def limits(self) -> str:
        """The tokenizer and the limits in tokens, in one line."""
        return (
            f"tokenizer: {tokenizer_name(self.tokenizer)}; limits: max_prompt_tokens={self.max_prompt_tokens}, "
            f"max_response_tokens={self.max_response_tokens}"
        )

    def sample(self) -> tuple[str, str]:
        """A prompt and its teacher as the policy sees them, with all special tokens."""
        first = next(self.batches(0, 1))
        row = int(first.teacher_mask.any(1).int().argmax())
        prompt, teacher = first.tokens[row][first.mask[row]], first.teacher_tokens[row][first.teacher_mask[row]]
        return self.tokenizer.decode(prompt.tolist()), self.tokenizer.decode(teacher.tolist())

    # -- batches -------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> Iterable[PromptBatch]:
        self.setup()  # before loader processes are started, so that it is done once
        loader: DataLoader[PromptBatch] = DataLoader(
            BatchStream(partial(self.batches, *self._rank_and_world_size())),
            batch_size=None,
            num_workers=self.workers,
            worker_init_fn=start_worker,
            generator=torch.Generator(),  # a loader seeds its processes, and would use the global generator for that
        )
        return TimedLoader(loader, self._note_wait)

    def val_dataloader(self) -> DataLoader[PromptBatch]:
        self.setup()
        rank, world_size = self._rank_and_world_size()
        mine = self._heldout[rank::world_size]
        return DataLoader(mine, batch_size=self.heldout_batch, collate_fn=collate, generator=torch.Generator())  # type: ignore[arg-type]

    def _rank_and_world_size(self) -> tuple[int, int]:
        if self.trainer:
            return self.trainer.global_rank, self.trainer.world_size
        return self.rank, self.world_size

    def _note_wait(self, seconds: float) -> None:
        self.waited = seconds

    def batch(self, index: int, rank: int = 0, world_size: int = 1) -> PromptBatch:
        """This rank's part of batch ``index`` of a source that is not streamed."""
        return next(self._batches_from((index,), rank, world_size))

    def batches(self, rank: int, world_size: int, worker: int = 0, workers: int = 1) -> Iterator[PromptBatch]:
        """This rank's parts of the batches from the position on; of these every ``workers``-th, from ``worker`` on."""
        self.setup()
        return self._batches_from(self._cursor, rank, world_size, worker, workers)

    def _batches_from(
        self, cursor: Cursor, rank: int, world_size: int, worker: int = 0, workers: int = 1
    ) -> Iterator[PromptBatch]:
        self._check_world_size(world_size)
        part = slice(rank, None, world_size)
        for problems, after in self.training_set.batches(cursor, part, worker, workers):
            yield replace(collate(problems), cursor=after)

    def _check_world_size(self, world_size: int) -> None:
        if self.prompts_per_step % world_size:
            raise ValueError(
                f"prompts_per_step={self.prompts_per_step} is not divisible by {world_size} processes: change one of "
                f"them"
            )

    # -- position ------------------------------------------------------------------------------------------------

    def advance(self, batch: PromptBatch, step: int) -> None:
        """Move the position past ``batch``, which training has used as its ``step``-th."""
        self.consumed, self._cursor = step, batch.cursor or self._cursor

    def state_dict(self) -> dict[str, Any]:
        state = {"consumed": self.consumed, "cursor": self._cursor, **self._identity()}
        if isinstance(self.template, HasDate) and self.template.uses_date:
            state["date"] = self.template.date.isoformat()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "date" in state and isinstance(self.template, HasDate):
            self._set_date(self.template, datetime.fromisoformat(state["date"]))
        require_same(state, self._identity(), self.rank)
        self.consumed, self._cursor = state["consumed"], tuple(state["cursor"])

    def _set_date(self, template: HasDate, date: datetime) -> None:
        """Let prompts hold the date on which the run began; those that hold another are made again."""
        if template.date != date:
            template.date, self._training_set = date, None
            self.setup()

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a cursor to mean the same batch."""
        same: dict[str, Any] = {"tokenizer": self._tokenizer_hash, "seed": self.seed}
        same |= {"prompts_per_step": self.prompts_per_step, "fingerprint": self.training_set.fingerprint()}
        if isinstance(self.training_set, InMemorySet):  # whose fingerprint covers the tokens
            return same
        template = {name: value for name, value in vars(self.template).items() if name not in ("date", "uses_date")}
        same |= {"max_prompt_tokens": self.max_prompt_tokens, "template": repr(template)}
        return same | ({"buffer": self.buffer} if isinstance(self.training_set, StreamedSet) else {})

    @cached_property
    def _tokenizer_hash(self) -> str:
        """A hash of everything that decides how a tokenizer encodes text, and so which prompts fit."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        contents = backend.to_str() if backend is not None else repr(sorted(self.tokenizer.get_vocab().items()))
        return stable_hash(f"{contents}{self.tokenizer.chat_template}").hex()

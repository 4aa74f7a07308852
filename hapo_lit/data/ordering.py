"""The order of training prompts: which problems make up the next batch, and where the data stand after it.

Both orders are the same on every rank and for any number of loader processes, since a batch is chosen as a whole and
each rank takes its own part of it.  Ranks need not agree on anything, and their cursors are equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from hapo_lit.data.collate import PROMPT_TOO_LONG
from hapo_lit.data.corpus import Corpus
from hapo_lit.data.outcomes import DUPLICATE, KEPT, tally_line
from hapo_lit.data.problems import Problem
from hapo_lit.data.reader import Position

Cursor = tuple[int, ...]
"""Position in the data at which the next batch begins."""


class EpochShuffler:
    """Each epoch is another permutation of all items.

    Items that do not fill a batch at the end of an epoch are left out of it, so that no prompt occurs twice in a batch.
    Batch ``k`` is a function of the seed and ``k`` alone.

    Args:
        size: how many items there are.
        per_batch: items in a batch.
        seed: of the order.
    """

    start: Cursor = (0,)

    def __init__(self, size: int, per_batch: int, seed: int) -> None:
        if size < per_batch:
            raise ValueError(
                f"prompts_per_step={per_batch}, but there are only {size} training problems; lower the one or bring "
                f"more of the other"
            )
        self.size, self.per_batch, self.seed = size, per_batch, seed

    def indices(self, batch: int) -> np.ndarray:
        """The indices of a batch's items."""
        epoch, within = divmod(batch, self.size // self.per_batch)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.size)
        first = within * self.per_batch
        return order[first : first + self.per_batch]


class BlockShuffler:
    """Shuffles a stream block by block: ``buffer`` problems are read, put in random order, and made into batches.

    The cursor is (epoch, file and row where the block begins, how many of the block are used), so that resuming reads
    at most one block twice.  Duplicates are dropped within a block, and a problem whose prompt is in the batch already,
    since a batch may begin in one block and end in another.  An epoch's last problems are left out if they do not
    fill a batch.

    Args:
        corpus: what to read.
        fits: which of these problems are short enough.
        per_batch: problems in a batch.
        buffer: problems in a block.
        seed: of the order.
        limits: the tokenizer and the limits, for messages.
    """

    start: Cursor = (0, 0, 0, 0)

    def __init__(
        self,
        corpus: Corpus,
        fits: Callable[[Sequence[Problem]], list[bool]],
        per_batch: int,
        buffer: int,
        seed: int,
        limits: str = "",
    ) -> None:
        if buffer < per_batch:
            raise ValueError(f"data.buffer={buffer} must hold a batch of {per_batch} prompts at least")
        self.corpus, self.fits, self.per_batch, self.buffer, self.seed = corpus, fits, per_batch, buffer, seed
        self.limits = limits
        self.tally: Counter[str] = Counter()

    def batches(self, cursor: Cursor) -> Iterator[tuple[list[Problem], Cursor]]:
        """Batches from ``cursor`` on, for ever, each with the cursor after it."""
        epoch, file, row, used = cursor
        while True:
            batches, from_start = 0, (file, row, used) == (0, 0, 0)
            batch: dict[int, Problem] = {}
            for begins, block in self._blocks(Position(file, row), epoch):
                for position in range(used, len(block)):
                    problem = block[position]
                    if problem.prompt_id in batch:
                        self.tally[DUPLICATE] += 1
                        self.tally[KEPT] -= 1
                        continue
                    batch[problem.prompt_id] = problem
                    if len(batch) == self.per_batch:
                        yield list(batch.values()), (epoch, *begins, position + 1)
                        batch, batches = {}, batches + 1
                used = 0
            if not batches and from_start:
                why = f" ({self.limits})" if self.tally[PROMPT_TOO_LONG] else ""
                raise ValueError(
                    f"{self.corpus.reader.name}: too few rows are left for a batch of prompts_per_step="
                    f"{self.per_batch}: {tally_line(self.tally)}{why}"
                )
            epoch, file, row, used = epoch + 1, 0, 0, 0

    def _blocks(self, start: Position, epoch: int) -> Iterator[tuple[Position, list[Problem]]]:
        """Shuffled blocks, each with the position where it begins."""
        begins, block, seen = start, list[Problem](), set[int]()
        for problem, after in self.corpus.stream(start, self.tally, seen):
            block.append(problem)
            if len(block) == self.buffer:
                yield begins, self._shuffled(block, epoch, begins)
                begins, block = after, []
                seen.clear()
        if block:
            yield begins, self._shuffled(block, epoch, begins)

    def _shuffled(self, block: list[Problem], epoch: int, begins: Position) -> list[Problem]:
        fitting = [problem for problem, fits in zip(block, self.fits(block), strict=True) if fits]
        if len(fitting) < len(block):
            self.tally[PROMPT_TOO_LONG] += len(block) - len(fitting)
            self.tally[KEPT] -= len(block) - len(fitting)
        order = np.random.default_rng((self.seed, epoch, *begins)).permutation(len(fitting))
        return [fitting[index] for index in order]

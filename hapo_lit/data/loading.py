"""What a loader needs besides the data: batches for each of its processes, and a clock for the wait."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator

from torch.utils.data import IterableDataset, get_worker_info

from hapo_lit.types import PromptBatch


class BatchStream(IterableDataset[PromptBatch]):
    """Batches for ever; with several loader processes each makes its share of them.

    Args:
        batches: given a process' number and the number of processes, the batches of that process.
    """

    def __init__(self, batches: Callable[[int, int], Iterator[PromptBatch]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[PromptBatch]:
        info = get_worker_info()
        yield from self.batches(0, 1) if info is None else self.batches(info.id, info.num_workers)


class TimedLoader:
    """A loader that measures how long each batch is waited for.

    Args:
        loader: of batches without end.
        report: is called with the seconds before a batch is handed out.
    """

    def __init__(self, loader: Iterable[PromptBatch], report: Callable[[float], None]) -> None:
        self.loader, self.report = loader, report

    def __iter__(self) -> Iterator[PromptBatch]:
        batches = iter(self.loader)
        while True:
            started = time.perf_counter()
            batch = next(batches)
            self.report(time.perf_counter() - started)
            yield batch


def start_worker(worker: int) -> None:  # noqa: ARG001
    """Called in each loader process: the tokenizer's threads do not survive a fork, and it would warn of that."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

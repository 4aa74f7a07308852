"""What a gate remembers of each prompt, in flat arrays: millions of prompts, whole batches at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from hapo_lit.numerics.ranges import check_share

FREE = -1
"""An empty place of the table."""


class Memory:
    """Discounted counts of successes and failures, by prompt.

    At a visit the counts become ``λ · old + new``.  ``discount`` λ = 0 keeps only the current group, which is the
    paper's gate; 1 keeps the full history; between them the counts settle at ``n/(1−λ)`` trials.

    A hash table with open addressing (linear probing, at most half full) holds positions in arrays that grow by a
    half when full.  A prompt takes 24 bytes there and 8 to 16 in the table, at most 52 with the spare room; 24 bytes
    in a checkpoint.  Prompt ids are hashes already, so their bits are used as they are.

    Args:
        discount: λ in [0, 1].
    """

    def __init__(self, discount: float = 0.0) -> None:
        self.discount = check_share("discount", discount)
        self._clear()

    def _clear(self, capacity: int = 64) -> None:
        self._size = 0
        self._ids = np.empty(capacity, dtype=np.int64)
        self._counts = np.empty((capacity, 2), dtype=np.float64)
        self._table = np.full(4 * capacity, FREE, dtype=np.int32)

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes held, spare room included."""
        return self._ids.nbytes + self._counts.nbytes + self._table.nbytes

    def effective_trials(self, trials: int) -> float:
        """``n/(1−λ)``: the trials that counts settle at with ``n`` a visit; at λ = 1 those of a million visits."""
        return trials / max(1 - self.discount, 1e-6)

    def add(self, prompt_ids: np.ndarray, successes: np.ndarray, failures: np.ndarray) -> None:
        """One visit: several rows of one prompt count as one, in any order."""
        ids, row = np.unique(prompt_ids, return_inverse=True)
        new = np.stack([np.bincount(row, successes, len(ids)), np.bincount(row, failures, len(ids))], 1)
        if self.discount == 0:
            self._clear()
        at = self._find(ids)[1]
        known = at != FREE
        self._counts[at[known]] = self.discount * self._counts[at[known]] + new[known]
        self._append(ids[~known], new[~known])

    def counts_of(self, prompt_ids: np.ndarray) -> np.ndarray:
        """``[P, 2]`` successes and failures; zeros for prompts never seen."""
        at = self._find(prompt_ids)[1]
        held: np.ndarray = np.where((at == FREE)[:, None], 0.0, self._counts[at])
        return held

    def state_dict(self) -> dict[str, Any]:
        """Ids and counts in the order of the ids, which no order of visits can change."""
        order = self._ids[: self._size].argsort()
        return {
            "prompt_ids": torch.from_numpy(self._ids[: self._size][order]),
            "counts": torch.from_numpy(self._counts[: self._size][order]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._clear()
        self._append(state["prompt_ids"].numpy(), state["counts"].numpy())

    def _find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each id its place in the table, or the free place where its search ended, and what is there."""
        places = self._first_place(ids)
        at = self._table[places]
        searching = np.flatnonzero((at != FREE) & (self._ids[at] != ids))
        while len(searching):
            places[searching] = (places[searching] + 1) & (len(self._table) - 1)
            at[searching] = found = self._table[places[searching]]
            searching = searching[(found != FREE) & (self._ids[found] != ids[searching])]
        return places, at

    def _append(self, ids: np.ndarray, counts: np.ndarray) -> None:
        """Add prompts that are not there yet, each once."""
        start, self._size = self._size, self._size + len(ids)
        if self._size > len(self._ids):
            room = max(self._size, len(self._ids) * 3 // 2)
            self._ids = np.concatenate([self._ids[:start], np.empty(room - start, dtype=np.int64)])
            self._counts = np.concatenate([self._counts[:start], np.empty((room - start, 2))])
        self._ids[start : self._size], self._counts[start : self._size] = ids, counts
        if 2 * self._size > len(self._table):
            self._table = np.full(2 ** int(np.ceil(np.log2(2 * self._size))), FREE, dtype=np.int32)
            start = 0
        waiting = np.arange(start, self._size, dtype=np.int32)
        while len(waiting):  # of several that write to one free place, the last one has it; the others search on
            places = self._find(self._ids[waiting])[0]
            self._table[places] = waiting
            waiting = waiting[self._table[places] != waiting]

    def _first_place(self, ids: np.ndarray) -> np.ndarray:
        mixed = np.asarray(ids, dtype=np.int64).view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing
        places: np.ndarray = (mixed >> np.uint64(32)).astype(np.int64) & (len(self._table) - 1)
        return places

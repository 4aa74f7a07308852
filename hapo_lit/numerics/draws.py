"""Random numbers without a generator: each is a function of what it is for, so there is no state to checkpoint and
no order of calls, prompts or ranks that could change it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hapo_lit.numerics.hashing import stable_int

Words = NDArray[np.uint64]
"""64-bit words."""


def uniform(purpose: str, seed: int, keys: np.ndarray, counter: int) -> np.ndarray:
    """One number in [0, 1) for each of ``keys [P]``, fixed by (purpose, seed, key, counter).

    Rounds of the SplitMix64 finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
    2014): a whole batch at once, where one generator for each key would cost milliseconds.
    """
    state = np.full(len(keys), stable_int(f"{purpose} {seed}"), dtype=np.uint64)
    state = _mixed(state ^ np.asarray(keys, dtype=np.int64).view(np.uint64))
    state = _mixed(state ^ np.uint64(counter % 2**64))
    numbers: np.ndarray = (state >> np.uint64(11)) * 2.0**-53
    return numbers


def _mixed(state: Words) -> Words:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Words = state ^ (state >> np.uint64(31))
    return mixed

"""Which problems the policy is evaluated on: those of a file, or some that a hash chooses among the others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from hapo_lit.data.filters import fingerprint64
from hapo_lit.data.outcomes import KEPT, tally_line
from hapo_lit.data.problems import Problem, problem_of
from hapo_lit.data.schemas import Candidate

SHARES = (0.02, 0.05, 0.1, 0.2)
"""The share of a set that is held out is the least of these that gives :data:`ENOUGH` problems, or else the last."""
ENOUGH = 64
MOST = 256
"""How many problems are held out of a set, unless a size is given; all of a file's are."""

WIDE = 0.2
"""An interval that is wider is worth a warning."""

JudgedRows = Callable[[Counter[str]], Iterator[tuple[Candidate, bool]]]
"""Reads all rows that can be read, each with whether it is kept; counts those that are not."""


class HeldOut(NamedTuple):
    """The held-out problems, and which problems must not be trained on for their sake."""

    problems: list[Problem]
    reserved: frozenset[int]
    """Fingerprints of all problems of the file, also of those that are not evaluated on."""
    below: int
    """A problem is held out if the last 32 bits of its fingerprint are less than this."""
    rows: Counter[str]
    """What became of the rows that were read for this."""
    notes: list[str]
    """How they were chosen, and which limits that met, a line each."""

    def contains(self, key: int) -> bool:
        """Whether the problem with this fingerprint is held out."""
        return key in self.reserved or key % 2**32 < self.below


def of_file(rows: JudgedRows, name: str, size: int | None) -> HeldOut:
    """All problems of a file, duplicates too, or the first ``size``."""
    tally, problems, reserved = Counter[str](), list[Problem](), set[int]()
    for candidate, kept in rows(tally):
        reserved.add(fingerprint64(candidate.problem))
        if kept:
            problems.append(problem_of(candidate))
    tally[KEPT] = len(problems)
    used = problems if size is None else problems[:size]
    line = f"held out: {len(used):,} problems of {name}"
    if len(used) < len(problems):
        line = f"held out: the first {len(used):,} of {len(problems):,} problems of {name} (heldout_size={size})"
    if tally.total() > tally[KEPT]:
        line += f"; its rows: {tally_line(tally)}"
    return HeldOut(used, frozenset(reserved), 0, tally, [line, *_warning(len(used))])


def by_hash(rows: JudgedRows, share: float | None, size: int | None) -> HeldOut:
    """A share of the problems, which depends on each problem's text alone, and not on order or processes."""
    limit = size or MOST
    problems, keys, tally = _below(rows, _bound(share or SHARES[0]), limit)
    if share is None and len(problems) < min(limit, ENOUGH):
        share = next((share for share in SHARES if share * len(keys) >= ENOUGH), SHARES[-1])
        below = _bound(share)
        if keys and min(keys) >= below:
            below = min(keys) + 1
        problems, keys, tally = _below(rows, below, limit)
    else:
        share = share or SHARES[0]
        below = _bound(share)
    line = f"held out: {len(problems):,} problems, chosen by a hash of their text (heldout_share: {share:g})"
    if len(problems) == limit:
        line = f"{line}, no more than {limit:,} of them (heldout_size)"
    return HeldOut(problems, frozenset(), below, tally, [line, *_warning(len(problems))])


def interval_width(count: int) -> float:
    """The width of Wilson's 95 % interval of an accuracy of one half over ``count`` problems, its largest."""
    return 1.96 / math.sqrt(count + 1.96**2)


def _warning(count: int) -> list[str]:
    width = interval_width(count)
    if not count or width <= WIDE:
        return []
    return [
        f"warning: accuracy over {count} held-out problem{'s' if count > 1 else ''} has a 95 % interval that is up to "
        f"{100 * width:.0f} points wide: bring more with data.heldout_path"
    ]


def _bound(share: float) -> int:
    return math.ceil(share * 2**32)


def _below(rows: JudgedRows, below: int, limit: int) -> tuple[list[Problem], set[int], Counter[str]]:
    """The first problems that are held out, the last bits of all fingerprints if these problems are few, and what
    became of the rows."""
    found, keys, tally = dict[int, Problem](), set[int](), Counter[str]()
    for candidate, kept in rows(tally):
        if not kept:
            continue
        tally[KEPT] += 1
        key = fingerprint64(candidate.problem)
        if len(found) < ENOUGH:
            keys.add(key % 2**32)
        if key % 2**32 < below:
            found.setdefault(key, problem_of(candidate))
        if len(found) == limit:
            break
    return list(found.values()), keys, tally

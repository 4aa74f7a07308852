"""A data set as problems: rows read, mapped to one shape, filtered with a reason each, held-out problems set apart.

:class:`Corpus` streams.  :class:`CachedCorpus` reads everything once into a file on disk; then its size is known, and
every epoch can be a permutation of all problems.  Neither holds the set in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from hapo_lit.data.filters import Filter, fingerprint64
from hapo_lit.data.problems import Problem
from hapo_lit.data.reader import Place, Position, Reader, Row, Unreadable
from hapo_lit.data.schemas import BadRow, Candidate, Schema

KEPT, BAD_ROW, DUPLICATE, HELD_OUT = "kept", "bad_row", "duplicate", "held_out"
"""Reasons besides those of the filters; the first is the good one."""

VERSION = 2
"""Raised when the same rows and filters start to give other problems."""


class Corpus:
    """Problems of a data set, streamed.

    Args:
        reader: where rows come from.
        schema: maps a row's columns.
        filters: each drops rows for one reason; the first that wants a row gets it.
        heldout: a reader of held-out problems in the same shape, every one of which leaves the training set (compared
            by normalised text); None = they are taken from ``reader`` itself, chosen by a hash of the problem.
        heldout_size: how many held-out problems at most.
        heldout_share: of the problems of ``reader``, where ``heldout`` is None.
        on_bad_row: ``stop`` at a row that cannot be read, with its place, or ``skip`` and count it.
    """

    def __init__(
        self,
        reader: Reader,
        schema: Schema,
        filters: Sequence[Filter] = (),
        heldout: Reader | None = None,
        heldout_size: int = 256,
        heldout_share: float = 0.02,
        on_bad_row: str = "stop",
    ) -> None:
        if on_bad_row not in ("stop", "skip"):
            raise ValueError(f"data.source.on_bad_row must be stop or skip, got {on_bad_row!r}")
        if not 0 < heldout_share < 1:
            raise ValueError(f"data.source.heldout_share must be between 0 and 1, got {heldout_share}")
        if heldout_size < 1:
            raise ValueError(f"data.source.heldout_size must be at least 1, got {heldout_size}")
        self.reader, self.schema, self.filters = reader, schema, list(filters)
        self.heldout_reader, self.heldout_size, self.heldout_share = heldout, heldout_size, heldout_share
        self.on_bad_row = on_bad_row
        for each in (reader, heldout):
            if each is not None:
                each.check(schema.columns)
        self._heldout: list[Problem] | None = None

    def candidates(self, reader: Reader, start: Position, tally: Counter[str]) -> Iterator[tuple[Candidate, Position]]:
        """Rows from ``start`` on that can be read and that no filter drops; ``tally`` counts why the rest are not."""
        for row, place, after in reader.rows(start):
            candidate = self._mapped(row, place, tally)
            if candidate is None:
                continue
            reason = next((each.reason for each in self.filters if each(candidate)), None)
            if reason is None:
                yield candidate, after
            else:
                tally[reason] += 1

    def _mapped(self, row: Row | Unreadable, place: Place, tally: Counter[str]) -> Candidate | None:
        try:
            if isinstance(row, Unreadable):
                raise BadRow(row.why)
            return self.schema(row)
        except BadRow as error:
            if self.on_bad_row == "stop":
                hint = "on_bad_row=skip, in data.source or data.source.corpus, leaves such rows out"
                raise ValueError(f"{place}: {error}; {hint}") from error
            tally[BAD_ROW] += 1
            return None

    def heldout(self) -> list[Problem]:
        """What the policy is judged on."""
        if self._heldout is None:
            reader, found, tally = self.heldout_reader or self.reader, dict[int, Problem](), Counter[str]()
            for candidate, _ in self.candidates(reader, Position(), tally):
                tally[KEPT] += 1
                mark = fingerprint64(candidate.problem)
                if self.heldout_reader is not None or self._chosen(mark):
                    found.setdefault(mark, problem_of(candidate))
                if len(found) == self.heldout_size:
                    break
            if not found:
                raise ValueError(
                    f"{reader.name} gives no held-out problem ({reasons(tally)}): look at the filters and heldout_share"
                )
            self._heldout = list(found.values())
        return self._heldout

    @cached_property
    def _reserved(self) -> frozenset[int]:
        """Fingerprints of all rows of the held-out reader, whether or not they are among those that are judged on."""
        assert self.heldout_reader is not None
        rows = (self._mapped(row, place, Counter()) for row, place, _ in self.heldout_reader.rows(Position()))
        return frozenset(fingerprint64(candidate.problem) for candidate in rows if candidate is not None)

    def _chosen(self, mark: int) -> bool:
        """Held out by its hash: the same whatever the order, the number of processes or the filters."""
        return mark % 2**32 < self.heldout_share * 2**32

    def holds_out(self, mark: int) -> bool:
        """Whether the problem with this fingerprint must not be trained on."""
        return self._chosen(mark) if self.heldout_reader is None else mark in self._reserved

    def stream(
        self, start: Position, tally: Counter[str], seen: set[int] | None = None
    ) -> Iterator[tuple[Problem, Position]]:
        """Training problems from ``start`` on, each with the position after it.

        Those whose fingerprints are in ``seen`` are left out, and the others' put there; None = duplicates stay.
        """
        for candidate, after in self.candidates(self.reader, start, tally):
            mark = fingerprint64(candidate.problem)
            if self.holds_out(mark):
                tally[HELD_OUT] += 1
            elif seen is not None and mark in seen:
                tally[DUPLICATE] += 1
            else:
                tally[KEPT] += 1
                if seen is not None:
                    seen.add(mark)
                yield problem_of(candidate), after

    @cached_property
    def _fingerprint(self) -> str:
        held = self.heldout_reader and self.heldout_reader.fingerprint()
        parts = [VERSION, self.reader.fingerprint(), _described(self.schema), held, self.on_bad_row]
        parts += [self.heldout_size, self.heldout_share, *map(_described, self.filters)]
        return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()

    def fingerprint(self) -> str:
        """Changes when rows, mapping, filters or the held-out share do."""
        return self._fingerprint


class CachedCorpus:
    """A corpus read once, without duplicates, into an Arrow file that is mapped and not loaded.

    Args:
        corpus: what to read.
        cache: folder of the files; one for each fingerprint.
        progress: True = show a bar while reading.
    """

    def __init__(self, corpus: Corpus, cache: str, progress: bool = True) -> None:
        self.corpus, self.cache, self.progress = corpus, Path(cache).expanduser(), progress
        self._tally: Counter[str] = Counter()

    def heldout(self) -> list[Problem]:
        return self.corpus.heldout()

    def report(self) -> dict[str, int]:
        return dict(self._tally)

    def fingerprint(self) -> str:
        return self.corpus.fingerprint()

    def train(self) -> Sequence[Problem]:
        """All training problems.

        Raises:
            ValueError: none is left, with what became of every row.
        """
        path = self.cache / f"{self.corpus.fingerprint()}.arrow"
        facts = path.with_suffix(".json")
        if not (facts.is_file() and path.is_file()):
            self.cache.mkdir(parents=True, exist_ok=True)
            tally = self._write(path)
            draft = facts.with_suffix(f".{os.getpid()}")
            draft.write_text(json.dumps(tally))
            draft.replace(facts)  # the last thing to appear: a file without it was not finished
        self._tally = Counter(json.loads(facts.read_text()))
        if not self._tally[KEPT]:
            raise ValueError(f"{self.corpus.reader.name}: no row is left to train on: {reasons(self._tally)}")
        return _Mapped(path)

    def _write(self, path: Path) -> Counter[str]:
        import pyarrow
        from rich.progress import track

        tally: Counter[str] = Counter()
        schema = pyarrow.schema(
            [
                *(("problem", "string"), ("solutions", pyarrow.list_(pyarrow.string()))),
                *(("answer", "string"), ("difficulty", "string")),
            ]
        )
        draft = path.with_suffix(f".{os.getpid()}")
        problems = (problem for problem, _ in self.corpus.stream(Position(), tally, set()))
        shown = track(problems, "reading", transient=True, disable=not self.progress)
        with pyarrow.OSFile(str(draft), "wb") as file, pyarrow.ipc.new_stream(file, schema) as writer:
            for batch in _batched(shown, 1000):
                rows = [
                    {
                        "problem": p.problem,
                        "solutions": [s for s in (p.solution, *p.others) if s],
                        "answer": p.answer,
                        "difficulty": p.difficulty,
                    }
                    for p in batch
                ]
                writer.write_batch(pyarrow.RecordBatch.from_pylist(rows, schema))
        draft.replace(path)
        return tally


class _Mapped(Sequence[Problem]):
    """Problems in an Arrow file."""

    def __init__(self, path: Path) -> None:
        from datasets import Dataset

        self._rows = Dataset.from_file(str(path))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        row = self._rows[int(index)]
        first, *others = row["solutions"] or [""]
        return Problem(row["problem"], first, row["answer"], tuple(others), row["difficulty"])


def problem_of(candidate: Candidate) -> Problem:
    """A candidate as a problem."""
    first, *others = candidate.solutions or ("",)
    label = candidate.level or candidate.source
    return Problem(candidate.problem, first, candidate.answer, tuple(others), label)


def reasons(tally: Counter[str]) -> str:
    """What became of the rows, in one line, the most frequent first."""
    return ", ".join(f"{count:,} {name}" for name, count in tally.most_common() if count) or "there are no rows"


def _described(part: object) -> str:
    """A part by its class and settings; sets in order, as their own order changes from run to run."""
    settings = {
        name: sorted(value) if isinstance(value, set | frozenset) else value for name, value in vars(part).items()
    }
    return f"{type(part).__qualname__}{settings}"


def _batched(items: Iterable[Problem], size: int) -> Iterator[list[Problem]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch

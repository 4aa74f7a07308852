"""A data set as problems: rows are read, mapped to one shape and filtered; held-out problems are set apart.

:class:`Corpus` streams.  :class:`CachedCorpus` reads everything once into a file on disk; then its size is known, and
every epoch can be a permutation of all problems.  Neither holds the set in memory.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hapo_lit.data.filters import Filter, fingerprint64, normalised
from hapo_lit.data.problems import Problem
from hapo_lit.data.reader import Origin, Position, RawRow, Reader, Unreadable
from hapo_lit.data.schemas import BadRow, Candidate, Schema
from hapo_lit.numerics.hashing import stable_hash
from hapo_lit.storage.atomic import appearing
from hapo_lit.storage.cache_key import CacheKey, cache_key, identity

KEPT, BAD_ROW, DUPLICATE, HELD_OUT = "kept", "bad_row", "duplicate", "held_out"
"""What may become of a row, besides being dropped for a filter's reason."""

VERSION = 2
"""To be raised when the same rows and filters give other problems; part of the fingerprint."""
PREPARING_LIBRARIES = ("datasets", "pyarrow")
"""What decides how rows are read."""
CONTENT = "content"
"""In the facts on prepared problems: a hash of all of them."""


class Corpus:
    """Problems of a data set, streamed.

    Args:
        reader: where rows come from.
        schema: maps a row's columns.
        filters: each drops rows for one reason; a row is counted under the first that drops it.
        heldout: a reader of held-out problems in the same shape, all of which are kept out of the training set
            (compared by normalised text); None = a hash of the problem chooses them among the rows of ``reader``.
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
        reader.require(schema.columns)
        if heldout is not None:
            heldout.require(schema.columns)
        self._heldout: list[Problem] | None = None

    def candidates(self, reader: Reader, start: Position, tally: Counter[str]) -> Iterator[tuple[Candidate, Position]]:
        """Rows from ``start`` on that can be read and that no filter drops; ``tally`` counts the others by reason."""
        for row, origin, after in reader.rows(start):
            candidate = self._mapped(row, origin, tally)
            if candidate is None:
                continue
            reason = next((row_filter.reason for row_filter in self.filters if row_filter(candidate)), None)
            if reason is None:
                yield candidate, after
            else:
                tally[reason] += 1

    def _mapped(self, row: RawRow | Unreadable, origin: Origin, tally: Counter[str]) -> Candidate | None:
        """The row in the common shape; None if it cannot be read and such rows are skipped."""
        try:
            if isinstance(row, Unreadable):
                raise BadRow(row.reason)
            return self.schema(row)
        except BadRow as error:
            if self.on_bad_row == "stop":
                hint = "on_bad_row=skip, in data.source or data.source.corpus, leaves such rows out"
                raise ValueError(f"{origin}: {error}; {hint}") from error
            tally[BAD_ROW] += 1
            return None

    def heldout(self) -> list[Problem]:
        """The problems that the policy is evaluated on."""
        if self._heldout is None:
            reader, found, tally = self.heldout_reader or self.reader, dict[int, Problem](), Counter[str]()
            for candidate, _ in self.candidates(reader, Position(), tally):
                tally[KEPT] += 1
                key = fingerprint64(candidate.problem)
                if self.heldout_reader is not None or self._held_out_by_hash(key):
                    found.setdefault(key, problem_of(candidate))
                if len(found) == self.heldout_size:
                    break
            if not found:
                raise ValueError(
                    f"{reader.name} gives no held-out problem ({tally_line(tally)}): look at the filters and "
                    f"heldout_share"
                )
            self._heldout = list(found.values())
        return self._heldout

    @cached_property
    def _reserved(self) -> frozenset[int]:
        """Fingerprints of all rows of the held-out reader, also of those beyond ``heldout_size``."""
        assert self.heldout_reader is not None
        rows = (self._mapped(row, origin, Counter()) for row, origin, _ in self.heldout_reader.rows(Position()))
        return frozenset(fingerprint64(candidate.problem) for candidate in rows if candidate is not None)

    def _held_out_by_hash(self, key: int) -> bool:
        """Depends on the problem alone, and not on order, filters or the number of processes."""
        return key % 2**32 < self.heldout_share * 2**32

    def holds_out(self, key: int) -> bool:
        """Whether the problem with this fingerprint must not be trained on."""
        return self._held_out_by_hash(key) if self.heldout_reader is None else key in self._reserved

    def stream(
        self, start: Position, tally: Counter[str], seen: set[int] | None = None
    ) -> Iterator[tuple[Problem, Position]]:
        """Training problems from ``start`` on, each with the position after it.

        Problems whose fingerprints are in ``seen`` are left out; those of the others are added to it.  None =
        duplicates stay.
        """
        for candidate, after in self.candidates(self.reader, start, tally):
            key = fingerprint64(candidate.problem)
            if self.holds_out(key):
                tally[HELD_OUT] += 1
            elif seen is not None and key in seen:
                tally[DUPLICATE] += 1
            else:
                tally[KEPT] += 1
                if seen is not None:
                    seen.add(key)
                yield problem_of(candidate), after

    @cached_property
    def cache_key(self) -> CacheKey:
        """The key of what this corpus makes of its rows: the problems, and which of them are held out."""
        return cache_key(self._parts() | {"normalised": normalised}, PREPARING_LIBRARIES)

    def _parts(self) -> dict[str, Any]:
        names = ("reader", "schema", "filters", "heldout_reader", "heldout_size", "heldout_share", "on_bad_row")
        return {"version": VERSION, **{name: getattr(self, name) for name in names}}

    @cached_property
    def _identity(self) -> str:
        return identity(self._parts())

    def fingerprint(self) -> str:
        """Changes when rows, mapping, filters or the held-out share do, and stays when a library is upgraded."""
        return self._identity


class CachedCorpus:
    """A corpus that is read once, without duplicates, into an Arrow file; the file is mapped and not loaded.

    Args:
        corpus: what to read.
        cache: folder of the Arrow files, which are named by the corpus' key.  A corpus with a part that has no key is
            read again by every run, into a folder that ends with it.
        progress: True = show a bar while reading.
    """

    def __init__(self, corpus: Corpus, cache: str, progress: bool = True) -> None:
        self.corpus, self.cache, self.progress = corpus, Path(cache).expanduser(), progress
        self._facts: dict[str, Any] = {}
        self._own: TemporaryDirectory[str] | None = None

    def heldout(self) -> list[Problem]:
        return self.corpus.heldout()

    def report(self) -> dict[str, int]:
        return dict(self._facts.get("rows", {}))

    def note(self) -> str:
        """Why prepared problems are not kept, in one line; empty if they are."""
        unknown = self.corpus.cache_key.unknown
        return f"prepared problems are not kept: {unknown} has no source file to hash" if unknown else ""

    def fingerprint(self) -> str:
        """A hash of all prepared problems and of the held-out ones."""
        heldout = stable_hash(repr([(problem.problem, problem.answer) for problem in self.heldout()]))
        return f"{self._facts[CONTENT]} {heldout.hex()}"

    def train(self) -> Sequence[Problem]:
        """All training problems.

        Raises:
            ValueError: no problem is left; the message says what became of the rows.
        """
        key, unknown = self.corpus.cache_key
        if unknown and self._own is None:
            self._own = TemporaryDirectory(prefix="hapo-")
        path = (Path(self._own.name) if self._own else self.cache) / f"{key}.arrow"
        facts = path.with_suffix(".json")
        if not (facts.is_file() and path.is_file()):
            with appearing(path, shared=True) as draft:
                made = self._write(draft)
            with appearing(facts, shared=True) as draft:  # the last to appear: without it the set is read again
                draft.write_text(json.dumps(made))
        self._facts = json.loads(facts.read_text())
        if not self._facts["rows"].get(KEPT):
            rows = tally_line(Counter(self._facts["rows"]))
            raise ValueError(f"{self.corpus.reader.name}: no row is left to train on: {rows}")
        return _ArrowProblems(path)

    def _write(self, path: Path) -> dict[str, Any]:
        """Write the problems as an Arrow file; what became of the rows, and a hash of the problems."""
        import pyarrow
        from rich.progress import track

        tally, content = Counter[str](), hashlib.blake2b(digest_size=16)
        schema = pyarrow.schema(
            [
                *(("problem", "string"), ("solutions", pyarrow.list_(pyarrow.string()))),
                *(("answer", "string"), ("difficulty", "string")),
            ]
        )
        problems = (problem for problem, _ in self.corpus.stream(Position(), tally, set()))
        shown = track(problems, "reading", transient=True, disable=not self.progress)
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema) as writer:
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
                content.update(repr(rows).encode())
                writer.write_batch(pyarrow.RecordBatch.from_pylist(rows, schema))
        return {"rows": tally, CONTENT: content.hexdigest()}


class _ArrowProblems(Sequence[Problem]):
    """Problems in an Arrow file, which is mapped into memory."""

    def __init__(self, path: Path) -> None:
        from datasets import Dataset

        self._rows = Dataset.from_file(str(path))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = self._rows[int(index)]
        first, *others = row["solutions"] or [""]
        return Problem(row["problem"], first, row["answer"], tuple(others), row["difficulty"])


def problem_of(candidate: Candidate) -> Problem:
    """A candidate as a problem."""
    first, *others = candidate.solutions or ("",)
    label = candidate.level or candidate.source
    return Problem(candidate.problem, first, candidate.answer, tuple(others), label)


def tally_line(tally: Counter[str]) -> str:
    """What became of the rows, in one line, the most frequent outcome first."""
    return ", ".join(f"{count:,} {name}" for name, count in tally.most_common() if count) or "there are no rows"


def _batched(items: Iterable[Problem], size: int) -> Iterator[list[Problem]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch

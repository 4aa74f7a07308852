"""A data set as problems: rows are read, mapped to one shape and filtered; held-out problems are set apart.

:class:`Corpus` streams.  :class:`CachedCorpus` reads everything once into a file on disk; then its size is known, and
every epoch can be a permutation of all problems.  Neither holds the set in memory.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hapo_lit.contracts import check_part, made
from hapo_lit.data import held_out, prepared_files
from hapo_lit.data.filters import Filter, OverlapsEvaluation, fingerprint64, normalised
from hapo_lit.data.fingerprints import BY_CONTENT
from hapo_lit.data.held_out import HeldOut
from hapo_lit.data.outcomes import BAD_ROW, DUPLICATE, HELD_OUT, KEPT, nothing_left, tally_line
from hapo_lit.data.problems import Problem, problem_of
from hapo_lit.data.reader import LocalFiles, Origin, Position, RawRow, Reader, Unreadable
from hapo_lit.data.schemas import BadRow, Candidate, NoColumn, Plain, Schema
from hapo_lit.numerics.hashing import stable_hash
from hapo_lit.storage.atomic import appearing
from hapo_lit.storage.cache_key import CacheKey, cache_key, identity

VERSION = 3
"""To be raised when the same rows and filters give other problems; part of the fingerprint."""
PREPARING_LIBRARIES = ("datasets", "pyarrow")
"""What decides how rows are read."""


class Corpus:
    """Problems of a data set, streamed.

    Args:
        reader: where rows come from.
        schema: maps a row's columns.
        filters: each drops rows for one reason; a row is counted under the first that drops it.
        heldout: a reader of held-out problems in the same shape; all of them are evaluated on.  None = a hash of the
            problem chooses them among the rows of ``reader``.
        heldout_size: how many held-out problems at most; None = all of those in ``heldout``, else 256.
        heldout_share: of the problems of ``reader``, where ``heldout`` is None; None = 2 %, and up to 20 % of a set
            that is so small that 64 would not be held out.
        overlap: ``remove`` training problems that are also in ``heldout``, compared by normalised text, or ``keep``
            them; both are counted.
        on_bad_row: ``stop`` at a row that cannot be read, with its place, or ``skip`` and count it.
    """

    def __init__(
        self,
        reader: Reader,
        schema: Schema,
        filters: Sequence[Filter] = (),
        heldout: Reader | None = None,
        heldout_size: int | None = None,
        heldout_share: float | None = None,
        on_bad_row: str = "stop",
        overlap: str = "remove",
    ) -> None:
        for name, value, known in (("on_bad_row", on_bad_row, "stop skip"), ("overlap", overlap, "remove keep")):
            if value not in known.split():
                raise ValueError(f"data.source.{name} must be {known.replace(' ', ' or ')}, got {value!r}")
        if heldout_share is not None and not 0 < heldout_share < 1:
            raise ValueError(f"data.source.heldout_share must be between 0 and 1, got {heldout_share}")
        if heldout_size is not None and heldout_size < 1:
            raise ValueError(f"data.source.heldout_size must be at least 1, got {heldout_size}")
        for name, part, protocol in (("reader", reader, Reader), ("schema", schema, Schema)):
            check_part(f"data.source.{name}", part, protocol)
        for row_filter in filters:
            check_part("data.source.filters", row_filter, Filter)
        self.reader, self.schema, self.filters = reader, schema, list(filters)
        self.heldout_reader, self.heldout_size, self.heldout_share = heldout, heldout_size, heldout_share
        self.on_bad_row, self.overlap = on_bad_row, overlap
        self.first_bad_row = ""
        """Where the first row that could not be read is, and why."""
        reader.require(schema.columns)
        if heldout is not None:
            heldout.require(schema.columns)

    def candidates(self, reader: Reader, start: Position, tally: Counter[str]) -> Iterator[tuple[Candidate, Position]]:
        """Rows from ``start`` on that can be read and that no filter drops; ``tally`` counts the others by reason."""
        for candidate, kept, after in self._judged(reader, start, tally):
            if kept:
                yield candidate, after

    def _judged(
        self, reader: Reader, start: Position, tally: Counter[str]
    ) -> Iterator[tuple[Candidate, bool, Position]]:
        """Rows that can be read, each with whether all filters keep it."""
        filters = self.filters
        if reader is self.heldout_reader:  # which may well be one of the evaluation sets
            filters = [row_filter for row_filter in filters if not isinstance(row_filter, OverlapsEvaluation)]
        for row, origin, after in reader.rows(start):
            candidate = self._mapped(row, origin, tally)
            if candidate is None:
                continue
            reason = next((row_filter.reason for row_filter in filters if row_filter(candidate)), None)
            if reason is not None:
                tally[reason] += 1
            yield candidate, reason is None, after

    def _mapped(self, row: RawRow | Unreadable, origin: Origin, tally: Counter[str]) -> Candidate | None:
        """The row in the common shape; None if it cannot be read and such rows are skipped."""
        try:
            if isinstance(row, Unreadable):
                raise BadRow(row.reason)
            return made(self.schema, self.schema(row), Candidate)
        except BadRow as error:
            if self.on_bad_row == "stop":
                skip = "; on_bad_row=skip, in data.source or data.source.corpus, leaves such rows out"
                raise ValueError(f"{origin}: {error}{'' if isinstance(error, NoColumn) else skip}") from error
            self.first_bad_row = self.first_bad_row or f"{origin}: {error}"
            tally[BAD_ROW] += 1
            return None

    @cached_property
    def held_out(self) -> HeldOut:
        """The problems that the policy is evaluated on."""
        reader = self.heldout_reader or self.reader

        def rows(tally: Counter[str]) -> Iterator[tuple[Candidate, bool]]:
            return ((candidate, kept) for candidate, kept, _ in self._judged(reader, Position(), tally))

        if self.heldout_reader is None:
            return held_out.by_hash(rows, self.heldout_share, self.heldout_size)
        return held_out.of_file(rows, reader.name, self.heldout_size)

    def heldout(self) -> list[Problem]:
        """The problems that the policy is evaluated on.

        Raises:
            ValueError: there is none.
        """
        if not self.held_out.problems:
            name = (self.heldout_reader or self.reader).name
            raise ValueError(
                f"{name} gives no held-out problem ({tally_line(self.held_out.rows)}): look at the filters and "
                f"heldout_share"
            )
        return self.held_out.problems

    def notes(self) -> list[str]:
        """Which columns are read, how problems were held out, and which limits that met."""
        row = next((row for row, *_ in self.reader.rows(Position()) if not isinstance(row, Unreadable)), {})
        columns = self.schema.reads(row) if isinstance(self.schema, Plain) else ""
        return [*([f"columns: {columns}"] if columns else []), *self.held_out.notes]

    def nothing_left(self, tally: Counter[str]) -> str:
        """What to say where no row is left to train on."""
        bad = f"; the first bad row is {self.first_bad_row}" if self.first_bad_row else ""
        return f"{self.reader.name}: {nothing_left(tally)}{bad}"

    def holds_out(self, key: int) -> bool:
        """Whether the problem with this fingerprint is among the held-out ones, also those beyond ``heldout_size``."""
        return self.held_out.contains(key)

    def stream(
        self, start: Position, tally: Counter[str], seen: set[int] | None = None
    ) -> Iterator[tuple[Problem, Position]]:
        """Training problems from ``start`` on, each with the position after it.

        Problems whose fingerprints are in ``seen`` are left out; those of the others are added to it.  None =
        duplicates stay.
        """
        for candidate, after in self.candidates(self.reader, start, tally):
            key = fingerprint64(candidate.problem)
            outcome = self.outcome(key, seen or ())
            tally[outcome] += 1
            if outcome == KEPT:
                if seen is not None:
                    seen.add(key)
                yield problem_of(candidate), after

    def outcome(self, key: int, seen: Container[int]) -> str:
        """What becomes of the problem with this fingerprint, given those of the problems before it."""
        if self.holds_out(key) and (self.overlap == "remove" or self.heldout_reader is None):
            return HELD_OUT
        return DUPLICATE if key in seen else KEPT

    @cached_property
    def cache_key(self) -> CacheKey:
        """The key of what this corpus makes of its rows: the problems, and which of them are held out."""
        return cache_key(self._parts() | {"normalised": normalised}, PREPARING_LIBRARIES)

    def _parts(self) -> dict[str, Any]:
        names = (
            "reader",
            "schema",
            "filters",
            "heldout_reader",
            "heldout_size",
            "heldout_share",
            "on_bad_row",
            "overlap",
        )
        return {"version": VERSION, **{name: getattr(self, name) for name in names}}

    @cached_property
    def _identity(self) -> str:
        return identity(self._parts())

    def fingerprint(self) -> str:
        """Changes when rows, mapping, filters or the held-out share do, and stays when a library is upgraded."""
        of_files = any(isinstance(reader, LocalFiles) for reader in (self.reader, self.heldout_reader))
        return f"{BY_CONTENT if of_files else ''}{self._identity}"


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
        return [Problem(**{**item, "others": tuple(item["others"])}) for item in self._prepared()[1]["heldout"]]

    def report(self) -> dict[str, int]:
        return dict(self._facts.get("rows", {}))

    def notes(self) -> list[str]:
        """How problems were held out, how many training problems were among them, and why nothing is kept, if so."""
        unknown = self.corpus.cache_key.unknown
        kept = [f"prepared problems are not kept: {unknown} has no source file to hash"] if unknown else []
        return [*self._prepared()[1]["notes"], *kept]

    def fingerprint(self) -> str:
        """A hash of all prepared problems and of the held-out ones."""
        facts = self._prepared()[1]
        return f"{facts['content']} {stable_hash(json.dumps(facts['heldout'])).hex()}"

    def train(self) -> Sequence[Problem]:
        """All training problems.

        Raises:
            ValueError: no problem is left; the message says what became of the rows.
        """
        return _ArrowProblems(self._prepared()[0])

    def _prepared(self) -> tuple[Path, dict[str, Any]]:
        """The Arrow file, written if it is not there or damaged, and the facts on it."""
        key, unknown = self.corpus.cache_key
        if unknown and self._own is None:
            self._own = TemporaryDirectory(prefix="hapo-")
        path = (Path(self._own.name) if self._own else self.cache) / f"{key}.arrow"
        self._facts = self._facts or prepared_files.kept(path) or {}
        if not self._facts:
            with appearing(path, shared=True) as draft:
                made = self._write(draft)
                made |= {"heldout": list(map(asdict, self.corpus.heldout())), "notes": self._notes(made)}
            prepared_files.keep(path, made)
            self._facts = json.loads(json.dumps(made))  # as it is read
        return path, self._facts

    def _notes(self, made: Mapping[str, Any]) -> list[str]:
        count = made["overlapping"] if self.corpus.overlap == "keep" else made["rows"].get(HELD_OUT, 0)
        if self.corpus.heldout_reader is None or not count:
            return self.corpus.notes()
        done = "and are trained on" if self.corpus.overlap == "keep" else "and are left out"
        return [*self.corpus.notes(), f"overlap: {count:,} training rows are among the held-out problems {done}"]

    def _write(self, path: Path) -> dict[str, Any]:
        """Write the problems as an Arrow file; what became of the rows, how many are held out too, and a hash of all.

        Raises:
            ValueError: none is left.
        """
        import pyarrow
        from rich.progress import track

        tally, overlapping, content = Counter[str](), 0, hashlib.blake2b(digest_size=16)
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
                content.update(repr(rows).encode("utf-8", "surrogatepass"))
                overlapping += sum(self.corpus.holds_out(fingerprint64(p.problem)) for p in batch)
                writer.write_batch(pyarrow.RecordBatch.from_pylist(rows, schema))
        if not tally[KEPT]:
            raise ValueError(self.corpus.nothing_left(tally))
        return {"rows": tally, "overlapping": overlapping, "content": content.hexdigest()}


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


def _batched(items: Iterable[Problem], size: int) -> Iterator[list[Problem]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch

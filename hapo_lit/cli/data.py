"""``hapo data inspect``: what becomes of the training data's rows, how long they are, and ten of them; no policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import hydra
import numpy as np
from hydra import compose
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from hapo_lit.cli.bootstrap import config_folder
from hapo_lit.cli.setup import build, door, setting_up
from hapo_lit.data.collate import (
    PROMPT_LONG,
    TEACHER_ABSENT,
    TEACHER_LONG,
    TEACHER_REJECTED,
    TEACHER_USABLE,
    Encoded,
    encode,
    prompt_tokens,
)
from hapo_lit.data.corpus import DUPLICATE, HELD_OUT, KEPT, CachedCorpus, Corpus, problem_of, reasons
from hapo_lit.data.filters import fingerprint64
from hapo_lit.data.problems import Problem, ProblemSource
from hapo_lit.data.reader import Place, Position, Reader, Row, Unreadable
from hapo_lit.errors import cut

STREAM_ROWS = 20_000
"""How many rows of a stream are read; what is not streamed is read whole."""
TEACHERS = 1000
"""How many problems have their teachers judged."""
SHOWN = 10
"""How many problems are printed."""
CHUNK = 256
"""Prompts tokenised at once."""
QUANTILES = {"5 %": 0.05, "median": 0.5, "95 %": 0.95, "99 %": 0.99, "max": 1.0}
FATES = (TEACHER_USABLE, TEACHER_REJECTED, TEACHER_LONG, TEACHER_ABSENT)


@hydra.main(version_base="1.3", config_path=config_folder(), config_name="inspect")
@door
def main(config: DictConfig) -> None:
    """Read the training data once as a run would, and say what is in it."""
    if config.model.path is None:
        config.model.tokenizer = compose("pretrain").model.tokenizer  # the base policy's, without building its weights
    with setting_up():
        inspect(build(config, "data")[0], config.seed, Console())


def inspect(data: Any, seed: int, console: Console) -> None:
    """Print what became of the rows, lengths, and samples.

    Duplicates are counted over all that is read; a run on a stream drops those within a block only.

    Raises:
        ValueError: no row is left, with what became of every one.
    """
    console.print(f"reading {_name(data)}", markup=False, highlight=False)
    found = _Found(seed)
    pairs = problems(data.source, found.tally)
    while chunk := list(islice(pairs, CHUNK)):
        tokens = prompt_tokens([each.problem for each in chunk], data.tokenizer, data.template)
        for each, ids in zip(chunk, tokens, strict=True):
            found.add(each, len(ids), data.max_prompt_tokens)
    if not found.sample:
        raise ValueError(f"{_name(data)}: no row is left to train on: {reasons(found.tally)}")
    sample = [each.problem for each in found.sample]
    items = encode(
        sample,
        data.tokenizer,
        data.template,
        data.teacher_check,
        data.max_prompt_tokens,
        data.max_response_tokens,
        Counter(),
    )
    fates = [_fate(item, problem) for item, problem in zip(items, sample, strict=True)]
    if isinstance(data.source, Corpus) and found.tally.total() == STREAM_ROWS:
        console.print(f"stopped after {STREAM_ROWS:,} rows of the stream", highlight=False)
    _show_reasons(console, found.tally, Counter(fates))
    solutions = [data.template.response(problem.solution) for problem in sample if problem.solution]
    taught = data.tokenizer(solutions, add_special_tokens=False)["input_ids"] if solutions else []
    lengths = {
        "prompt tokens": found.prompts,
        f"teacher tokens, of {len(taught):,}": [len(each) + 1 for each in taught],  # and the end-of-sequence token
        "answer characters": found.answers,
    }
    _show_lengths(console, lengths)
    _show_samples(console, data.tokenizer, list(zip(found.sample, items, fates, strict=True)))
    if isinstance(data.source, Corpus | CachedCorpus) and not found.tally[HELD_OUT] and _own_heldout(data.source):
        console.print(
            "warning: no problem is held out, and a run needs some: set data.heldout_path or raise heldout_share",
            markup=False,
        )


class Seen(NamedTuple):
    """A training problem and where the data set says that it comes from."""

    problem: Problem
    source: str


class _Found:
    """What is remembered of the problems: lengths of all, and a sample of those that fit, chosen by ``seed``."""

    def __init__(self, seed: int) -> None:
        self.tally: Counter[str] = Counter()
        self.prompts: list[int] = []
        self.answers: list[int] = []
        self.sample: list[Seen] = []
        self._fitting = 0
        self._draw = np.random.default_rng(seed)

    def add(self, seen: Seen, tokens: int, limit: int) -> None:
        """Count a problem whose prompt has so many ``tokens``."""
        self.prompts.append(tokens)
        self.answers.append(len(seen.problem.answer))
        if tokens > limit:
            self.tally[KEPT] -= 1
            self.tally[PROMPT_LONG] += 1
            return
        self._fitting += 1
        if len(self.sample) < TEACHERS:
            self.sample.append(seen)
        elif (place := int(self._draw.integers(self._fitting))) < TEACHERS:
            self.sample[place] = seen


def problems(source: ProblemSource | Corpus, tally: Counter[str]) -> Iterator[Seen]:
    """The training problems, each once; ``tally`` counts them and what became of the other rows."""
    if not isinstance(source, Corpus | CachedCorpus):
        for problem in source.train():
            tally[KEPT] += 1
            yield Seen(problem, "")
        return
    corpus = source.corpus if isinstance(source, CachedCorpus) else source
    reader = _Watched(corpus.reader, STREAM_ROWS if isinstance(source, Corpus) else None)
    marks = set[int]()
    for candidate, _ in corpus.candidates(reader, Position(), tally):
        mark = fingerprint64(candidate.problem)
        fate = HELD_OUT if corpus.holds_out(mark) else DUPLICATE if mark in marks else KEPT
        tally[fate] += 1
        if fate == KEPT:
            marks.add(mark)
            yield Seen(problem_of(candidate), candidate.source)


class _Watched:
    """Another reader's first rows, with a bar; all of them where ``limit`` is None."""

    def __init__(self, reader: Reader, limit: int | None) -> None:
        self.reader, self.limit, self.name = reader, limit, reader.name

    def rows(self, start: Position) -> Iterator[tuple[Row | Unreadable, Place, Position]]:
        rows = islice(self.reader.rows(start), self.limit)
        bar = Console(stderr=True)
        yield from track(rows, "reading rows", self.limit, transient=True, console=bar, disable=not bar.is_terminal)

    def check(self, columns: Sequence[str]) -> None:
        self.reader.check(columns)

    def fingerprint(self) -> str:
        return self.reader.fingerprint()


def _name(data: Any) -> str:
    source = data.source.corpus if isinstance(data.source, CachedCorpus) else data.source
    return source.reader.name if isinstance(source, Corpus) else type(source).__name__


def _own_heldout(source: Corpus | CachedCorpus) -> bool:
    corpus = source.corpus if isinstance(source, CachedCorpus) else source
    return corpus.heldout_reader is None


def _fate(item: Encoded, problem: Problem) -> str:
    """Which of :data:`FATES` a problem's teacher met."""
    if item.teacher_tokens:
        return TEACHER_USABLE if item.teacher_reward > 0 else TEACHER_REJECTED
    return TEACHER_LONG if problem.solution else TEACHER_ABSENT


def _show_reasons(console: Console, tally: Counter[str], fates: Counter[str]) -> None:
    rows, judged = tally.total(), fates.total()
    table = Table(title="what became of the rows")
    table.add_column("")
    table.add_column("count", justify="right")
    table.add_column("share", justify="right")
    table.add_row("rows read", f"{rows:,}", "100.0 %")
    for name, count in sorted(tally.items(), key=lambda item: (item[0] != KEPT, -item[1])):
        table.add_row(name, f"{count:,}", f"{100 * count / rows:.1f} %")
    table.add_section()
    table.add_row("teachers looked at", f"{judged:,}", "100.0 %")
    for name in FATES:
        table.add_row(name, f"{fates[name]:,}", f"{100 * fates[name] / judged:.1f} %")
    console.print(table)


def _show_lengths(console: Console, lengths: dict[str, list[int]]) -> None:
    table = Table(title="lengths")
    table.add_column("")
    for name in QUANTILES:
        table.add_column(name, justify="right")
    for name, values in lengths.items():
        if values:
            found = np.quantile(values, list(QUANTILES.values()), method="inverted_cdf")
            table.add_row(name, *(f"{value:,}" for value in found))
    console.print(table)


def _show_samples(console: Console, tokenizer: Any, sample: Sequence[tuple[Seen, Encoded, str]]) -> None:
    """Some of the problems, evenly spaced; a teacher that fits as the policy would have written it."""
    every = max(1, len(sample) // SHOWN)
    for number, ((problem, source), item, fate) in enumerate(sample[::every][:SHOWN], 1):
        teacher = tokenizer.decode(item.teacher_tokens) if item.teacher_tokens else problem.solution
        facts = {
            "problem": _short(problem.problem, 600),
            "answer": _short(problem.answer),
            "source": source,
            "teacher": _short(teacher) if teacher else "",
            "verdict": fate,
        }
        table = Table(title=f"sample {number}", show_header=False, title_justify="left")
        for name, text in facts.items():
            if text:
                table.add_row(name, Text(text))
        console.print(table)


def _short(text: str, length: int = 300) -> str:
    """A text on one line, its middle left out if it is long."""
    return cut(text.strip().replace("\n", "⏎"), length)

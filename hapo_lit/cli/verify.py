"""``hapo verify``: checks and explains one answer, or scores a file of them.  It needs neither torch nor Hydra."""

from __future__ import annotations

import difflib
import hashlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table
from rich.text import Text
from yaml import YAMLError

from hapo_lit.cli.bootstrap import config_folder, one_line_errors, stop
from hapo_lit.errors import SetupError, nearest, one_line
from hapo_lit.verify import Checker, Conventions, Verdict
from hapo_lit.verify.answers import reference
from hapo_lit.verify.checking import RULES
from hapo_lit.verify.latex import normalise
from hapo_lit.verify.score_file import PredictionRow, ScoreTables, VerdictFile, read_rows

CHUNK = 512
"""So many rows are scored at once, and at most so many are lost when the process is killed."""
MOST_WORKERS = 4
OPTIONS = ("--file", "--out", "--set", "--workers", "--help")
NULLABLE = ("conventions.decimal_digits",)
USAGE = """\
usage: hapo verify GOLD COMPLETION [options]
       hapo verify --file rows.jsonl [--out verdicts.jsonl] [options]

Is COMPLETION, what a model wrote, a right answer where GOLD is one, and why?  The verdict is that of verifier=math in
training.  Exit status: 0 if it is correct, 1 if it is not, 2 on an error.  Answers may begin with a dash and
hold =; after `--` they may even begin with two dashes.

With --file it scores rows {"gold": TEXT, "prediction": TEXT}, one a line, and prints what decided them; where rows have
"expected": true or false, also how often the verdict differs, by "category", and which rows.  Exit status: 0 if the
file was scored, whatever the verdicts.

options:
  --file FILE       the rows, as JSON lines
  --out FILE        write a line {"row", "correct", "reason", "extracted", "seconds"} per row, counted from 0.
                    Run again after an interruption, it continues after the last complete line.  FILE.meta.json says
                    what the verdicts were made from; a file made from other rows or settings is refused
  --workers N       processes for algebra (default: the usable cores, at most 4)
  --set KEY=VALUE   a setting of conf/verifier/math.yaml; may be repeated

examples:
  hapo verify 1/2 'so the answer is \\boxed{0.5}'
  hapo verify -5 x=-5
  hapo verify 28% 0.28 --set conventions.percent_as_ratio=false
  hapo verify --file rows.jsonl --out verdicts.jsonl --workers 2 --set cpu_seconds=2"""


def main(arguments: Sequence[str]) -> None:
    """Check or score what the arguments name; exits with status 1 if a single answer is not correct."""
    texts, options, changes = _read(arguments)
    if "--help" in options:
        print(USAGE)
        return
    if len(texts) != (0 if "--file" in options else 2) or ("--out" in options and "--file" not in options):
        stop("give GOLD and COMPLETION, or --file FILE (and with it perhaps --out FILE); see `hapo verify --help`")
    try:
        with one_line_errors(SetupError, OSError, RuntimeError):  # RuntimeError: workers cannot start
            settings = configuration(changes)
            checker = _checker(settings)
            try:
                if "--file" in options:
                    score(Path(options["--file"]), options.get("--out"), checker, settings)
                elif not explain(texts[0], texts[1], checker):
                    raise SystemExit(1)
            finally:
                checker.close()
    except KeyboardInterrupt:
        print("hapo: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _read(arguments: Sequence[str]) -> tuple[list[str], dict[str, str], list[str]]:
    """The answers, the options, and the settings; whatever does not begin with two dashes is an answer."""
    texts: list[str] = []
    options: dict[str, str] = {}
    changes: list[str] = []
    waiting = list(arguments)
    if waiting == ["-h"]:
        waiting = ["--help"]
    while waiting:
        argument = waiting.pop(0)
        if argument == "--":
            texts += waiting
            break
        if not argument.startswith("--"):
            texts.append(argument)
            continue
        name, sign, value = argument.partition("=")
        if name not in OPTIONS:
            near = nearest(name, OPTIONS) or f"; the options are: {', '.join(OPTIONS)}"
            stop(f"there is no option {one_line(name)!r} (an answer that begins with -- goes after `--`){near}")
        if name == "--help":
            return [], {name: ""}, []
        if not sign:
            if not waiting:
                stop(f"{name} needs a value; see `hapo verify --help`")
            value = waiting.pop(0)
        if name == "--set":
            changes.append(value)
        elif name in options:
            stop(f"{name} was given twice")
        else:
            options[name] = value
    if "--workers" in options:
        changes.append(f"workers={options['--workers']}")
    return texts, options, changes


def configuration(changes: Sequence[str] = ()) -> dict[str, Any]:
    """``conf/verifier/math.yaml`` as dotted keys and their values, changed by these ``key=value``.

    Raises:
        SetupError: a key that nothing reads, or a value of another kind.
    """
    config: Any = OmegaConf.load(Path(config_folder()) / "verifier/math.yaml")
    default: dict[str, Any] = OmegaConf.to_container(config)  # type: ignore[assignment]
    nested = default.pop("conventions")
    found = {**default, **{f"conventions.{name}": value for name, value in nested.items()}}
    found = {key: value for key, value in found.items() if not key.endswith("_target_")}
    settings = {**found, "workers": min(MOST_WORKERS, _cores())}
    for change in changes:
        key, sign, _ = change.partition("=")
        if key not in found:
            last = {name.rpartition(".")[2]: name for name in found}
            close = difflib.get_close_matches(key.rpartition(".")[2], last, n=1, cutoff=0.7)
            advice = f"did you mean {last[close[0]]!r}?" if close else f"there are: {', '.join(found)}"
            raise SetupError(f"there is no setting {key!r}; {advice}")
        try:
            value: Any = OmegaConf.to_container(OmegaConf.from_dotlist([change]), resolve=True)
        except (OmegaConfBaseException, YAMLError, ValueError) as error:
            raise SetupError(f"{change!r} cannot be read: {error}") from error
        for part in key.split("."):
            value = value[part]
        if not ((sign and _fits(value, found[key])) or (value is None and sign and key in NULLABLE)):
            kind = {bool: "true or false", int: "a whole number", float: "a number", list: "a list [of, words]"}
            raise SetupError(f"{key} must be {kind[type(found[key])]}, got {change.partition('=')[2]!r}")
        settings[key] = value
    return settings


def _fits(value: object, default: object) -> bool:
    if isinstance(default, float):
        return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)
    if isinstance(default, list):
        return isinstance(value, list) and all(isinstance(word, str) for word in value)
    return type(value) is type(default)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _checker(settings: dict[str, Any]) -> Checker:
    inner = {key.partition(".")[2]: value for key, value in settings.items() if "." in key}
    outer = {key: value for key, value in settings.items() if "." not in key}
    try:
        return Checker(Conventions(**inner), **outer)
    except ValueError as error:
        raise SetupError(str(error)) from error


def explain(gold: str, completion: str, checker: Checker) -> bool:
    """Print the verdict on one answer and how it was reached; returns whether it is correct."""
    verdict = checker([gold], [completion])[0]
    rules = checker.conventions
    answers = {"reference": reference(gold, rules.fallbacks, rules.join_boxes), "answer": verdict.extracted}
    facts = {"correct": "yes" if verdict.correct else "no", "reason": verdict.reason, "route": verdict.route}
    facts |= {name: "none" if text is None else one_line(text) for name, text in answers.items()}
    facts |= {f"{name}, normalised": one_line(normalise(text)) for name, text in answers.items() if text is not None}
    table = Table(show_header=False)
    for name, fact in facts.items():
        table.add_row(name, Text(fact, overflow="fold"))
    Console().print(table)
    return verdict.correct


def score(path: Path, out: str | None, checker: Checker, settings: dict[str, Any]) -> None:
    """Check the rows of a file, write the verdicts to ``out`` if it is given, and print tables of them."""
    if not path.is_file():
        raise SetupError(f"{str(path)!r} does not exist or is no regular file; set --file")
    size = sum(1 for _ in read_rows(path))  # all lines are read before any is scored
    if not size:
        raise SetupError(f"{path} holds no rows")
    verdicts = None
    if out is not None:
        origin: dict[str, Any] = {key: value for key, value in settings.items() if key != "workers"}
        with path.open("rb") as file:
            origin |= {"rows": hashlib.file_digest(file, "blake2b").hexdigest()[:32], "rules": RULES}
        verdicts = VerdictFile(Path(out), origin, size)
    tables = ScoreTables()
    try:
        for row, verdict in scored(path, checker, verdicts, size):
            tables.add(row, verdict)
    except KeyboardInterrupt:
        if verdicts is not None:
            done = f"{verdicts.written:,} of {size:,} verdicts"
            print(f"hapo: {done} are in {out}; run again to continue", file=sys.stderr)
        raise
    finally:
        if verdicts is not None:
            verdicts.close()
    tables.show(Console())


def scored(
    path: Path, checker: Checker, file: VerdictFile | None, size: int
) -> Iterator[tuple[PredictionRow, Verdict]]:
    """Rows with their verdicts, in order: those of an earlier run first, then chunk by chunk."""
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    stream = read_rows(path)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("scoring rows", total=size)
        for verdict in file.read() if file else ():
            yield next(stream), verdict
        progress.update(bar, completed=file.written if file else 0)
        while chunk := list(islice(stream, CHUNK)):
            verdicts = checker([row.gold for row in chunk], [row.prediction for row in chunk])
            if file:
                file.write(verdicts)
            yield from zip(chunk, verdicts, strict=True)
            progress.advance(bar, len(chunk))

"""``hapo data inspect``: what becomes of the training data's rows, how long they are, and ten of them; no policy."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from hydra import compose
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hapo_lit.cli.data_report import RARE
from hapo_lit.cli.setup import build, setting_up
from hapo_lit.data.collate import TEACHER_OUTCOMES
from hapo_lit.data.inspection import Example, Inspection, inspect, source_name, unread_warning
from hapo_lit.data.outcomes import KEPT
from hapo_lit.errors import one_line, visible

SHOWN = 10
"""How many examples are printed."""
QUANTILES = {"5 %": 0.05, "median": 0.5, "95 %": 0.95, "99 %": 0.99, "max": 1.0}


def main(config: DictConfig) -> None:
    """Read the training data once as a run would, and say what is in it."""
    if own := config.model.path is None:
        config.model.tokenizer = compose("pretrain").model.tokenizer  # the base policy's, without building its weights
    console = Console(highlight=False, markup=False)
    with setting_up():
        data = build(config, "data")[0]
        console.print(f"reading {source_name(data.source)}")
        console.print(data.limits())
        if own:
            console.print("another tokenizer: model=hf model.path=FOLDER, or experiment=finetune model.path=FOLDER")
        found = inspect(
            data.source,
            data.tokenizer,
            data.template,
            data.teacher_check,
            data.max_prompt_tokens,
            data.max_response_tokens,
            config.seed,
        )
        unread = unread_warning(data.verifier, [example.problem.answer for example in found.examples])
    _show(console, found, data.tokenizer)
    if unread:
        console.print(unread)


def _show(console: Console, found: Inspection, tokenizer: Any) -> None:
    if found.stopped:
        console.print(f"stopped after {found.rows.total():,} rows of the stream")
    console.print(_outcomes(found))
    console.print(_lengths(found))
    step = max(1, len(found.examples) // SHOWN)
    for number, example in enumerate(found.examples[::step][:SHOWN], 1):
        console.print(_example(number, example, tokenizer))
    for note in found.notes:
        console.print(note)
    if found.lacks_heldout:
        console.print(
            "warning: no problem is held out, and a run needs some: set data.heldout_path or raise heldout_share"
        )


def _outcomes(found: Inspection) -> Table:
    rows = found.rows.total()
    teachers = Counter(example.encoded.teacher_outcome for example in found.examples)
    table = Table(title="what became of the rows")
    table.add_column("")
    table.add_column("count", justify="right")
    table.add_column("share", justify="right")
    table.add_row("rows read", f"{rows:,}", "100.0 %")
    for name, count in sorted(found.rows.items(), key=lambda item: (item[0] != KEPT, -item[1])):
        table.add_row(name, f"{count:,}", f"{100 * count / rows:.1f} %")
    table.add_section()
    table.add_row("teachers looked at", f"{len(found.examples):,}", "100.0 %")
    for name in (name for name in TEACHER_OUTCOMES if teachers[name] or name not in RARE):
        table.add_row(name, f"{teachers[name]:,}", f"{100 * teachers[name] / len(found.examples):.1f} %")
    return table


def _lengths(found: Inspection) -> Table:
    lengths = {
        "prompt tokens": found.prompt_tokens,
        f"teacher tokens, of {len(found.teacher_tokens):,}": found.teacher_tokens,
        "answer characters": found.answer_characters,
    }
    table = Table(title="lengths")
    table.add_column("")
    for name in QUANTILES:
        table.add_column(name, justify="right")
    for name, values in lengths.items():
        if values:
            quantiles = np.quantile(values, list(QUANTILES.values()), method="inverted_cdf")
            table.add_row(name, *(f"{value:,}" for value in quantiles))
    return table


def _example(number: int, example: Example, tokenizer: Any) -> Table:
    """An example; prompt and teacher are shown as the policy sees them, with all special tokens, and the teacher in
    full where it does not fit."""
    problem, tokens = example.problem, example.encoded.teacher_tokens
    facts = {
        "problem": one_line(problem.problem, 600),
        "prompt": visible(tokenizer.decode(example.encoded.tokens), 600),
        "answer": one_line(problem.answer, 300),
        "source": example.source,
        "teacher": one_line(tokenizer.decode(tokens) if tokens else problem.solution, 300),
        "verdict": example.encoded.teacher_outcome,
    }
    table = Table(title=f"sample {number}", show_header=False, title_justify="left")
    for name, text in facts.items():
        if text:
            table.add_row(name, Text(text))
    return table

"""Rows of subtractions in files, and corpora and datamodules that read them."""

from __future__ import annotations

import json
from functools import partial

import pandas as pd
import pyarrow
from torch.utils.data import DataLoader

from hapo_lit.data.corpus import Corpus
from hapo_lit.data.datamodule import MathDataModule
from hapo_lit.data.filters import NoAnswer, Proof
from hapo_lit.data.loading import BatchStream, start_worker
from hapo_lit.data.reader import LocalFiles
from hapo_lit.data.schemas import Plain
from hapo_lit.data.teachers import TrustedTeachers
from hapo_lit.data.templates import PlainTemplate
from hapo_lit.verify.exact import ExactVerifier

MIXED = (".jsonl", ".parquet", ".arrow")
LINES = (".jsonl", ".jsonl", ".jsonl")


def row(number, **changes):
    return {
        "problem": f"Compute {number}-1.",
        "solution": rf"\boxed{{{number - 1}}}",
        "answer": str(number - 1),
        **changes,
    }


def write(path, rows):
    """Rows in the format of the path's suffix; the path as text."""
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path, row_group_size=3)
    elif path.suffix == ".arrow":
        table = pyarrow.Table.from_pylist(rows)
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, 3)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(content) + "\n" for content in rows))
    return str(path)


def write_three(folder, suffixes):
    """Forty problems in three files, with a proof, a duplicate and an answer that is missing; a pattern for them."""
    rows = [row(number) for number in range(2, 42)]
    parts = (
        rows[:14],
        [*rows[14:27], row(99, answer="proof"), row(3)],
        [*rows[27:], row(98, answer="notfound")],
    )
    for name, suffix, part in zip("abc", suffixes, parts, strict=True):
        write(folder / f"{name}{suffix}", part)
    return str(folder / "*.*")


def corpus(files, **settings):
    settings = {"filters": [NoAnswer(), Proof()], "heldout_share": 0.1, "heldout_size": 3, **settings}
    return Corpus(LocalFiles(files), Plain(), **settings)


def datamodule(source, tokenizer, prompts_per_step=4, check=None, **settings):
    settings = {"buffer": 8, "max_prompt_tokens": 40, "max_response_tokens": 40, **settings}
    return MathDataModule(
        source,
        tokenizer,
        PlainTemplate(),
        check or TrustedTeachers(),
        ExactVerifier(),
        prompts_per_step,
        **settings,
    )


def first_batches(data, count, rank=0, world=1, workers=0):
    """The next batches of a datamodule as a loader gives them: prompt ids, and the cursor after each."""
    data.setup()
    stream = BatchStream(partial(data.batches, rank, world))
    batches = iter(DataLoader(stream, batch_size=None, num_workers=workers, worker_init_fn=start_worker))
    found = [next(batches) for _ in range(count)]
    return [(batch.prompt_ids.tolist(), batch.cursor) for batch in found]

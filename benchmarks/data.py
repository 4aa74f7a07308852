"""What the data cost: memory while a million rows are streamed, problems a second, and a corpus cached on disk.

    python benchmarks/data.py                    # a million rows in the shape of NuminaMath-1.5
    python benchmarks/data.py --rows 50000

The rows are invented: words of a made-up lexicon by Zipf's law, digits and LaTeX, about 300 characters a problem and
1,200 a solution.  8 % of the boxes say the answer in another way, so that algebra has to decide, and 2 % are wrong.
CPU seconds are of all processes together.  Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow
import torch
from pyarrow import parquet
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hapo_lit.data import filters
from hapo_lit.data.corpus import CachedCorpus, Corpus
from hapo_lit.data.datamodule import MathDataModule
from hapo_lit.data.outcomes import tally_line
from hapo_lit.data.reader import LocalFiles
from hapo_lit.data.schemas import Numina15
from hapo_lit.data.teachers import TeacherCheck, TrustedTeachers, VerifiedTeachers
from hapo_lit.data.templates import ChatTemplate
from hapo_lit.data.training_set import StreamedSet
from hapo_lit.verify.verifier import MathVerifier

FILES, CHUNK, BATCH, WARM_ROWS = 8, 10_000, 128, 20_000
QWEN_VOCABULARY = 151_643
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATE = ChatTemplate("Please reason step by step, and put your final answer within \\boxed{}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--measured", type=int, default=16_384, help="problems in a measurement of throughput")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        with timed(f"{options.rows:,} rows written"):
            write(Path(folder), options.rows)
        size = sum(file.stat().st_size for file in Path(folder).glob("*.parquet"))
        print(f"{size / 2**20:,.0f} MiB of Parquet in {FILES} files, {os.cpu_count()} cores", flush=True)
        with timed("tokenizer trained"):
            tokenizer = trained(Path(folder))
        print(f"vocabulary: {len(tokenizer):,} tokens, all that the text gives up to Qwen's {QWEN_VOCABULARY:,}")
        memory(folder, tokenizer)  # first, while nothing that was freed can hide what grows
        cached(folder)
        throughput(folder, tokenizer, options.measured)


# -- rows --------------------------------------------------------------------------------------------------------------


def write(folder: Path, rows: int) -> None:
    """Parquet files of invented rows, a chunk at a time."""
    generator = np.random.default_rng(0)
    sentences = invented(generator)
    shares = [(rows * (index + 1)) // FILES - (rows * index) // FILES for index in range(FILES)]
    for index, size in enumerate(shares):
        writer = None
        for start in range(0, size, CHUNK):
            table = pyarrow.table(columns(generator, sentences, min(CHUNK, size - start)))
            writer = writer or parquet.ParquetWriter(folder / f"train-{index}.parquet", table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()


def invented(generator: np.random.Generator) -> list[str]:
    """Sentences of words, numbers and formulas, about 75 characters each."""
    heads, tails = [*"bcdfghklmnprstvw", "st", "tr", "pl", "br", "ch"], ["", "n", "r", "s", "t", "l", "nd", "st"]
    syllables = [head + vowel + tail for head in heads for vowel in ("a", "e", "i", "o", "u", "ea") for tail in tails]
    lexicon = ["".join(generator.choice(syllables, size)) for size in generator.integers(1, 5, 60_000)]
    weights = 1 / np.arange(10, 60_010)
    words = iter(generator.choice(lexicon, 600_000, p=weights / weights.sum()).tolist())
    formulas = (r"$\frac{{{}}}{{{}}}$", r"$x^{} + {}$", r"$\sqrt{{{}}} = {}$", "{}.{}", r"$a_{} \le {}$")
    numbers = iter(generator.integers(1, 1000, (60_000, 2)).tolist())
    sentences = []
    for shape in generator.integers(0, len(formulas), 50_000).tolist():
        text = [next(words) for _ in range(8)]
        text.insert(4, formulas[shape].format(*next(numbers)))
        sentences.append(" ".join(text).capitalize() + ".")
    return sentences


def columns(generator: np.random.Generator, sentences: list[str], size: int) -> dict[str, list[str]]:
    """A chunk of rows in NuminaMath-1.5's columns; filters drop one in eight."""
    questions, solutions = (
        generator.integers(0, len(sentences), (size, 3)).tolist(),
        generator.integers(0, len(sentences), (size, 15)),
    )
    first, second = generator.integers(2, 10_000, size).tolist(), generator.integers(2, 100, size).tolist()
    numbers = generator.random((size, 2)).tolist()
    table: dict[str, list[str]] = {name: [] for name in (*Numina15.columns, "source")}
    for asked, told, a, b, (kind_number, box_number) in zip(
        questions, solutions.tolist(), first, second, numbers, strict=True
    ):
        answer = (str(a), rf"\frac{{{a}}}{{{b}}}", rf"{b}\sqrt{{{a}}}", f"({a}, {b})")[a % 4]
        box = answer if box_number > 0.1 else rf"{answer} + 1 - 1" if box_number > 0.02 else str(a + 1)
        problem = " ".join([*(sentences[index] for index in asked), f"Find it for {a} and {b} in {kind_number:.6f}."])
        if kind_number < 0.02:
            problem += " [asy] draw((0,0)--(1,1)); [/asy]"
        kind = "proof" if kind_number > 0.97 else "MCQ" if kind_number > 0.94 else "math-word-problem"
        table["problem"].append(problem)
        table["solution"].append(" ".join(sentences[index] for index in told) + rf" So \boxed{{{box}}}.")
        table["answer"].append("proof" if kind == "proof" else "notfound" if 0.02 < kind_number < 0.04 else answer)
        table["question_type"].append(kind)
        table["problem_is_valid"].append("Yes")
        table["solution_is_valid"].append("Incomplete" if 0.04 < kind_number < 0.06 else "Yes")
        table["source"].append("olympiads" if a % 2 else "cn_k12")
    return table


def trained(folder: Path) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer as Qwen's, trained on the first rows."""

    def texts() -> Iterator[str]:
        groups = parquet.ParquetFile(folder / "train-0.parquet").iter_batches(1000, columns=["problem", "solution"])
        for group, _ in zip(groups, range(20), strict=False):
            yield from (text for column in group.columns for text in column.to_pylist())

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts(),
        trainers.BpeTrainer(
            vocab_size=QWEN_VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=special[0], eos_token=special[2], chat_template=CHAT
    )


# -- measurements ------------------------------------------------------------------------------------------------------


def corpus(folder: str) -> Corpus:
    """The invented rows as ``data=numina`` would read them."""
    wanted = [
        filters.MarkedInvalid(),
        filters.NoAnswer(),
        filters.Proof(),
        filters.MultipleChoice(),
        filters.Figure(),
        filters.AnswerUnparsable(),
        filters.SourceNotAllowed(),
    ]
    return Corpus(LocalFiles(f"{folder}/*.parquet"), Numina15(), wanted, on_bad_row="skip")


def module(folder: str, tokenizer: Any, check: TeacherCheck, workers: int) -> MathDataModule:
    return MathDataModule(
        corpus(folder), tokenizer, TEMPLATE, check, MathVerifier(), BATCH, 1024, 2048, workers=workers
    )


def throughput(folder: str, tokenizer: Any, measured: int) -> None:
    """Problems a second, teachers and all, from a stream that has been running for a while."""
    print(f"{measured:,} problems tokenised, judged and batched (limit 2,000 a second):")
    for check in (TrustedTeachers(), VerifiedTeachers(MathVerifier())):
        for workers in (0, 1, 2):
            data = module(folder, tokenizer, check, workers)
            batches = iter(data.train_dataloader())
            for _ in range(4096 // BATCH):
                next(batches)
            started, worked = time.perf_counter(), cpu()
            usable = [next(batches).teacher_usable.float().mean().item() for _ in range(measured // BATCH)]
            wall, worked = time.perf_counter() - started, cpu() - worked
            del batches
            print(
                f"  {type(check).__name__:16s} workers {workers}: {measured / wall:7,.0f} a second, "
                f"{1e6 * worked / measured:5.0f} CPU µs each, {100 * np.mean(usable):.0f} % of the teachers usable",
                flush=True,
            )


def memory(folder: str, tokenizer: Any) -> None:
    """Resident memory over an epoch of the stream: all rows are read, every sixteenth batch is tokenised, which is the
    work of one loader process of sixteen."""
    data = module(folder, tokenizer, TrustedTeachers(), 0)
    training_set = data.training_set
    assert isinstance(training_set, StreamedSet)
    started, worked, early, tally = time.perf_counter(), cpu(), 0.0, Counter[str]()
    for batch in data.batches(0, 1, 0, 16):
        if batch.cursor[0]:  # the next epoch
            break
        tally = Counter(training_set.ordering.tally)
        if not early and tally.total() >= WARM_ROWS:
            early = resident()
    wall, late = time.perf_counter() - started, resident()
    print(f"an epoch of the stream: {wall:.0f} s, {cpu() - worked:.0f} CPU s")
    print(f"  rows: {tally_line(tally)}")
    print(f"  resident after {WARM_ROWS:,} rows {early:,.0f} MB, at the end {late:,.0f} MB: ", end="")
    print(f"growth {late - early:,.0f} MB (limit 200)", flush=True)


def cached(folder: str) -> None:
    """A corpus that is read into a file, and random batches from it."""
    before, mapped = resident(), resident("RssFile")
    source = CachedCorpus(corpus(folder), f"{folder}/cache", progress=False)
    with timed("read and filtered into a file"):
        problems = source.train()
    with timed("found again"):
        problems = CachedCorpus(corpus(folder), f"{folder}/cache").train()
    generator = np.random.default_rng(0)
    times = []
    for _ in range(50):
        started = time.perf_counter()
        taken = [problems[index] for index in generator.integers(0, len(problems), BATCH).tolist()]
        times.append(time.perf_counter() - started)
    assert all(problem.answer for problem in taken)
    print(f"  {BATCH} at random of {len(problems):,}: {1e3 * median(times):.1f} ms (median of {len(times)})")
    files = resident("RssFile") - mapped
    print(f"  resident: {resident() - before:+,.0f} MB, of which {files:+,.0f} MB pages of the file, free to go")


class timed:
    """Prints what a block of work took."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        self.started, self.worked = time.perf_counter(), cpu()

    def __exit__(self, *_: object) -> None:
        wall = time.perf_counter() - self.started
        print(f"{self.name}: {wall:.1f} s, {cpu() - self.worked:.1f} CPU s", flush=True)


def cpu() -> float:
    """CPU seconds of this process group so far, living processes and those they have waited for."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[2]) == os.getpgrp():
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def resident(kind: str = "VmRSS") -> float:
    """Resident memory of this process in MB: all of it, or the pages of files alone."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[kind].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    main()

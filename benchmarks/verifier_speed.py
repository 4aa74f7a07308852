"""What the verifier costs: answers a second, the cheap ones alone, hostile ones among them, and math-verify beside it.

The answers are invented (``verify_answers.py``), so what is right is known, and every verdict is compared with it.
CPU time is that of the parent and its workers together.
"""

from __future__ import annotations

import logging
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.measuring import seconds
from benchmarks.processes_apart import Numbers
from benchmarks.verify_answers import InventedAnswer, invented
from hapo_lit.verify import Checker, Verdict, answers, latex, parsing
from hapo_lit.verify.algebra.reading import repair_percent_signs
from hapo_lit.verify.guard import refusal
from hapo_lit.verify.kinds import numbers, quantities

ANSWERS, COMPARED, NEIGHBOURS, SECONDS, WORKERS = 10_000, 600, 990, 10.0, 2
CHEAP = frozenset(["string", "number", "structure", "no_answer", "too_long", "refused"])
"""Reasons of verdicts that no worker had a part in."""

GOLD = r"\frac{1+\sqrt{5}}{2}"
HOSTILE = [
    rf"\sum_{{a=1}}^{{{99 - row}}}\sqrt{{\sum_{{b=1}}^{{99}}\sqrt{{\sum_{{c=1}}^{{99}}\sqrt{{a+b+c}}}}}}"
    for row in range(10)
]
"""They pass the guard and keep a worker busy for minutes."""


def realistic(quick: bool) -> Numbers:
    """All answers in one call: ``cpu`` and ``wall`` seconds of all, ``speed`` in answers a second of wall time.

    ``ms`` of CPU time an answer, and ``cheap``: µs of those that no worker saw, with cold caches.
    """
    rows = invented(400 if quick else ANSWERS)
    with started_checker() as checker:
        forget()
        below = descendants()
        verdicts: list[Verdict] = []
        used = seconds(lambda: verdicts.extend(ask(checker, rows)))
        cpu = used["cpu"] + descendants() - below
    right = sum(row.right == verdict.correct for row, verdict in zip(rows, verdicts, strict=True))
    assert right >= 0.99 * len(rows), f"{len(rows) - right} verdicts are not as the data was made"
    alone = [row for row, verdict in zip(rows, verdicts, strict=True) if verdict.reason in CHEAP]
    speed = {"speed": len(rows) / used["wall"], "ms": 1000 * cpu / len(rows)}
    return {"cpu": cpu, "wall": used["wall"], **speed, "cheap": cheap(alone)}


def cheap(rows: Sequence[InventedAnswer]) -> float:
    """CPU µs for one of those answers that no worker sees, by a new checker."""
    times = []
    for _ in range(5):
        checker = Checker()
        forget()
        verdicts: list[Verdict] = []
        used = seconds(lambda into=verdicts, ask_it=checker: into.extend(ask(ask_it, rows)))
        assert all(verdict.reason in CHEAP for verdict in verdicts)
        times.append(1e6 * used["cpu"] / len(rows))
    return statistics.median(times)


def math_verify(quick: bool) -> Numbers:
    """math-verify on a sample, in this process, as :func:`realistic`: it is given what is in the box, without a limit
    of time."""
    from math_verify import LatexExtractionConfig, parse, verify

    repair_percent_signs()  # of latex2sympy2_extended, which math-verify uses
    boxed = [row for row in invented(400 if quick else ANSWERS) if row.answer is not None]
    sample = random.Random(1).sample(boxed, 40 if quick else COMPARED)
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of what is done on purpose
    found = [LatexExtractionConfig()]

    def is_correct(row: InventedAnswer) -> bool:
        gold, answer = (
            parse(rf"\boxed{{{text}}}", found, parsing_timeout=None) for text in (row.gold, row.answer or "")
        )
        return bool(verify(gold, answer, timeout_seconds=None))

    for row in sample[:10]:
        is_correct(row)
    used = seconds(lambda: [is_correct(row) for row in sample])
    return {"speed": len(sample) / used["wall"], "ms": 1000 * used["cpu"] / len(sample)}


def hostile(quick: bool) -> Numbers:
    """Wall seconds of a step with answers that take a worker for minutes, and how many neighbours' verdicts changed."""
    limit, neighbours, many = (1.0, 99, 2) if quick else (SECONDS, NEIGHBOURS, len(HOSTILE))
    assert not any(refusal(latex.normalise(text)) for text in HOSTILE)
    others = invented(neighbours)
    step = list(others)
    for place, text in enumerate(HOSTILE[:many]):
        step.insert(place * len(step) // many, InventedAnswer(GOLD, rf"So it is $\boxed{{{text}}}$.", False, text))
    with started_checker(limit) as checker:
        alone = ask(checker, others)
    with started_checker(limit) as checker:
        forget()
        started = time.perf_counter()
        verdicts = ask(checker, step)
        wall = time.perf_counter() - started
    assert sum(verdict.reason == "timeout" for verdict in verdicts) >= many
    beside = [verdict for row, verdict in zip(step, verdicts, strict=True) if row.answer not in HOSTILE]
    changed = sum(one.correct != other.correct for one, other in zip(alone, beside, strict=True))
    return {"wall": wall, "changed": float(changed)}


class started_checker:
    """A checker whose workers have started; closed at the end."""

    def __init__(self, limit: float = SECONDS) -> None:
        self.checker = Checker(workers=WORKERS, seconds=limit)

    def __enter__(self) -> Checker:
        self.checker([GOLD], [r"\boxed{\frac{\sqrt{5}+1}{2}}"])
        return self.checker

    def __exit__(self, *_: object) -> None:
        self.checker.close()


def ask(checker: Callable[..., list[Verdict]], rows: Sequence[InventedAnswer]) -> list[Verdict]:
    """The verdicts on rows, in one call."""
    return checker([row.gold for row in rows], [row.response for row in rows])


def forget() -> None:
    """Empty the caches that all checkers share."""
    for part in (answers, latex, numbers, parsing, quantities):
        for function in vars(part).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()


def descendants() -> float:
    """CPU seconds of the processes below this one, living or waited for by another of them."""
    fields: dict[int, list[str]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields[int(stat.parent.name)] = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
    below, tick = [os.getpid()], os.sysconf("SC_CLK_TCK")
    for pid in below:
        below += [child for child, values in fields.items() if int(values[1]) == pid]
    return sum(sum(map(int, fields[pid][11:15])) for pid in below[1:]) / tick

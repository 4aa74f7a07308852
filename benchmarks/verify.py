"""What the verifier costs: answers a second, the cheap ones alone, hostile ones among them, and math-verify beside it.

    python benchmarks/verify.py                  # 10,000 answers, two workers
    python benchmarks/verify.py --answers 2000

The answers are invented (``verify_answers.py``), so what is right is known, and every verdict is compared with it.
CPU time is that of the parent and its workers together.  Wall times depend on the load, which is printed.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from verify_answers import InventedAnswer, invented

from hapo_lit.verify import Checker, Verdict, answers, latex, parsing
from hapo_lit.verify.algebra.reading import repair_percent_signs
from hapo_lit.verify.guard import refusal
from hapo_lit.verify.kinds import numbers, quantities

COMPARED, NEIGHBOURS, SECONDS = 600, 990, 10.0
CHEAP = frozenset(["string", "number", "structure", "no_answer", "too_long", "refused"])
"""Reasons of verdicts that no worker had a part in."""

GOLD = r"\frac{1+\sqrt{5}}{2}"
HOSTILE = [
    rf"\sum_{{a=1}}^{{{99 - row}}}\sqrt{{\sum_{{b=1}}^{{99}}\sqrt{{\sum_{{c=1}}^{{99}}\sqrt{{a+b+c}}}}}}"
    for row in range(10)
]
"""They pass the guard and keep a worker busy for minutes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    rows = invented(options.answers)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    seconds, verdicts = all_at_once(rows, options.workers)
    cheap([row for row, verdict in zip(rows, verdicts, strict=True) if verdict.reason in CHEAP])
    beside(rows, seconds)
    hostile(rows, options.workers)
    replaced()
    print(f"load {os.getloadavg()[0]:.1f}")


def all_at_once(rows: Sequence[InventedAnswer], workers: int) -> tuple[float, list[Verdict]]:
    """All answers in one call.  CPU seconds of an answer, and the verdicts."""
    golds, responses = [row.gold for row in rows], [row.response for row in rows]
    distinct = len({(row.gold, row.answer) for row in rows})
    length = statistics.mean(map(len, responses))
    checker = Checker(workers=workers)
    wall = clock(lambda: checker([GOLD], [r"\boxed{\frac{\sqrt{5}+1}{2}}"]))
    print(f"first call, which starts {workers} workers: {wall:.2f} s")
    forget()
    parent, below, started = time.process_time(), descendants(), time.perf_counter()
    verdicts = checker(golds, responses)
    wall, parent, below = time.perf_counter() - started, time.process_time() - parent, descendants() - below
    checker.close()
    count = len(rows)
    print(f"{count:,} answers of {length:.0f} characters, {distinct / count:.0%} distinct pairs, {workers} workers:")
    print(
        f"  {count / wall:,.0f} a second (at least 1,500): {wall:.2f} s, {(parent + below) / wall:.0%} of a core busy"
    )
    print(f"  parent {1e6 * parent / count:.0f} CPU µs an answer, {parent:.2f} s together")
    asked = len({(row.gold, v.extracted) for row, v in zip(rows, verdicts, strict=True) if v.reason not in CHEAP})
    print(f"  workers {1e6 * below / count:.0f} CPU µs an answer, {below:.2f} s together, ", end="")
    print(f"{1e3 * below / max(asked, 1):.1f} ms for each of {asked:,} pairs they were asked")
    reasons = Counter(verdict.reason for verdict in verdicts)
    print("  " + ", ".join(f"{reason} {number / count:.1%}" for reason, number in reasons.most_common()))
    wrong = [(row, v) for row, v in zip(rows, verdicts, strict=True) if row.right != v.correct]
    print(f"  {count - len(wrong):,} verdicts as the data was made, {len(wrong)} not")
    for row, verdict in wrong[:10]:
        print(f"    {row.gold} | {row.answer} | {verdict.reason}: {verdict.correct}")
    return (parent + below) / count, verdicts


def cheap(rows: Sequence[InventedAnswer]) -> None:
    """Those answers alone that no worker saw, by a new checker and by one that has read them before."""
    golds, responses = [row.gold for row in rows], [row.response for row in rows]
    times: dict[str, list[list[float]]] = {"cold": [], "warm": []}
    for _ in range(5):
        checker = Checker()
        forget()
        for name in times:
            started = time.process_time()
            verdicts = checker(golds, responses)
            mean = (time.process_time() - started) / len(rows)
            assert all(verdict.reason in CHEAP for verdict in verdicts)
            times[name].append([1e6 * statistics.median(verdict.seconds for verdict in verdicts), 1e6 * mean])
    print(f"{len(rows):,} answers decided without a worker, found and checked (at most 15 µs):")
    for name, runs in times.items():
        middle, mean = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"  caches {name}: median {middle:.1f} µs, mean {mean:.1f} CPU µs")


def beside(rows: Sequence[InventedAnswer], ours: float) -> None:
    """math-verify on a sample, in this process: it is given what is in the box, and has no limit of time."""
    from math_verify import LatexExtractionConfig, parse, verify

    repair_percent_signs()  # of latex2sympy2_extended, which math-verify uses
    sample = random.Random(1).sample([row for row in rows if row.answer is not None], min(COMPARED, len(rows) // 2))
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of what is done on purpose
    found = [LatexExtractionConfig()]

    def is_correct(row: InventedAnswer) -> bool:
        gold, answer = (
            parse(rf"\boxed{{{text}}}", found, parsing_timeout=None) for text in (row.gold, row.answer or "")
        )
        return bool(verify(gold, answer, timeout_seconds=None))

    for row in sample[:10]:
        is_correct(row)
    started = time.process_time()
    agreed = sum(is_correct(row) == row.right for row in sample)
    theirs = (time.process_time() - started) / len(sample)
    print(f"math-verify on {len(sample)} of them: {1e3 * theirs:.2f} CPU ms an answer, ", end="")
    print(f"{theirs / ours:.1f} times ours ({1e3 * ours:.2f} CPU ms); {agreed / len(sample):.1%} as the data was made")


def hostile(rows: Sequence[InventedAnswer], workers: int) -> None:
    """Answers that take a worker for minutes, spread over a step of others."""
    assert not any(refusal(latex.normalise(text)) for text in HOSTILE)
    step = list(rows[:NEIGHBOURS])
    for place, text in enumerate(HOSTILE):
        step.insert(
            place * len(step) // len(HOSTILE), InventedAnswer(GOLD, rf"So it is $\boxed{{{text}}}$.", False, text)
        )
    checker = Checker(workers=workers, seconds=SECONDS)
    alone = checker([row.gold for row in rows[:NEIGHBOURS]], [row.response for row in rows[:NEIGHBOURS]])
    checker.close()
    checker = Checker(workers=workers, seconds=SECONDS)
    checker([GOLD], [r"\boxed{\frac{\sqrt{5}+1}{2}}"])
    forget()
    started = time.perf_counter()
    verdicts = checker([row.gold for row in step], [row.response for row in step])
    wall, kills = time.perf_counter() - started, checker.kills
    checker.close()
    late = sum(verdict.reason == "timeout" for verdict in verdicts)
    others = [verdict for row, verdict in zip(step, verdicts, strict=True) if row.answer not in HOSTILE]
    same = sum(one.correct == other.correct for one, other in zip(alone, others, strict=True))
    print(f"{len(step):,} answers, {len(HOSTILE)} of them hostile: {wall:.1f} s (at most {SECONDS + 3:.0f}), ", end="")
    print(f"{late} met the limit, {kills} workers killed; ", end="")
    print(f"{same} of {len(others)} neighbours with the same verdict as without them")


def replaced() -> None:
    """A pair whose worker was killed before, against one whose worker waits."""
    checker = Checker()
    texts = [rf"\boxed{{\sqrt{{5}}+{number}}}" for number in range(22)]
    for text in texts[:2]:
        checker([GOLD], [text])
    times: list[tuple[float, float]] = []
    for one, two in zip(texts[2::2], texts[3::2], strict=True):
        usual = clock(lambda one=one: checker([GOLD], [one]))
        os.kill(max(children()), signal.SIGKILL)
        times.append((usual, clock(lambda two=two: checker([GOLD], [two]))))
    usual, after = (statistics.median(column) for column in zip(*times, strict=True))
    assert checker.kills == len(times)
    checker.close()
    print(f"a pair: {1e3 * usual:.1f} ms; with a killed worker to replace {1e3 * after:.1f} ms")


def forget() -> None:
    """Empty the caches that all checkers share."""
    for part in (answers, latex, numbers, parsing, quantities):
        for function in vars(part).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()


def clock(work: object) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - started


def descendants() -> float:
    """CPU seconds of the processes below this one, living or waited for by another of them."""
    return sum(children().values())


def children() -> dict[int, float]:
    """CPU seconds of each process below this one and of those that it has waited for."""
    fields: dict[int, list[str]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields[int(stat.parent.name)] = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
    below, tick = [os.getpid()], os.sysconf("SC_CLK_TCK")
    for pid in below:
        below += [child for child, values in fields.items() if int(values[1]) == pid]
    return {pid: sum(map(int, fields[pid][11:15])) / tick for pid in below[1:]}


if __name__ == "__main__":
    main()

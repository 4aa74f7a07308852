"""Grade-school word problems with worked solutions, made by reasoning-gym, split by template.

GSM-Symbolic (arXiv 2410.05229) turned problems of GSM8K into templates with names and numbers to fill in;
reasoning-gym has them as ``gsm_symbolic``.  Problems of one template differ in names and numbers only.  Therefore
whole templates are held out, so that learning a template by heart does not help on held-out problems.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from hapo_lit.rows import Questions
from hapo_lit.verify.judging import judge
from hapo_lit.verify.verifier import MathVerifier

VERSION = 1
"""To be raised when the same settings give other problems."""
KEPT, DUPLICATE, FALSE_STEP, REFUSED = "kept", "duplicate", "false_step", "refused_by_the_verifier"
SAMPLE_OUTCOMES = (KEPT, DUPLICATE, FALSE_STEP, REFUSED)
"""What may become of a problem that was sampled: :data:`FALSE_STEP` = a line of its solution states a false equation;
:data:`REFUSED` = the verifier does not accept the solution for the answer."""
TRAIN, HELDOUT = "train.jsonl", "heldout.jsonl"
PATIENCE = 1000
"""How many samples of a template in a row may be dropped before it counts as exhausted."""

_NUMBER = r"[$€£]?\d+(?:,\d{3})*(?:\.\d+)?%?"
_EQUATION = re.compile(
    rf"(?<![\w.,/%*+÷×-])(?<![-+*/x×÷=] )(?P<left>{_NUMBER}(?: ?[-+*/x×] ?{_NUMBER})+) ?= ?"
    rf"(?P<right>{_NUMBER}(?:/{_NUMBER})*)(?![\d(]|[.,]\d| ?[-+*/x×÷] ?[$€£\d(])"
)
_TOKEN = re.compile(rf"{_NUMBER}|[-+*/x×]")


class Split(NamedTuple):
    """Numbers of templates; no template is in both."""

    train: tuple[int, ...]
    heldout: tuple[int, ...]


def split(templates: list[int], heldout: int, seed: int) -> Split:
    """Choose ``heldout`` of the templates to be held out; the choice depends on the seed alone.

    Raises:
        ValueError: one side would have no template.
    """
    if not 0 < heldout < len(templates):
        raise ValueError(f"heldout templates must be from 1 to {len(templates) - 1}, got {heldout}")
    chosen = set(Random(f"hapo_lit split {seed}").sample(sorted(templates), heldout))
    return Split(tuple(sorted(set(templates) - chosen)), tuple(sorted(chosen)))


def write(out: Path, train: int, heldout: int, heldout_templates: int, seed: int) -> Counter[str]:
    """Write ``train.jsonl`` and ``heldout.jsonl`` with so many problems, equally many of each template.

    A row has ``problem``, ``solution`` (ending in a box), ``answer``, ``level`` (how many lines the solution has) and
    ``template``.  Templates take turns in a file, so that its first rows are a fair sample of it.

    Returns:
        how many of the sampled problems had each of the :data:`SAMPLE_OUTCOMES`.

    Raises:
        ModuleNotFoundError: reasoning-gym is not installed.
        ValueError: one side would have no template, or a template gives no further problem that is kept.
    """
    generators = _generators()
    parts = split(list(generators), heldout_templates, seed)
    tally = Counter(dict.fromkeys(SAMPLE_OUTCOMES, 0))
    verifier = MathVerifier()
    for name, templates, size in ((TRAIN, parts.train, train), (HELDOUT, parts.heldout, heldout)):
        with (out / name).open("w", encoding="utf-8") as file:
            for row in _rows(generators, templates, size, seed, verifier, tally):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return tally


def _generators() -> dict[int, Any]:
    """Templates by their numbers, without those that reasoning-gym marks as broken."""
    import reasoning_gym
    from reasoning_gym.arithmetic.gsm_symbolic.gsm_symbolic import tasks_ok

    generators = reasoning_gym.create_dataset("gsm_symbolic", seed=0, size=1).generators
    return {number: generators[number] for number in tasks_ok}


def _rows(
    generators: dict[int, Any],
    templates: tuple[int, ...],
    size: int,
    seed: int,
    verifier: MathVerifier,
    tally: Counter[str],
) -> Iterator[dict[str, Any]]:
    """``size`` rows, the templates taking turns."""
    streams = [_valid_rows(template, generators[template], seed, verifier, tally) for template in templates]
    for number in range(size):
        yield next(streams[number % len(streams)])
        tally[KEPT] += 1


def _valid_rows(
    template: int, generator: Any, seed: int, verifier: MathVerifier, tally: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Rows of one template without end: no duplicates, no false steps, and accepted by the verifier.

    Raises:
        ValueError: :data:`PATIENCE` samples in a row gave none.
    """
    known: set[str] = set()
    samples = last_kept = 0
    while samples - last_kept < PATIENCE:
        item = generator(Random(f"hapo_lit {seed} {template} {samples}"), 1.0)
        samples += 1
        row = _row(template, item)
        if row["problem"] in known:
            tally[DUPLICATE] += 1
        elif false_step(row["solution"]) is not None:
            tally[FALSE_STEP] += 1
        elif not judge(verifier, [row["solution"]], Questions([row["answer"]], [row["problem"]])).successes[0]:
            tally[REFUSED] += 1
        else:
            known.add(row["problem"])
            last_kept = samples
            yield row
    raise ValueError(f"template {template} gave no further valid problem in {PATIENCE} samples: ask for fewer problems")


def _row(template: int, item: dict[str, Any]) -> dict[str, Any]:
    """An item of reasoning-gym in our columns; its solution ends in ``#### answer``, that of a row in a box."""
    steps = item["metadata"]["answer_cot"].strip().split("\n")
    if not steps[-1].startswith("####"):
        raise ValueError(f"template {template}: a solution does not end in ####; reasoning-gym==0.1.25 has it")
    answer = str(item["answer"])
    body = [line.rstrip() for line in steps[:-1] if line.strip()]
    return {
        "problem": item["question"].strip(),
        "solution": "\n".join([*body, rf"The answer is \boxed{{{answer}}}."]),
        "answer": answer,
        "level": f"{len(body)} lines",
        "template": template,
    }


def false_step(solution: str) -> str | None:
    """The first equation between numbers that does not hold, or None.

    Some templates truncate a fraction where they must not ("13*0.5=6").  A relative difference below one in a million
    is taken for rounding.  Equations with words, units or brackets in them are not read.
    """
    for match in _EQUATION.finditer(solution):
        left, right = _value(match["left"]), _value(match["right"])
        if left is not None and right is not None and abs(left - right) * 10**6 > abs(right):
            return match[0]
    return None


def _value(text: str) -> Fraction | None:
    """The value of a sum of products; None = it divides by zero."""
    first, *rest = _TOKEN.findall(text)
    terms = [_number(first)]
    for sign, number in zip(rest[::2], map(_number, rest[1::2]), strict=True):
        if sign in "*x×":
            terms[-1] *= number
        elif sign == "/":
            if not number:
                return None
            terms[-1] /= number
        else:
            terms.append(number if sign == "+" else -number)
    return sum(terms, Fraction(0))


def _number(text: str) -> Fraction:
    value = Fraction(re.sub("[$€£,%]", "", text))
    return value / 100 if text.endswith("%") else value

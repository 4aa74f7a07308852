"""Grade-school word problems with worked solutions, made by reasoning-gym, split by template.

GSM-Symbolic (arXiv 2410.05229) turned problems of GSM8K into templates with names and numbers to fill in;
reasoning-gym has them as ``gsm_symbolic``.  Problems of one template differ in names and numbers only, so whole
templates are held out: a policy that has learnt a template by heart gains nothing on them.
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

from hapo_lit.verify.verifier import MathVerifier

VERSION = 1
"""Raised when the same settings start to give other problems."""
KEPT, DUPLICATE, FALSE_STEP, REFUSED = FATES = "kept", "duplicate", "false_step", "refused_by_the_verifier"
"""What becomes of a problem that was drawn: :data:`FALSE_STEP` = a line of its solution states a false equation;
:data:`REFUSED` = the verifier does not accept the solution for the answer."""
TRAIN, HELDOUT = "train.jsonl", "heldout.jsonl"
PATIENCE = 1000
"""So many draws in a row may be dropped before a template counts as exhausted."""

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
    """Which ``heldout`` templates are held out; depends on the seed and on nothing else.

    Raises:
        ValueError: no template would be left on one side.
    """
    if not 0 < heldout < len(templates):
        raise ValueError(f"heldout templates must be from 1 to {len(templates) - 1}, got {heldout}")
    chosen = set(Random(f"hapo_lit split {seed}").sample(sorted(templates), heldout))
    return Split(tuple(sorted(set(templates) - chosen)), tuple(sorted(chosen)))


def write(out: Path, train: int, heldout: int, heldout_templates: int, seed: int) -> Counter[str]:
    """Write ``train.jsonl`` and ``heldout.jsonl``, so many problems each, as equal shares of each template.

    A row has ``problem``, ``solution`` (ending in a box), ``answer``, ``level`` (how many lines the solution has) and
    ``template``.  The first problems of a file are of different templates, so that a part of it is fair too.

    Returns:
        what became of the problems that were drawn.

    Raises:
        ModuleNotFoundError: reasoning-gym is not installed.
        ValueError: there are no templates for one side, or a template gives nothing but problems that are dropped.
    """
    generators = _generators()
    parts = split(list(generators), heldout_templates, seed)
    tally = Counter(dict.fromkeys(FATES, 0))
    verifier = MathVerifier()
    for name, templates, size in ((TRAIN, parts.train, train), (HELDOUT, parts.heldout, heldout)):
        with (out / name).open("w", encoding="utf-8") as file:
            for row in _rows(generators, templates, size, seed, verifier, tally):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return tally


def _generators() -> dict[int, Any]:
    """Templates by their numbers, those that reasoning-gym uses itself: it marks the others as broken."""
    import reasoning_gym
    from reasoning_gym.arithmetic.gsm_symbolic.gsm_symbolic import tasks_ok

    every = reasoning_gym.create_dataset("gsm_symbolic", seed=0, size=1).generators
    return {number: every[number] for number in tasks_ok}


def _rows(
    generators: dict[int, Any],
    templates: tuple[int, ...],
    size: int,
    seed: int,
    verifier: MathVerifier,
    tally: Counter[str],
) -> Iterator[dict[str, Any]]:
    """``size`` rows, the templates taking turns."""
    wells = [_sound(template, generators[template], seed, verifier, tally) for template in templates]
    for number in range(size):
        yield next(wells[number % len(wells)])
        tally[KEPT] += 1


def _sound(
    template: int, generator: Any, seed: int, verifier: MathVerifier, tally: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Rows of one template that are new, right and accepted, for ever.

    Raises:
        ValueError: :data:`PATIENCE` draws in a row gave none.
    """
    seen: set[str] = set()
    draw = kept = 0
    while draw - kept < PATIENCE:
        item = generator(Random(f"hapo_lit {seed} {template} {draw}"), 1.0)
        draw += 1
        row = _row(template, item)
        if row["problem"] in seen:
            tally[DUPLICATE] += 1
        elif false_step(row["solution"]) is not None:
            tally[FALSE_STEP] += 1
        elif not verifier([row["solution"]], [row["answer"]])[0]:
            tally[REFUSED] += 1
        else:
            seen.add(row["problem"])
            kept = draw
            yield row
    raise ValueError(f"template {template} gave no further sound problem in {PATIENCE} draws: ask for fewer problems")


def _row(template: int, item: dict[str, Any]) -> dict[str, Any]:
    """An item of reasoning-gym in our columns; its solution ends in ``#### answer``, ours in a box."""
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

    Some templates cut a fraction off where they must not ("13*0.5=6").  A difference below one in a million is a
    rounded number.  Equations with words, units or brackets in them are not looked at.
    """
    for match in _EQUATION.finditer(solution):
        left, right = _value(match["left"]), _value(match["right"])
        if left is not None and right is not None and abs(left - right) * 10**6 > abs(right):
            return match[0]
    return None


def _value(text: str) -> Fraction | None:
    """Of a sum of products; None = a division by zero."""
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

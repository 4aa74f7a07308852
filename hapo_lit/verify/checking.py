"""From a reference and a response to a verdict.

The answer is found, and compared in this process if plain rules can decide it, else in a worker process.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import gcd
from typing import NamedTuple

from hapo_lit.verify import answers, guard, results
from hapo_lit.verify.comparer import MathComparer
from hapo_lit.verify.conventions import Conventions
from hapo_lit.verify.equality import Equality, PlainLeaves
from hapo_lit.verify.forms import Form, Leaf, texts_in
from hapo_lit.verify.kinds import numbers, quantities
from hapo_lit.verify.latex import normalise
from hapo_lit.verify.parsing import parse
from hapo_lit.verify.workers.messages import Code
from hapo_lit.verify.workers.pool import Pool

RULES = 3
"""Version of the rules; raised when one changes, so that verdicts on disk are not mixed."""

MAX_GOLD = 2000
"""Longer references equal their own text only."""
UNLIKE_ANY = "7\\pi+q^2r"
"""What references are compared with to see whether they can be read."""

REASONS = (
    "string",
    "number",
    "structure",
    "sympy",
    "no_answer",
    "too_long",
    "refused",
    "unevaluated",
    "unparsable",
    "timeout",
    "worker_died",
    "bad_gold",
)
_FROM_WORKER = {
    Code.EQUAL: "sympy",
    Code.NOT_EQUAL: "sympy",
    Code.UNPARSABLE: "unparsable",
    Code.BAD_GOLD: "bad_gold",
    Code.TIMEOUT: "timeout",
    Code.DIED: "worker_died",
}
_WRITTEN_FRACTION = re.compile(r"[-+]?(?:\\frac\{([0-9]+)\}\{([0-9]+)\}|([0-9]+)/([0-9]+))")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a response.

    Args:
        correct: whether it earns the reward.
        reason: what decided, or why nothing could: one of :data:`REASONS`.
        extracted: the answer that was found in the response, None if there was none.
        route: how it was found: ``box``, a fallback, or ``none``.
        seconds: how long the decision took by the wall clock.

    Example:
        >>> Verdict(correct=True, reason="number", extracted="0.5", route="box", seconds=2e-5).correct
        True
    """

    correct: bool
    reason: str
    extracted: str | None
    route: str = "none"
    seconds: float = 0.0


class _Gold(NamedTuple):
    text: str | None
    normal: str
    number: numbers.Number | None


class Checker:
    """Compares responses with references.

    Args:
        conventions: what counts as equal where opinions differ.
        workers: processes for algebra.
        cpu_seconds: CPU time for one answer.
        seconds: deadline of one answer by the wall clock.
        memory_mib: address space of one worker.
        remembered: how many verdicts of workers are kept.
    """

    def __init__(
        self,
        conventions: Conventions | None = None,
        workers: int = 1,
        cpu_seconds: float = 1.0,
        seconds: float = 10.0,
        memory_mib: int = 2048,
        remembered: int = 20_000,
    ) -> None:
        self.conventions = conventions or Conventions()
        self._equality = Equality(self.conventions, PlainLeaves(self.conventions))
        self._pool = Pool(MathComparer(self.conventions), workers, cpu_seconds, seconds, memory_mib)
        self._remembered = remembered
        self._known: OrderedDict[tuple[str, str], Code] = OrderedDict()
        self._gold = lru_cache(maxsize=remembered)(self._read_gold)

    @property
    def kills(self) -> int:
        """Workers lost since the start."""
        return self._pool.kills

    def __call__(
        self, golds: Sequence[str], responses: Sequence[str], problems: Sequence[str] | None = None
    ) -> list[Verdict]:
        """One verdict for each pair, in order.  Nothing that a model wrote makes this raise.

        Args:
            golds: bare answers, or solutions whose last box is the answer.
            responses: what the model wrote.
            problems: the problems' texts; None = they are not known, and no answer counts as copied from one.
        """
        verdicts: list[Verdict | None] = []
        open_pairs: dict[tuple[str, str], list[int]] = {}
        found: list[answers.Found] = []
        for row, (gold, response) in enumerate(zip(golds, responses, strict=True)):
            started = time.perf_counter()
            found.append(self.find(response))
            known = self._gold(gold)
            decided = self._decide(known, found[row].answer)
            if isinstance(decided, str):
                open_pairs.setdefault((known.normal, decided), []).append(row)
                verdicts.append(None)
            else:
                verdicts.append(Verdict(*decided, *found[row], time.perf_counter() - started))
        if open_pairs:
            outcomes = self._pool.compare(list(open_pairs))
            for (pair, rows), outcome in zip(open_pairs.items(), outcomes, strict=True):
                if outcome.code not in (Code.TIMEOUT, Code.DIED):
                    self._remember(pair, outcome.code)
                for row in rows:
                    verdicts[row] = Verdict(
                        outcome.code == Code.EQUAL, _FROM_WORKER[outcome.code], *found[row], outcome.seconds
                    )
        judged = [verdict for verdict in verdicts if verdict is not None]
        return self._that_are_results(judged, golds, problems or [""] * len(judged))

    def _that_are_results(
        self, verdicts: list[Verdict], golds: Sequence[str], problems: Sequence[str]
    ) -> list[Verdict]:
        """The verdicts, but for answers that leave to be computed what they should have computed."""
        option = self.conventions.unevaluated
        for row, (verdict, gold, problem) in enumerate(zip(verdicts, golds, problems, strict=True)):
            known = problem if option == "not_copied" else option == "wrong"
            if not (known and verdict.correct and verdict.reason != "string" and verdict.extracted):
                continue
            answer = normalise(verdict.extracted)
            if not results.has_operation(answer):
                continue
            left = results.unevaluated(parse(self._gold(gold).normal), parse(answer))
            if left and (option == "wrong" or results.any_stands_in(left, problem)):
                verdicts[row] = replace(verdict, correct=False, reason="unevaluated")
        return verdicts

    def can_read(self, references: Sequence[str]) -> list[bool]:
        """Which references can be read; a response earns the others letter by letter, or not at all."""
        known = [self._gold(reference) for reference in references]
        texts = [
            set()
            if gold.text is None or gold.number or len(gold.normal) > MAX_GOLD
            else set(texts_in(parse(gold.normal)))
            for gold in known
        ]
        pairs = sorted({(text, UNLIKE_ANY) for text in set().union(*texts) if not numbers.read(text)})
        outcomes = dict(zip(pairs, self._pool.compare(pairs), strict=True))
        unread = {text for (text, _), outcome in outcomes.items() if outcome.code not in (Code.EQUAL, Code.NOT_EQUAL)}
        return [
            gold.text is not None and len(gold.normal) <= MAX_GOLD and not unread & parts
            for gold, parts in zip(known, texts, strict=True)
        ]

    def find(self, response: str) -> answers.Found:
        """The answer in a response, by these conventions."""
        rules = self.conventions
        return answers.find(response, rules.fallbacks, rules.unfinished_thought_fails, rules.join_boxes)

    def close(self) -> None:
        """End the workers; the next call that needs some starts new ones."""
        self._pool.close()

    def _read_gold(self, gold: str) -> _Gold:
        text = answers.reference(gold, self.conventions.fallbacks, self.conventions.join_boxes)
        if text is not None and len(text) > MAX_GOLD:
            return _Gold(text, text, None)
        normal = normalise(text) if text is not None else ""
        return _Gold(text if normal else None, normal, numbers.read(normal))

    def _decide(self, gold: _Gold, answer: str | None) -> tuple[bool, str] | str:
        """A verdict and its reason, or the normalised answer if only a worker can tell."""
        if gold.text is None:
            return False, "bad_gold"
        if answer is None:
            return False, "no_answer"
        if answer == gold.text:
            return True, "string"
        if len(answer) > self.conventions.max_characters:
            return False, "too_long"
        if guard.CONTROL.search(answer):
            return False, "refused"
        number = numbers.read(answer)
        normal = answer if number else normalise(answer)
        if normal == gold.normal:
            return True, "string"
        if not normal:
            return False, "no_answer"
        if len(gold.normal) > MAX_GOLD:
            return False, "bad_gold"
        number = number or numbers.read(normal)
        if self.conventions.reduced_fractions and _unreduced(normal):
            return False, "number"
        if number and gold.number:
            return numbers.equal(gold.number, number, self.conventions.decimal_digits), "number"
        if not number and guard.refusal(normal):
            return False, "refused"
        left, right = parse(gold.normal), parse(normal)
        truth = self._equality(left, right)
        if truth is not None:
            return truth, "number" if _is_number(left) and _is_number(right) else "structure"
        if (code := self._known.get((gold.normal, normal))) is not None:
            self._known.move_to_end((gold.normal, normal))
            return code == Code.EQUAL, _FROM_WORKER[code]
        return normal

    def _remember(self, pair: tuple[str, str], code: Code) -> None:
        self._known[pair] = code
        if len(self._known) > self._remembered:
            self._known.popitem(last=False)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name not in ("_gold", "_known")}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._known = OrderedDict()
        self._gold = lru_cache(maxsize=self._remembered)(self._read_gold)


def _is_number(form: Form) -> bool:
    return isinstance(form, Leaf) and numbers.read(quantities.read(form.text).value) is not None


def _unreduced(answer: str) -> bool:
    match = _WRITTEN_FRACTION.fullmatch(answer)
    return match is not None and gcd(int(match[1] or match[3]), int(match[2] or match[4])) > 1


@lru_cache(maxsize=1)
def _default() -> Checker:
    """The checker of :func:`verify`, kept for the process: its workers take most of a second to start."""
    return Checker()


def verify(gold: str, response: str, problem: str = "") -> Verdict:
    """Whether a response ends in the right answer, by the default conventions.

    Args:
        gold: a bare answer, or a solution whose last box is the answer.
        response: what the model wrote.
        problem: the problem's text, from which an answer such as ``3+4`` must not be copied; empty = it is not known.

    Example:
        >>> verify(r"\\frac{1}{2}", r"so the answer is \\boxed{0.5}").correct
        True
    """
    return _default()([gold], [response], [problem])[0]

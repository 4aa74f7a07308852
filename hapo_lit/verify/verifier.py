"""The verifier for mathematics as training sees it: rewards, counters, and an alarm when it cannot be trusted."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence

import torch
from torch import Tensor

from hapo_lit.errors import VerifierError
from hapo_lit.verify.checking import REASONS, RULES, Checker, Verdict
from hapo_lit.verify.conventions import Conventions

TIMEOUT_LIMIT = 0.02
"""A larger share of answers that met a limit of time or memory stops the run: rewards would depend on the machine."""
WINDOW = 1000
"""The share is taken of at least so many answers."""
SMALLEST_STEP = 8
"""Calls with fewer answers may fail altogether without stopping the run."""

OWN_FAULTS = frozenset(["timeout", "worker_died", "bad_gold"])
"""Reasons of zeros that the verifier or the data cause, and not the policy."""


class MathVerifier:
    """1 if the response ends in the reference answer, by algebra where needed; what cannot be decided is 0 and counted.

    Args:
        conventions: what counts as equal where opinions differ.
        workers, cpu_seconds, seconds, memory_mib: see :class:`~hapo_lit.verify.checking.Checker`.
    """

    def __init__(
        self,
        conventions: Conventions | None = None,
        workers: int = 1,
        cpu_seconds: float = 1.0,
        seconds: float = 10.0,
        memory_mib: int = 2048,
    ) -> None:
        self.checker = Checker(conventions, workers, cpu_seconds, seconds, memory_mib)
        self.asks_for = ("problems",) if self.checker.conventions.unevaluated == "not_copied" else ()
        self._recent: deque[tuple[int, int]] = deque()
        self._metrics: dict[str, float] = {}

    def __call__(
        self, responses: Sequence[str], answers: Sequence[str], problems: Sequence[str] | None = None
    ) -> Tensor:
        """Rewards; without the ``problems``' texts no answer counts as copied from one.

        Raises:
            VerifierError: too many answers met a limit, or no answer of a whole step could be checked.
        """
        started, kills = time.perf_counter(), self.checker.kills
        verdicts = self.checker(answers, responses, problems)
        self._metrics = {
            "time/verify": time.perf_counter() - started,
            "verify/kills": float(self.checker.kills - kills),
            **shares(verdicts),
        }
        self._stop_if_broken(verdicts, answers)
        return torch.tensor([verdict.correct for verdict in verdicts], dtype=torch.float32)

    def can_read(self, references: Sequence[str]) -> list[bool]:
        """Which references can be read; a response earns the others letter by letter, or not at all."""
        return self.checker.can_read(references)

    def metrics(self) -> dict[str, float]:
        return self._metrics

    def fingerprint(self) -> str:
        """What decides a verdict that accepts; limits and workers only decide how many are reached."""
        return f"rules {RULES}, {self.checker.conventions}"

    def _stop_if_broken(self, verdicts: Sequence[Verdict], answers: Sequence[str]) -> None:
        failed = [row for row, verdict in enumerate(verdicts) if verdict.reason in OWN_FAULTS]
        if failed and len(failed) == len(verdicts) >= SMALLEST_STEP:
            reasons = Counter(verdict.reason for verdict in verdicts)
            raise VerifierError(
                f"the verifier could check none of {len(verdicts)} answers ({_counted(reasons)}), so every reward of "
                f"this step would be zero and say nothing of the policy; "
                f"{_example(verdicts[failed[0]], answers[failed[0]])}"
            )
        late = [row for row in failed if verdicts[row].reason != "bad_gold"]
        self._recent.append((len(verdicts), len(late)))
        while sum(count for count, _ in self._recent) - self._recent[0][0] >= WINDOW:
            self._recent.popleft()
        total, lost = (sum(column) for column in zip(*self._recent, strict=True))
        if total >= WINDOW and lost > TIMEOUT_LIMIT * total and late:
            raise VerifierError(
                f"{lost} of the last {total:,} answers met a limit of the verifier ({lost / total:.1%}, at most "
                f"{TIMEOUT_LIMIT:.0%} may), and their rewards would be zero for that: raise verifier.cpu_seconds or "
                f"verifier.memory_mib, or lower verifier.conventions.max_characters; "
                f"{_example(verdicts[late[-1]], answers[late[-1]])}"
            )


def shares(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """The share of each reason and each way of finding an answer, and the slowest hundredth in milliseconds."""
    count = max(len(verdicts), 1)
    reasons = Counter(verdict.reason for verdict in verdicts)
    routes = Counter(verdict.route for verdict in verdicts)
    slowest = sorted(verdict.seconds for verdict in verdicts)
    return {
        **{f"verify/{reason}": reasons[reason] / count for reason in REASONS},
        **{f"verify/from_{route}": routes[route] / count for route in ("box", "tag", "phrase", "bare")},
        "verify/p99_ms": 1000 * slowest[int(0.99 * (len(slowest) - 1))] if slowest else 0.0,
    }


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())


def _example(verdict: Verdict, gold: str) -> str:
    answer = (verdict.extracted or "")[:100]
    return f"for example ({verdict.reason}): reference {gold[-100:]!r}, answer {answer!r}"

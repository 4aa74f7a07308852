"""What counts as equal where mathematicians, graders and data sets disagree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ROUTES = ("tag", "phrase", "bare")
"""Where an answer is looked for when the response has no box."""
LOOSE_ROUTES = ("formula", "number")
"""Where other graders look as well: what is found there may be no answer."""

LOG_BASES = ("ten", "natural")
UNEVALUATED = ("right", "not_copied", "wrong")


@dataclass(frozen=True)
class Conventions:
    """Each option is one row of the table in ``docs/verifier.md``, which gives the reason of its default.

    Args:
        fallbacks: where to look when there is no box: ``tag`` (``<answer>``), ``phrase`` ("the answer is"), ``bare``
            (the response is nothing but an answer), ``formula`` (the last between dollars), ``number`` (the last).
        join_boxes: boxes that stand side by side are one list, where by default the last one counts.
        unfinished_thought_fails: a ``<think>`` that was never closed means no answer.
        percent_optional: 28% equals 28.
        percent_as_ratio: 28% equals 0.28.
        units_optional: which side may leave a unit out: either (True), none (False), the ``gold`` alone (5 cm is right
            where the reference is 5, and 5 wrong where it is 5 cm), or the ``answer`` alone.  Two that differ never
            agree.
        decimal_comma: ``3,5`` may be read as 3.5; ``0,5`` always may.
        reduced_fractions: an answer such as ``2/4`` is refused unless the reference is written that way.
        decimal_digits: significant digits a decimal needs to stand for a fraction or a root; None = it never does.
        check_chains: ``3 + 4 = 8`` equals nothing, where otherwise it equals 8.
        brackets_optional: ``1, 2`` equals ``(1, 2)``.
        letter_or_value: ``(B) 12`` equals both ``B`` and ``12``.
        base_optional: ``1011_2`` equals ``1011``.
        log_base: what ``\\log`` without a base is: ``ten`` or ``natural``.
        unevaluated: what ``3+4`` is where the reference is 7: ``right``, since the two are equal; ``wrong``, for data
            whose task is to compute; or ``not_copied``, wrong if it stands in the problem's text and right elsewhere.
        max_characters: longer answers are refused unread.
    """

    fallbacks: tuple[str, ...] = ROUTES
    join_boxes: bool = False
    unfinished_thought_fails: bool = True
    percent_optional: bool = True
    percent_as_ratio: bool = True
    units_optional: bool | Literal["gold", "answer"] = True
    decimal_comma: bool = False
    reduced_fractions: bool = False
    decimal_digits: int | None = 6
    check_chains: bool = True
    brackets_optional: bool = False
    letter_or_value: bool = True
    base_optional: bool = False
    log_base: str = "ten"
    unevaluated: str = "not_copied"
    max_characters: int = 300

    def __post_init__(self) -> None:
        object.__setattr__(self, "fallbacks", tuple(self.fallbacks))
        routes = ROUTES + LOOSE_ROUTES
        if unknown := set(self.fallbacks) - set(routes):
            raise ValueError(
                f"verifier.conventions.fallbacks: {', '.join(sorted(unknown))} is none of {', '.join(routes)}"
            )
        if self.units_optional not in (True, False, "gold", "answer"):
            raise ValueError(
                f"verifier.conventions.units_optional must be true, false, gold or answer, got {self.units_optional}"
            )
        if self.decimal_digits is not None and self.decimal_digits < 1:
            raise ValueError(
                f"verifier.conventions.decimal_digits must be at least 1 or null, got {self.decimal_digits}"
            )
        if self.log_base not in LOG_BASES:
            raise ValueError(
                f"verifier.conventions.log_base must be one of {', '.join(LOG_BASES)}, got {self.log_base!r}"
            )
        if self.unevaluated not in UNEVALUATED:
            raise ValueError(
                f"verifier.conventions.unevaluated must be one of {', '.join(UNEVALUATED)}, got {self.unevaluated!r}"
            )
        if self.max_characters < 1:
            raise ValueError(f"verifier.conventions.max_characters must be at least 1, got {self.max_characters}")

"""What a worker does with a pair: the rules of :mod:`hapo_lit.verify.equality`, with algebra for the formulas."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hapo_lit.verify.conventions import Conventions
from hapo_lit.verify.equality import Equality
from hapo_lit.verify.forms import texts_in
from hapo_lit.verify.kinds import quantities
from hapo_lit.verify.parsing import parse
from hapo_lit.verify.workers.messages import Code

if TYPE_CHECKING:
    from hapo_lit.verify.algebra.leaves import AlgebraLeaves


@dataclass
class MathComparer:
    """Compares two normalised answers.

    Args:
        conventions: what counts as equal where opinions differ.
    """

    conventions: Conventions
    preload: tuple[str, ...] = ("hapo_lit.verify.algebra.leaves",)

    def prepare(self) -> None:
        """Import the algebra and mend its parser."""
        os.environ["SYMPY_GROUND_TYPES"] = "python"
        from hapo_lit.verify.algebra.leaves import AlgebraLeaves
        from hapo_lit.verify.algebra.reading import repair_percent_signs

        repair_percent_signs()
        self._leaves: AlgebraLeaves = AlgebraLeaves(self.conventions)
        self._equality = Equality(self.conventions, self._leaves)

    def __call__(self, gold: str, answer: str) -> Code:
        self._leaves.clear()
        truth = self._equality(parse(gold), parse(answer))
        if truth is not None:
            return Code.EQUAL if truth else Code.NOT_EQUAL
        return Code.BAD_GOLD if self._leaves.unread & set(_formulas(gold)) else Code.UNPARSABLE


def _formulas(gold: str) -> Iterator[str]:
    """The formulas of a reference as the leaves see them."""
    for text in texts_in(parse(gold)):
        yield from (text, quantities.read(text).value)

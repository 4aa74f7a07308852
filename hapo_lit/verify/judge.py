"""What a worker does with a pair: the rules of :mod:`~hapo_lit.verify.equality` with algebra for leaves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hapo_lit.verify import quantities
from hapo_lit.verify.conventions import Conventions
from hapo_lit.verify.equality import Equality
from hapo_lit.verify.forms import Leaf, parse
from hapo_lit.verify.pool import Code

if TYPE_CHECKING:
    from hapo_lit.verify.algebra import Algebra


@dataclass
class MathJudge:
    """Compares two normalised answers.

    Args:
        conventions: what counts as equal where opinions differ.
    """

    conventions: Conventions
    preload: tuple[str, ...] = ("hapo_lit.verify.algebra",)

    def prepare(self) -> None:
        """Import the algebra and mend its parser."""
        os.environ["SYMPY_GROUND_TYPES"] = "python"
        from hapo_lit.verify.algebra import Algebra

        _repair_percent()
        self._leaves: Algebra = Algebra(self.conventions)
        self._equality = Equality(self.conventions, self._leaves)

    def __call__(self, gold: str, answer: str) -> Code:
        self._leaves.clear()
        truth = self._equality(parse(gold), parse(answer))
        if truth is not None:
            return Code.EQUAL if truth else Code.NOT_EQUAL
        return Code.BAD_GOLD if self._leaves.unread & set(_formulas(parse(gold))) else Code.UNPARSABLE


def _formulas(form: object) -> Iterator[str]:
    """The formulas of a reference as the leaves see them."""
    if isinstance(form, Leaf):
        yield from (form.text, quantities.read(form.text).value)
    elif isinstance(form, tuple):
        for part in form:
            yield from _formulas(part)


def _repair_percent() -> None:
    """Give the parser generated for ANTLR 4.9.3 the rule it lacks.

    latex2sympy2_extended 1.11.0 asks each atom for ``FUNC_GAMMA`` before it looks at percent signs; without the rule
    every formula with a percent sign raises.  Hydra pins ANTLR 4.9, so this is the parser we get.
    """
    from latex2sympy2_extended.gen.antlr4_9_3.PSParser import PSParser

    if not hasattr(PSParser.AtomContext, "FUNC_GAMMA"):
        PSParser.AtomContext.FUNC_GAMMA = lambda _: None

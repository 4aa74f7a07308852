"""What the rules of all kinds of answers share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from hapo_lit.verify.conventions import Conventions
from hapo_lit.verify.forms import Form, Grid, Relation
from hapo_lit.verify.kinds import numbers

Truth = bool | None
"""Whether two answers are equal; None: only algebra can tell."""


class Leaves(Protocol):
    """How formulas are compared: without algebra in the trainer's process, with it in a worker."""

    def values(self, left: str, right: str) -> Truth:
        """Whether two formulas without unit, percent sign or structure are equal."""

    def rounds(self, exact: str, decimal: numbers.Number) -> Truth:
        """Whether a decimal is what a formula without unit rounds, or is cut, to."""

    def relations(self, left: Relation, right: Relation) -> Truth:
        """Whether two chains of relations are equivalent."""

    def matrices(self, grid: Grid, formula: str) -> Truth:
        """Whether a formula of matrices has this value."""


class Rules(Protocol):
    """What the rules of one kind may ask for; :class:`~hapo_lit.verify.equality.Equality` is it."""

    conventions: Conventions
    leaves: Leaves

    def __call__(self, gold: Form, answer: Form) -> Truth:
        """Whether two answers of any kind are equal."""

    def all_of(self, gold: Sequence[Form], answer: Sequence[Form]) -> Truth:
        """Whether answers are equal pairwise and in order."""

    def any_order(self, gold: Sequence[Form], answer: Sequence[Form]) -> Truth:
        """Whether each answer has an equal partner of its own."""

    def distinct(self, items: Sequence[Form]) -> list[Form]:
        """The items without those that equal an earlier one."""


def kleene_and(truths: Iterable[Truth]) -> Truth:
    """Three-valued and."""
    found = list(truths)
    return False if False in found else None if None in found else True


def kleene_or(truths: Iterable[Truth]) -> Truth:
    """Three-valued or."""
    found = list(truths)
    return True if True in found else None if None in found else False

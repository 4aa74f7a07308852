"""Formulas, relations and matrices compared by their values."""

from __future__ import annotations

import sympy

from hapo_lit.verify.algebra.comparing import constant, is_decimal_of, proportional, same_value
from hapo_lit.verify.algebra.reading import read, read_matrix
from hapo_lit.verify.conventions import Conventions
from hapo_lit.verify.equality import PlainLeaves
from hapo_lit.verify.forms import FLIPPED, Grid, Leaf, Relation
from hapo_lit.verify.kinds import numbers
from hapo_lit.verify.latex import ROW_END
from hapo_lit.verify.rules import Truth, kleene_and


class AlgebraLeaves:
    """Formulas compared by value.

    Args:
        conventions: what counts as equal where opinions differ.
    """

    def __init__(self, conventions: Conventions) -> None:
        self._plain = PlainLeaves(conventions)
        self._digits = conventions.decimal_digits
        self._log_base = conventions.log_base
        self.unread: set[str] = set()
        """The formulas that could not be read since the last :meth:`clear`."""

    def clear(self) -> None:
        self.unread.clear()

    def values(self, left: str, right: str) -> Truth:
        if (truth := self._plain.values(left, right)) is not None:
            return truth
        one, two = self._read(left), self._read(right)
        if one is None or two is None:
            return None
        for text, tree in ((left, two), (right, one)):
            number = numbers.read(text)
            if number and number.places is not None and not tree.free_symbols:
                return is_decimal_of(number, tree, self._digits)
        return same_value(one, two)

    def rounds(self, exact: str, decimal: numbers.Number) -> Truth:
        tree = self._read(exact)
        if tree is None:
            return None
        value = constant(tree)
        return value is not None and numbers.rounds(decimal, value)

    def relations(self, left: Relation, right: Relation) -> Truth:
        """Two-sided ones agree up to a factor: any but zero for equations, a positive one for inequalities."""
        if len(left.sides) != 2 or len(right.sides) != 2:
            return self._chains(left, right)
        one, two = self._difference(left), self._difference(right)
        if one is None or two is None:
            return None if _readable(left) and _readable(right) else False
        (kind, tree), (other_kind, other_tree) = one, two
        return kind == other_kind and proportional(tree, other_tree, positive=kind in ("<", "\\le"))

    def matrices(self, grid: Grid, formula: str) -> Truth:
        value = read_matrix(formula.replace(ROW_END, "\\\\"))
        if value is None:
            self.unread.add(formula)
            return None
        if value.shape != (len(grid.rows), len(grid.rows[0])):
            return False
        cells = [cell for row in grid.rows for cell in row]
        trees = [self._read(cell.text) if isinstance(cell, Leaf) else None for cell in cells]
        if any(tree is None for tree in trees):
            return None
        return all(same_value(tree, entry) for tree, entry in zip(trees, value.flat(), strict=True) if tree is not None)

    def _chains(self, left: Relation, right: Relation) -> Truth:
        if len(left.sides) != len(right.sides) or not (_readable(left) and _readable(right)):
            return False
        flipped = tuple(FLIPPED.get(operator, "") for operator in right.operators[::-1])
        if left.operators == right.operators:
            sides = right.sides
        elif left.operators == flipped:
            sides = right.sides[::-1]
        else:
            return False
        return kleene_and(
            self.values(one.text, two.text)
            for one, two in zip(left.sides, sides, strict=True)
            if isinstance(one, Leaf) and isinstance(two, Leaf)
        )

    def _difference(self, relation: Relation) -> tuple[str, sympy.Expr] | None:
        """The kind of a two-sided relation and what is compared with zero: ``left - right``, turned to ``<``."""
        operator = relation.operators[0]
        if not _readable(relation) or operator not in FLIPPED:
            return None
        left, right = (self._read(side.text) for side in relation.sides if isinstance(side, Leaf))
        if left is None or right is None:
            return None
        if operator in (">", "\\ge"):
            left, right, operator = right, left, FLIPPED[operator]
        return operator, sympy.Add(left, sympy.Mul(-1, right, evaluate=False), evaluate=False)

    def _read(self, text: str) -> sympy.Expr | None:
        tree = read(text, self._log_base)
        if tree is None:
            self.unread.add(text)
        return tree


def _readable(relation: Relation) -> bool:
    return all(isinstance(side, Leaf) for side in relation.sides)

"""Matrices, and the columns that stand for them."""

from __future__ import annotations

import re

from hapo_lit.verify.forms import Form, Grid, Leaf, Parse, TupleOrInterval
from hapo_lit.verify.latex import ROW_END
from hapo_lit.verify.rules import Rules, Truth, kleene_and

_GRID = re.compile(r"\\begin\{([pbB]?matrix|smallmatrix|array|cases|aligned)\}((?:(?!\\begin).)*)\\end\{\1\}")
_COLUMNS = re.compile(r"\{[clr| ]*\}")


def read(text: str, depth: int, parse: Parse) -> Form | None:
    """A matrix, or the lines of ``cases`` and ``aligned`` as a list."""
    match = _GRID.fullmatch(text)
    if match is None:
        return None
    kind, body = match[1], match[2]
    if kind == "array":
        body = _COLUMNS.sub("", body, count=1)
    rows = [row for row in body.split(ROW_END) if row.strip()]
    cells = tuple(tuple(parse(cell, depth + 1) for cell in row.split("&")) for row in rows)
    if kind in ("cases", "aligned"):
        joined = ["".join(row.split("&")) for row in rows]
        return Leaf(ROW_END.join(joined)) if kind == "cases" and "&" in body else parse(", ".join(joined), depth + 1)
    return Grid(cells)


def compare(rules: Rules, gold: Form, answer: Form) -> Truth:
    """At least one side is a matrix."""
    for grid, other in ((gold, answer), (answer, gold)):
        if isinstance(grid, Grid) and isinstance(other, Leaf) and "\\begin" in other.text:
            return rules.leaves.matrices(grid, other.text)
    if isinstance(gold, Grid) and isinstance(answer, Grid):
        left: tuple[tuple[Form, ...], ...] | None = gold.rows
        right: tuple[tuple[Form, ...], ...] | None = answer.rows
    else:
        left, right = _column(gold), _column(answer)
    if left is None or right is None or len(left) != len(right):
        return False
    return kleene_and(rules.all_of(one, two) for one, two in zip(left, right, strict=True))


def _column(form: Form) -> tuple[tuple[Form, ...], ...] | None:
    """The rows of a matrix; a single row, or a tuple, as a column."""
    if isinstance(form, Grid):
        return tuple((cell,) for cell in form.rows[0]) if len(form.rows) == 1 else form.rows
    if isinstance(form, TupleOrInterval) and (form.opening, form.closing) == ("(", ")"):
        return tuple((item,) for item in form.items)
    return None

"""The kinds of answers as values: a number or formula, a list, a tuple, an interval, a relation, a matrix.

:func:`hapo_lit.verify.parsing.parse` makes them of text.  The files in :mod:`hapo_lit.verify.kinds` hold the rules by
which each kind is read and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple


class Leaf(NamedTuple):
    """A number, a formula or words."""

    text: str


class Bag(NamedTuple):
    """Answers in any order: ``1, 2``, ``1 or 2``, ``\\{1, 2\\}``, ``\\pm 1``, a union."""

    items: tuple[Form, ...]
    braces: bool = False
    joined: str = ""
    """What it may be as one text: ``3.5`` if its comma is a decimal comma, ``ACD`` for letters of options."""


class TupleOrInterval(NamedTuple):
    """Answers in order, ``(1, 2)``: a tuple, a vector or an interval, which are written alike."""

    opening: str
    items: tuple[Form, ...]
    closing: str


class Named(NamedTuple):
    """``name = value`` or ``name \\in value``; ``sides`` are what stood between the two, ``relation`` the whole."""

    name: str
    value: Form
    sides: tuple[Form, ...] = ()
    relation: Relation | None = None


class Record(NamedTuple):
    """Values of several names: ``x = 1, y = 2``."""

    entries: tuple[Named, ...]


class Relation(NamedTuple):
    """A chain of sides with the relations between them."""

    sides: tuple[Form, ...]
    operators: tuple[str, ...]


class Without(NamedTuple):
    """All real numbers but some: ``x \\ne 1``."""

    points: Bag


class Ratio(NamedTuple):
    """``1:2:3``, also a time of day."""

    items: tuple[Form, ...]


class Grid(NamedTuple):
    """A matrix, whatever its brackets."""

    rows: tuple[tuple[Form, ...], ...]


class Choice(NamedTuple):
    """A letter of multiple choice with the value it stands for: ``(B) 12``."""

    letter: str
    value: Form


class Approximate(NamedTuple):
    """``exact \\approx decimal``."""

    exact: Form
    decimal: Form


Form = Leaf | Bag | TupleOrInterval | Named | Record | Relation | Without | Ratio | Grid | Choice | Approximate

Parse = Callable[[str, int], Form]
"""How the rules of a kind read a part of an answer; the number is how many lists and brackets enclose it."""

EMPTY_SET = Leaf("\\emptyset")
MINUS_INFINITY, INFINITY = Leaf("-\\infty"), Leaf("\\infty")
FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "=": "=", "\\ne": "\\ne"}
"""Each operator of a relation, and what it becomes when the sides change places."""


def texts_in(form: object) -> Iterator[str]:
    """The numbers, formulas and words that a form is made of."""
    if isinstance(form, Leaf):
        yield form.text
    elif isinstance(form, tuple):
        for part in form:
            yield from texts_in(part)


def members(form: Form) -> tuple[Form, ...]:
    """The items of a list without braces; any other form as the only item."""
    return form.items if isinstance(form, Bag) and not form.braces else (form,)

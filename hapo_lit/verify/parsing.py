"""From a normalised answer to its form: the kinds are tried one after the other.

What no kind can take apart is a :class:`~hapo_lit.verify.forms.Leaf`, and no leaf is evaluated here.
"""

from __future__ import annotations

from functools import lru_cache

from hapo_lit.verify.forms import Form, Leaf
from hapo_lit.verify.kinds import (
    choices,
    compounds,
    determinants,
    domains,
    intervals,
    lists,
    matrices,
    numbers,
    quantities,
    relations,
    sets,
    tuples,
    unions,
)

MAX_DEPTH = 12
"""Lists and brackets inside more of them than this are not taken apart."""

READERS = (
    lists.read,
    relations.read,
    unions.read,
    sets.read_difference,
    matrices.read,
    tuples.read,
    tuples.read_point,
    tuples.read_ratio,
    lists.read_plus_minus,
)
"""How each kind is read, None if a text is not of it.  The first that succeeds counts."""


@lru_cache(maxsize=8192)
def parse(text: str) -> Form:
    """The form of a normalised answer (:func:`hapo_lit.verify.latex.normalise`)."""
    return _parse(domains.without_brackets(determinants.evaluated(text)), 0)


def _parse(text: str, depth: int) -> Form:
    text = text.strip().strip(",").strip()
    if depth > MAX_DEPTH or not text:
        return Leaf(text)
    if numbers.read(text) or compounds.read(text) or ("," in text and numbers.read(quantities.read(text).value)):
        return Leaf(text)
    if depth == 0:
        choice = choices.read(text, _parse)
        if choice is not None:
            return choice
        text = intervals.turned_inward(text)
    if text in intervals.REALS:
        return intervals.REAL_LINE
    for read in READERS:
        form = read(text, depth, _parse)
        if form is not None:
            return form
    return Leaf(text)

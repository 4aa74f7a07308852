"""Formulas without a unit: equal texts and plain numbers here, all others by the algebra of the leaves."""

from __future__ import annotations

import re

from hapo_lit.verify.rules import Rules, Truth


def compare(rules: Rules, left: str, right: str) -> Truth:
    """Whether two formulas are equal."""
    if left == right or (" " in left + right and _tight(left) == _tight(right)):
        return bool(left)
    for one, two in ((left, right), (right, left)):
        if re.fullmatch(r"-?0,[0-9]+", one):
            return compare(rules, one.replace(",", "."), two)
    return rules.leaves.values(left, right)


def _tight(text: str) -> str:
    """Without blanks, but for those that keep digits or letters apart."""
    return re.sub(r"(?<![0-9a-zA-Z]) +| +(?![0-9a-zA-Z])", "", text)

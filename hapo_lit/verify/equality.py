"""Whether two answers are equal.

The answer is True, False, or None where only algebra can tell.  The trainer's process calls :class:`Equality` with
:class:`PlainLeaves`, which takes microseconds.  A worker calls it with leaves that do algebra
(:mod:`hapo_lit.verify.algebra`), so the rules are the same in both.
"""

from __future__ import annotations

from collections.abc import Sequence

from hapo_lit.verify.conventions import Conventions
from hapo_lit.verify.forms import (
    Approximate,
    Bag,
    Choice,
    Form,
    Grid,
    Leaf,
    Named,
    Ratio,
    Record,
    Relation,
    TupleOrInterval,
    Without,
)
from hapo_lit.verify.kinds import (
    approximations,
    bases,
    choices,
    compounds,
    domains,
    formulas,
    labels,
    lists,
    matrices,
    named,
    numbers,
    quantities,
    relations,
    sets,
    tuples,
    words,
)
from hapo_lit.verify.rules import Leaves, Truth, kleene_and


class PlainLeaves:
    """Formulas compared without algebra: plain numbers, and nothing else."""

    def __init__(self, conventions: Conventions) -> None:
        self.conventions = conventions

    def values(self, left: str, right: str) -> Truth:
        one, two = numbers.read(left), numbers.read(right)
        if one and two:
            return numbers.equal(one, two, self.conventions.decimal_digits)
        return None

    def rounds(self, exact: str, decimal: numbers.Number) -> Truth:
        number = numbers.read(exact)
        return numbers.rounds(decimal, number.value) if number else None

    def relations(self, left: Relation, right: Relation) -> Truth:
        return None

    def matrices(self, grid: Grid, formula: str) -> Truth:
        return None


class Equality:
    """The rules for all kinds of answers, which are in :mod:`hapo_lit.verify.kinds`.

    Args:
        conventions: what counts as equal where opinions differ.
        leaves: how formulas are compared.
    """

    def __init__(self, conventions: Conventions, leaves: Leaves) -> None:
        self.conventions, self.leaves = conventions, leaves

    def __call__(self, gold: Form, answer: Form) -> Truth:
        """True, False, or None: only algebra can tell.  The first rule that applies decides."""
        if gold == answer:
            return gold != Leaf("")
        if not self.conventions.check_chains:
            gold, answer = relations.last_side(gold), relations.last_side(answer)
        if isinstance(gold, Choice) or isinstance(answer, Choice):
            return choices.compare(self, gold, answer)
        if isinstance(gold, Approximate) or isinstance(answer, Approximate):
            return approximations.compare(self, gold, answer)
        gold, answer = domains.without_domains(gold, answer)
        if isinstance(gold, Named) or isinstance(answer, Named):
            return named.compare(self, gold, answer)
        if isinstance(gold, Record) or isinstance(answer, Record):
            return named.compare_records(self, gold, answer)
        if isinstance(gold, Leaf) and isinstance(answer, Leaf):
            return self.compare_leaves(gold.text, answer.text)
        if isinstance(gold, Relation) and isinstance(answer, Relation):
            return relations.compare(self, gold, answer)
        if isinstance(gold, Without) or isinstance(answer, Without):
            return sets.compare_differences(self, gold, answer)
        if isinstance(gold, Bag) or isinstance(answer, Bag):
            return lists.compare(self, gold, answer)
        if isinstance(gold, TupleOrInterval) and isinstance(answer, TupleOrInterval):
            return tuples.compare(self, gold, answer)
        if isinstance(gold, Ratio) or isinstance(answer, Ratio):
            return tuples.compare_ratios(self, gold, answer)
        if isinstance(gold, Grid) or isinstance(answer, Grid):
            return matrices.compare(self, gold, answer)
        return False

    def compare_leaves(self, gold: str, answer: str) -> Truth:
        """Numbers in a base, labels, quantities, words, letters, then formulas.  The first that applies decides."""
        numeral, other_numeral = bases.read(gold), bases.read(answer)
        if numeral or other_numeral:
            return bases.compare(self, gold, answer, numeral, other_numeral)
        if compounds.read(gold) or compounds.read(answer):
            return compounds.compare(gold, answer)
        left, right = quantities.read(gold), quantities.read(answer)
        if (labels.read(gold) and not left.unit) or (labels.read(answer) and not right.unit):
            return labels.compare(gold, answer)
        if left.unit or right.unit or left.percent or right.percent:
            return quantities.compare(self, left, right)
        gold, answer = left.value, right.value
        text, other_text = words.read(gold), words.read(answer)
        if text is not None or other_text is not None:
            return words.compare(gold, answer, text, other_text)
        if words.are_letters(gold, answer):
            return gold == answer
        return formulas.compare(self, gold, answer)

    def all_of(self, gold: Sequence[Form], answer: Sequence[Form]) -> Truth:
        """Pairwise and in order."""
        if len(gold) != len(answer):
            return False
        return kleene_and(self(left, right) for left, right in zip(gold, answer, strict=True))

    def any_order(self, gold: Sequence[Form], answer: Sequence[Form]) -> Truth:
        """Each with a partner of its own."""
        if len(gold) != len(answer):
            return False
        left = list(answer)
        doubt: list[Form] = []
        for form in gold:
            truths = [self(form, other) for other in left]
            if True in truths:
                del left[truths.index(True)]
            elif None in truths:
                doubt.append(form)
            else:
                return False
        return None if doubt else True

    def distinct(self, items: Sequence[Form]) -> list[Form]:
        """The items without those that equal an earlier one."""
        kept: list[Form] = []
        for item in items:
            if not any(self(item, other) is True for other in kept):
                kept.append(item)
        return kept

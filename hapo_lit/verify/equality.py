"""Whether two answers are equal, as far as their structure and plain numbers tell.

:func:`equal` is three-valued: True, False, or None where only algebra can tell.  The trainer's process calls it with
:class:`Quick` leaves, which takes microseconds; a worker calls the same function with leaves that do algebra, so that a
hard element never changes the rule for its neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, Protocol

from hapo_lit.verify import numbers, quantities
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
    Row,
    Without,
    base,
    names_in,
)
from hapo_lit.verify.quantities import Quantity

Truth = bool | None

_MARKUP = re.compile(r"\\text ?\{([^{}]*)\}|[{}]")
_TEXT = re.compile(r"\\text ?\{([^{}]*)\}")
_LETTER = re.compile(r"[A-Za-z]|\\[a-zA-Z]+")
_BASE = re.compile(
    r"\(?([0-9A-Fa-f]+(?:\.[0-9A-Fa-f]+)?)\)?_\{?\(? ?([0-9]{1,2}|[a-z]{3,12}) ?\)?\}?"
    r"|([0-9A-Fa-f]+) ?\(? ?base[- ]? ?([0-9]{1,2}|[a-z]{3,12})\)?"
)
_BASE_NAMES = dict(
    zip(
        ("two three four five six seven eight nine ten eleven twelve sixteen").split(),
        (*range(2, 13), 16),
        strict=True,
    )
)
_DOMAIN = re.compile(r"\\mathbb\{Z\}|Z")


class LeafEquality(Protocol):
    def values(self, left: str, right: str) -> Truth:
        """Whether two formulas without unit, percent sign or structure are equal."""

    def relations(self, left: Relation, right: Relation) -> Truth:
        """Whether two chains of relations say the same."""

    def matrices(self, grid: Grid, formula: str) -> Truth:
        """Whether a formula of matrices has this value."""


class Quick:
    """Leaves decided without algebra."""

    def __init__(self, conventions: Conventions) -> None:
        self.conventions = conventions

    def values(self, left: str, right: str) -> Truth:
        one, two = numbers.read(left), numbers.read(right)
        if one and two:
            return numbers.equal(one, two, self.conventions.decimal_digits)
        return None

    def relations(self, left: Relation, right: Relation) -> Truth:
        return None

    def matrices(self, grid: Grid, formula: str) -> Truth:
        return None


class Equality:
    """The rules for structures.

    Args:
        conventions: what counts as equal where opinions differ.
        leaves: how formulas are compared.
    """

    def __init__(self, conventions: Conventions, leaves: LeafEquality) -> None:
        self.conventions, self.leaves = conventions, leaves

    def __call__(self, gold: Form, answer: Form) -> Truth:
        """True, False, or None: cannot tell."""
        if gold == answer:
            return gold != Leaf("")
        if not self.conventions.check_chains:
            gold, answer = _last_side(gold), _last_side(answer)
        if isinstance(gold, Choice) or isinstance(answer, Choice):
            return self._choices(gold, answer)
        if isinstance(gold, Approximate) or isinstance(answer, Approximate):
            return self._approximate(gold, answer)
        gold, answer = _without_domains(gold, answer)
        if isinstance(gold, Named) or isinstance(answer, Named):
            return self._named(gold, answer)
        if isinstance(gold, Record) or isinstance(answer, Record):
            return self._records(gold, answer)
        if isinstance(gold, Leaf) and isinstance(answer, Leaf):
            return self._leaves(gold.text, answer.text)
        if isinstance(gold, Relation) and isinstance(answer, Relation):
            return self._relations(gold, answer)
        if isinstance(gold, Without) or isinstance(answer, Without):
            return self._without(gold, answer)
        if isinstance(gold, Bag) or isinstance(answer, Bag):
            return self._bags(gold, answer)
        if isinstance(gold, Row) and isinstance(answer, Row):
            if (gold.opening, gold.closing) != (answer.opening, answer.closing):
                return False
            return self.all_of(gold.items, answer.items)
        if isinstance(gold, Ratio) and isinstance(answer, Ratio):
            return self.all_of(gold.items, answer.items)
        if isinstance(gold, Grid) or isinstance(answer, Grid):
            return self._grids(gold, answer)
        return False

    def all_of(self, gold: Sequence[Form], answer: Sequence[Form]) -> Truth:
        """Pairwise and in order."""
        if len(gold) != len(answer):
            return False
        return every(self(left, right) for left, right in zip(gold, answer, strict=True))

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

    def _distinct(self, items: Sequence[Form]) -> list[Form]:
        kept: list[Form] = []
        for item in items:
            if not any(self(item, other) is True for other in kept):
                kept.append(item)
        return kept

    def _bags(self, gold: Form, answer: Form) -> Truth:
        if isinstance(gold, Bag) and isinstance(answer, Bag):
            if gold.decimal.startswith("0.") and answer.decimal.startswith("0."):
                return gold.decimal == answer.decimal
            if gold.braces or answer.braces:
                return self.any_order(self._distinct(gold.items), self._distinct(answer.items))
            if all(
                isinstance(item, Row) for item in (*gold.items, *answer.items)
            ):  # points and intervals are solutions
                return self.any_order(self._distinct(gold.items), self._distinct(answer.items))
            return self.any_order(_shared_units(gold.items), _shared_units(answer.items))
        bag, other = (gold, answer) if isinstance(gold, Bag) else (answer, gold)
        assert isinstance(bag, Bag)
        if isinstance(other, Leaf) and bag.decimal and (self.conventions.decimal_comma or re.match("-?0", bag.decimal)):
            return self(Leaf(bag.decimal), other)
        if self.conventions.brackets_optional and isinstance(other, Row) and not bag.braces:
            return self.all_of(bag.items, other.items)
        items = self._distinct(bag.items) if bag.braces else list(bag.items)
        if len(items) == 1 and items[0] != Leaf("\\emptyset"):
            return self(items[0], other) if bag is gold else self(other, items[0])
        return False

    def _named(self, gold: Form, answer: Form) -> Truth:
        if isinstance(gold, Named) and isinstance(answer, Named):
            if not gold.name or not answer.name or gold.name == answer.name:
                same = every([self(gold.value, answer.value), self._consistent(gold), self._consistent(answer)])
            elif _is_constant(gold.value) and _is_constant(answer.value):
                return False
            else:
                same = False
            if same is not True and gold.relation and answer.relation:
                return same if same is None else self._relations(gold.relation, answer.relation)
            return same
        named, other = (gold, answer) if isinstance(gold, Named) else (answer, gold)
        assert isinstance(named, Named)
        if isinstance(other, Record):
            return self._records(gold, answer)
        if isinstance(other, Relation):
            return self._relations(gold, answer) if named.relation else False
        value = self(named.value, other) if named is gold else self(other, named.value)
        return every([value, self._consistent(named)])

    def _consistent(self, named: Named) -> Truth:
        """What stands between a name and its value may not contradict the value."""
        return not self.conventions.check_chains or every(
            self(side, named.value)
            for side in named.sides
            if not named.name or (isinstance(side, Leaf) and not names_in(side.text))
        )

    def _records(self, gold: Form, answer: Form) -> Truth:
        if isinstance(gold, Record) and isinstance(answer, Record):
            left, right = ({entry.name: entry for entry in record.entries} for record in (gold, answer))
            if left.keys() != right.keys():
                return False
            return every(self(left[name], right[name]) for name in left)
        record, other = (gold, answer) if isinstance(gold, Record) else (answer, gold)
        if isinstance(other, Named) and (split := _split_up(other)):
            return self._records(record, split)
        assert isinstance(record, Record)
        values = [entry.value for entry in record.entries]
        if isinstance(other, Row) and (other.opening, other.closing) == ("(", ")"):
            in_order = sorted(record.entries, key=lambda entry: entry.name)  # (x, y), however they were listed
            return self.all_of([entry.value for entry in in_order], other.items)
        if isinstance(other, Named) and isinstance(other.value, Bag):
            return (
                self.any_order(values, other.value.items)
                if {base(e.name) for e in record.entries} == {other.name}
                else False
            )
        if isinstance(other, Bag) and not other.braces:
            if len({base(entry.name) for entry in record.entries}) == 1:
                return self.any_order(values, other.items)
            return self.all_of(values, other.items)
        return False

    def _choices(self, gold: Form, answer: Form) -> Truth:
        if isinstance(gold, Choice) and isinstance(answer, Choice):
            return gold.letter == answer.letter and self(gold.value, answer.value)
        choice, other = (gold, answer) if isinstance(gold, Choice) else (answer, gold)
        assert isinstance(choice, Choice)
        if not self.conventions.letter_or_value:
            return False
        if isinstance(other, Leaf) and _LETTER.fullmatch(other.text):
            return other.text == choice.letter
        return self(choice.value, other)

    def _approximate(self, gold: Form, answer: Form) -> Truth:
        """The exact part counts, or the decimal where the other side is a decimal and the two are not far apart."""
        if isinstance(gold, Approximate) and isinstance(answer, Approximate):
            return self(gold.exact, answer.exact)
        rough, other = (gold, answer) if isinstance(gold, Approximate) else (answer, gold)
        assert isinstance(rough, Approximate)
        if isinstance(other, Named):
            other = other.value
        number = numbers.read(other.text) if isinstance(other, Leaf) else None
        if number and number.places and self(rough.decimal, other):
            exact = numbers.read(rough.exact.text) if isinstance(rough.exact, Leaf) else None
            return exact is None or abs(exact.value - number.value) <= abs(exact.value) / 100
        return self(rough.exact, other)

    def _without(self, gold: Form, answer: Form) -> Truth:
        if isinstance(gold, Without) and isinstance(answer, Without):
            return self._bags(gold.points, answer.points)
        without, other = (gold, answer) if isinstance(gold, Without) else (answer, gold)
        assert isinstance(without, Without)
        gaps = _gaps(without.points)
        return self._bags(gaps, other) if gaps and isinstance(other, Bag) else False

    def _grids(self, gold: Form, answer: Form) -> Truth:
        for grid, other in ((gold, answer), (answer, gold)):
            if isinstance(grid, Grid) and isinstance(other, Leaf) and "\\begin" in other.text:
                return self.leaves.matrices(grid, other.text)
        if isinstance(gold, Grid) and isinstance(answer, Grid):
            left: tuple[tuple[Form, ...], ...] | None = gold.rows
            right: tuple[tuple[Form, ...], ...] | None = answer.rows
        else:
            left, right = _column(gold), _column(answer)
        if left is None or right is None or len(left) != len(right):
            return False
        return every(self.all_of(one, two) for one, two in zip(left, right, strict=True))

    def _relations(self, gold: Form, answer: Form) -> Truth:
        left = gold.relation if isinstance(gold, Named) else gold
        right = answer.relation if isinstance(answer, Named) else answer
        if not isinstance(left, Relation) or not isinstance(right, Relation):
            return False
        if left.operators == right.operators and self.all_of(left.sides, right.sides):
            return True
        return self.leaves.relations(left, right)

    def _leaves(self, gold: str, answer: str) -> Truth:
        """Words, numbers in a base, quantities, then formulas."""
        base, other_base = _in_base(gold), _in_base(answer)
        if base or other_base:
            if self.conventions.base_optional and not (base and other_base):
                return (base or (gold,))[0] == (other_base or (answer,))[0]
            return base == other_base
        left, right = quantities.read(gold), quantities.read(answer)
        if left.unit or right.unit or left.percent or right.percent:
            return self._quantities(left, right)
        gold, answer = left.value, right.value
        words, other_words = _words(gold), _words(answer)
        if words is not None or other_words is not None:
            if words not in _SHORT_WORDS and min(len(gold), len(answer)) <= 4 and (gold.isupper() or answer.isupper()):
                return _letters(gold, exact=True) == _letters(answer, exact=True) != ""
            return words == other_words or _letters(gold) == _letters(answer) != ""
        if _LETTER.fullmatch(gold) and _LETTER.fullmatch(answer) and gold not in _ALIKE and answer not in _ALIKE:
            return gold == answer
        return self.values(gold, answer)

    def _quantities(self, left: Quantity, right: Quantity) -> Truth:
        if left.unit != right.unit:
            alone = left.unit or right.unit
            if (left.unit and right.unit) or quantities.UNKNOWN in alone or not self.conventions.units_optional:
                return False
        if left.percent == right.percent:
            return self.values(left.value, right.value)
        share, plain = (left, right) if left.percent else (right, left)
        truths = [self.values(share.value, plain.value) if self.conventions.percent_optional else False]
        if self.conventions.percent_as_ratio and not plain.unit and truths[0] is not True:
            truths.append(self.values(_hundredth(share.value), plain.value))
        return some(truths)

    def values(self, left: str, right: str) -> Truth:
        """Formulas without unit: numbers here, the rest with the leaves' algebra."""
        if left == right or (" " in left + right and _tight(left) == _tight(right)):
            return bool(left)
        for one, two in ((left, right), (right, left)):
            if re.fullmatch(r"-?0,[0-9]+", one):
                return self.values(one.replace(",", "."), two)
        return self.leaves.values(left, right)


def _last_side(form: Form) -> Form:
    """The last side of a longer chain of equations."""
    chain = isinstance(form, Relation) and len(form.sides) > 2 and set(form.operators) == {"="}
    return form.sides[-1] if isinstance(form, Relation) and chain else form


def _tight(text: str) -> str:
    """Without blanks, but for those that keep digits or letters apart."""
    return re.sub(r"(?<![0-9a-zA-Z]) +| +(?![0-9a-zA-Z])", "", text)


_SHORT_WORDS = frozenset(["yes", "no", "true", "odd", "even"])
"""Other short words in capitals are names, such as ABC, and are not abc."""
_ALIKE = frozenset(["\\phi", "\\varphi", "\\epsilon", "\\varepsilon", "\\theta", "\\vartheta"])


def every(truths: Iterable[Truth]) -> Truth:
    """Three-valued and."""
    found = list(truths)
    return False if False in found else None if None in found else True


def some(truths: Iterable[Truth]) -> Truth:
    """Three-valued or."""
    found = list(truths)
    return True if True in found else None if None in found else False


def _hundredth(value: str) -> str:
    number = numbers.read(value)
    if number is None:
        return rf"\frac{{{value}}}{{100}}"
    share: Fraction = number.value / 100
    return f"{share.numerator}/{share.denominator}" if share >= 0 else f"-{-share.numerator}/{share.denominator}"


def _in_base(text: str) -> tuple[str, int] | None:
    """The digits and the base of ``1011_2``."""
    if "_" not in text and "base" not in text:
        return None
    match = _BASE.fullmatch(_TEXT.sub(r"\1", text))
    if match is None:
        return None
    digits, base = match[1] or match[3], match[2] or match[4]
    if base.isdigit():
        value = int(base)
    elif base in _BASE_NAMES:
        value = _BASE_NAMES[base]
    else:
        return None
    return (digits.upper().lstrip("0") or "0", value) if digits[0].isdigit() or value > 10 else None


def _words(text: str) -> str | None:
    """Words in lower case without markup; None for a formula.

    Three letters in a row and nothing else are a word too: as a product they would equal each of their anagrams.
    """
    if not text or text.isdigit():
        return None
    bare = re.sub(r"[^\w]+", " ", _MARKUP.sub(lambda m: f" {m[1] or ''} ", text)).strip()
    if "\\text" in text:
        plain = re.fullmatch(r"[^\\+*/^_=<>|!0-9{}-]*", _MARKUP.sub(lambda m: "" if m[1] else m[0], text))
        return " ".join(bare.lower().split()) if plain and re.search(r"[a-zA-Z]{2}", bare) else None
    if "\\" in text or re.search(r"[-+*/^_=(){}|!0-9]", text):
        return None
    return " ".join(text.lower().split()) if re.search(r"[a-zA-Z]{3}", text) or not text.isascii() else None


def _letters(text: str, exact: bool = False) -> str:
    """The letters of words, however they are marked up; nothing for a formula."""
    plain = _MARKUP.sub(lambda m: m[1] or "", text)
    return (
        re.sub(r"[^a-zA-Z]", "", plain if exact else plain.lower())
        if re.fullmatch(r"[A-Za-z][A-Za-z .'-]*", plain)
        else ""
    )


def _without_domains(gold: Form, answer: Form) -> tuple[Form, Form]:
    """Without ``k \\in \\mathbb{Z}`` where only one side says it, and with one letter where two say it of two."""
    left, plain_left = _domains(gold)
    right, plain_right = _domains(answer)
    if len(left) == len(right) == 1 and left[0].value == right[0].value and left[0].name != right[0].name:
        old, new = right[0].name, left[0].name
        if len(old) == len(new) == 1:
            return plain_left, _renamed(plain_right, old, new)
    return (plain_left, plain_right) if bool(left) != bool(right) else (gold, answer)


def _renamed(form: Any, old: str, new: str) -> Any:
    """A form with one letter in the place of another."""
    if isinstance(form, str):
        return re.sub(rf"(?<![a-zA-Z\\]){old}(?![a-zA-Z])", new, form)
    if not isinstance(form, tuple):
        return form
    parts = [_renamed(part, old, new) for part in form]
    return type(form)(*parts) if hasattr(form, "_fields") else tuple(parts)


def _domains(form: Form) -> tuple[list[Named], Form]:
    items: Sequence[Form] = form.items if isinstance(form, Bag) else form.entries if isinstance(form, Record) else ()
    found = [
        item
        for item in items
        if isinstance(item, Named) and isinstance(item.value, Leaf) and _DOMAIN.fullmatch(item.value.text)
    ]
    rest = [item for item in items if item not in found]
    spelled = repr(rest)
    found = [item for item in found if re.search(rf"(?<![a-zA-Z]){re.escape(item.name)}(?![a-zA-Z])", spelled)]
    if not found or not rest:
        return [], form
    if len(rest) == 1:
        return list(found), rest[0]
    if isinstance(form, Record):
        return list(found), Record(tuple(item for item in rest if isinstance(item, Named)))
    return list(found), Bag(tuple(rest), isinstance(form, Bag) and form.braces)


def _shared_units(items: Sequence[Form]) -> Sequence[Form]:
    """``3 and 4 cm``: the unit of the last is that of all."""
    if not items or not all(isinstance(item, Leaf) for item in items):
        return items
    read = [quantities.read(item.text) for item in items if isinstance(item, Leaf)]
    if read[-1].unit and not any(quantity.unit for quantity in read[:-1]):
        return [Leaf(quantity.value) for quantity in read]
    return items


def _split_up(named: Named) -> Record | None:
    """``(x, y) = (1, 2)`` as values of two names."""
    names = [name.strip() for name in named.name.strip("()").split(",")]
    if not isinstance(named.value, Row) or not 1 < len(names) == len(named.value.items):
        return None
    return Record(tuple(Named(name, value) for name, value in zip(names, named.value.items, strict=True)))


def _is_constant(form: Form) -> bool:
    return isinstance(form, Leaf) and not names_in(form.text)


def _gaps(points: Bag) -> Bag | None:
    """The open intervals between points, None unless all are numbers."""
    read = [numbers.read(item.text) if isinstance(item, Leaf) else None for item in points.items]
    ordered = sorted((number.value, item) for number, item in zip(read, points.items, strict=True) if number)
    if len(ordered) != len(points.items):
        return None
    ends = [Leaf("-\\infty"), *(item for _, item in ordered), Leaf("\\infty")]
    return Bag(tuple(Row("(", (ends[n], ends[n + 1]), ")") for n in range(len(ends) - 1)))


def _column(form: Form) -> tuple[tuple[Form, ...], ...] | None:
    """A matrix, one row standing up, or a tuple as a column."""
    if isinstance(form, Grid):
        return tuple((cell,) for cell in form.rows[0]) if len(form.rows) == 1 else form.rows
    if isinstance(form, Row) and (form.opening, form.closing) == ("(", ")"):
        return tuple((item,) for item in form.items)
    return None

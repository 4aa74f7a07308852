"""Lists: ``1, 2``, ``1 or 2``, ``\\pm 1``.  They have no order."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hapo_lit.verify.brackets import split
from hapo_lit.verify.forms import EMPTY_SET, Bag, Form, Leaf, Named, Parse, Record, TupleOrInterval, members
from hapo_lit.verify.kinds import compounds, quantities
from hapo_lit.verify.kinds.intervals import all_intervals, between
from hapo_lit.verify.rules import Rules, Truth

_LISTED = re.compile("[,;\x02\x03]")
_WORD_SEPARATOR = re.compile(
    r",? ?\\text ?\{ ?,? ?(and|or) ?,? ?\} ?|,? ?(?<![a-zA-Z\\])(and|or)(?![a-zA-Z]) ?"
    r"| ?\\(?:(lor|vee)|land|wedge)(?![a-zA-Z]) ?"
)
_TEXT_BEFORE = re.compile(r"\\text ?\{([^{},]*[^{}, ]),? (and|or)\}")
"""``5\\text{ apples and }3\\text{ pears}``."""
_PLUS_MINUS, _MINUS_PLUS = re.compile(r"\\pm(?![a-zA-Z])"), re.compile(r"\\mp(?![a-zA-Z])")
_OPTIONS = re.compile(r"(?:\(?[A-H]\)?(?:[,\x02] ?)*)+")
_TRAILING_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?")


def read(text: str, depth: int, parse: Parse) -> Form | None:
    """A list without braces.  Semicolons and ``or`` separate groups, commas and ``and`` the items of one."""
    if "and}" in text or "or}" in text:
        text = _TEXT_BEFORE.sub(r"\\text{\1}\\text{\2}", text)
    text = _WORD_SEPARATOR.sub(lambda m: "\x03" if "or" in m.groups() or m.group(3) else "\x02", text)
    if not _LISTED.search(text):
        return None
    outer = split(text, (";", "\x03"))
    if outer is None:
        return None
    if len(outer[0]) == 1:
        group = _group(outer[0][0], depth, "", parse)
        if isinstance(group, Bag) and depth == 0 and _OPTIONS.fullmatch(text):
            letters = sorted(re.findall("[A-H]", text))
            return group._replace(joined="".join(letters)) if len(letters) == len(set(letters)) else group
        return group
    parts = [part for part in outer[0] if part.strip(" ,\x02")]
    groups = [_group(part, depth, "or", parse) or parse(part, depth + 1) for part in parts]
    if len(groups) == 1:
        return groups[0]
    if not all(isinstance(group, Record) for group in groups):
        groups = [item for group in groups for item in members(group)]
    return _collect(groups, "or" if "\x03" in text else "")


def _group(text: str, depth: int, joint: str, parse: Parse) -> Form | None:
    """What commas and ``and`` separate, None if nothing does: ``2 h and 5 min`` are one quantity."""
    if compounds.read(text):
        return None
    if ", " in text and re.search(r"[0-9],[0-9]{3}(?![0-9])", text):
        parts = [part.strip() for part in re.split(r", |\x02", text)]
        if len(parts) > 1 and all("," not in part or _TRAILING_THOUSANDS.fullmatch(part) for part in parts):
            return _collect([parse(part, depth + 1) for part in parts if part], joint)
    cut = split(text, (",", "\x02"))
    if cut is None or len(cut[0]) == 1:
        return None
    parts = [part for part in cut[0] if part.strip()]
    items = [parse(part, depth + 1) for part in parts]
    items = [inner for item in items for inner in members(item)]  # 0, \pm 2
    if depth == 0 and re.fullmatch(r"-?[0-9]+,[0-9]+", text):
        return Bag(tuple(items), False, text.replace(",", "."))
    joint = joint or ("and" if "\x02" in cut[1] else "")
    return _collect(items, joint) if len(items) > 1 else (items[0] if items else None)


def _collect(items: Sequence[Form], joint: str) -> Form:
    """A list, with names that all members share put before it, and inequalities on one name joined.

    Args:
        joint: ``or``, ``and``, or empty for a comma, which may mean either.
    """
    named = [item for item in items if isinstance(item, Named)]
    if len(named) == len(items):
        if len({item.name for item in named}) == 1:
            ends = between(named) if joint != "or" else None
            if joint == "and" and not ends and all_intervals(item.value for item in named):
                return Leaf(repr(items))  # an intersection that is not worked out
            return Named(named[0].name, ends or Bag(tuple(item.value for item in named)))
        if len({item.name for item in named}) == len(named):
            return Record(tuple(named))
    elif named == [items[0]] and isinstance(items[0], Named) and not all_intervals([named[0].value]):
        rest = [item for item in items[1:] if isinstance(item, Leaf | TupleOrInterval | Bag)]
        if len(rest) == len(items) - 1:
            return Named(named[0].name, Bag((named[0].value, *rest)))
    return Bag(tuple(items))


def read_plus_minus(text: str, depth: int, parse: Parse) -> Form | None:
    """``\\pm`` as a list of two, if there is one."""
    if "\\pm" not in text or len(_PLUS_MINUS.findall(text)) != 1:
        return None
    upper = _MINUS_PLUS.sub("-", _PLUS_MINUS.sub("+", text))
    lower = _MINUS_PLUS.sub("+", _PLUS_MINUS.sub("-", text))
    return Bag((parse(_signed(upper), depth + 1), parse(_signed(lower), depth + 1)))


def _signed(text: str) -> str:
    """Without a plus that has nothing before it."""
    return re.sub(r"(^|[({\[=,])\+ ?", r"\1", re.sub(r"([+-]) ", r"\1", text))


def compare(rules: Rules, gold: Form, answer: Form) -> Truth:
    """At least one side is a list or a set.  Sets, points and intervals count once each."""
    if isinstance(gold, Bag) and isinstance(answer, Bag):
        if gold.joined.startswith("0.") and answer.joined.startswith("0."):
            return gold.joined == answer.joined
        if gold.joined[:1].isalpha() != answer.joined[:1].isalpha() and not (gold.braces or answer.braces):
            return False  # "A or C" is neither "A and C" nor "A, C"
        items = (*gold.items, *answer.items)
        if _sets_in(gold) != _sets_in(answer):
            return False
        if gold.braces or answer.braces or all(isinstance(item, TupleOrInterval) for item in items):
            return rules.any_order(rules.distinct(gold.items), rules.distinct(answer.items))
        return rules.any_order(_shared_units(gold.items), _shared_units(answer.items))
    bag, other = (gold, answer) if isinstance(gold, Bag) else (answer, gold)
    assert isinstance(bag, Bag)
    if isinstance(other, Leaf) and bag.joined[:1].isalpha():
        return other.text == bag.joined  # options
    if isinstance(other, Leaf) and bag.joined and (rules.conventions.decimal_comma or re.match("-?0", bag.joined)):
        return rules(Leaf(bag.joined), other) if bag is gold else rules(other, Leaf(bag.joined))
    if rules.conventions.brackets_optional and isinstance(other, TupleOrInterval) and not bag.braces:
        return rules.all_of(bag.items, other.items) if bag is gold else rules.all_of(other.items, bag.items)
    alone = rules.distinct(bag.items) if bag.braces else list(bag.items)
    if len(alone) == 1 and alone[0] != EMPTY_SET:
        return rules(alone[0], other) if bag is gold else rules(other, alone[0])
    return False


def _sets_in(bag: Bag) -> int:
    """How many members are sets: ``\\{\\{1\\}, \\{2\\}\\}`` is not ``\\{1, 2\\}``."""
    return sum(isinstance(item, Bag) and item.braces for item in bag.items) if bag.braces else 0


def _shared_units(items: Sequence[Form]) -> Sequence[Form]:
    """``3 and 4 cm``: the unit of the last is that of all."""
    last = items[-1] if items else None
    if not isinstance(last, Leaf) or not all(isinstance(item, Leaf) for item in items):
        return items
    read = [quantities.read(item.text) for item in items if isinstance(item, Leaf)]
    value = read[-1].value
    if not read[-1].unit or any(quantity.unit for quantity in read[:-1]) or not last.text.startswith(value):
        return items
    return [Leaf(quantity.value + last.text[len(value) :]) for quantity in read]

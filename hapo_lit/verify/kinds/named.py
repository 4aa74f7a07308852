"""Values with names: ``x = 5``, ``x = 1, y = 2``."""

from __future__ import annotations

from collections.abc import Sequence

from hapo_lit.verify.forms import Bag, Form, Leaf, Named, Record, Relation, TupleOrInterval
from hapo_lit.verify.kinds import relations
from hapo_lit.verify.kinds.names import names_in, without_index
from hapo_lit.verify.rules import Rules, Truth, kleene_and


def compare(rules: Rules, gold: Form, answer: Form) -> Truth:
    """At least one side is a value with a name.  Two names must agree; one alone does not count."""
    if isinstance(gold, Named) and isinstance(answer, Named):
        if not gold.name or not answer.name or gold.name == answer.name:
            truths = [rules(gold.value, answer.value), _consistent(rules, gold), _consistent(rules, answer)]
            same = kleene_and(truths)
        elif _is_constant(gold.value) and _is_constant(answer.value):
            return False
        else:
            same = False
        if same is not True and gold.relation and answer.relation:
            return same if same is None else relations.compare(rules, gold, answer)
        return same
    named, other = (gold, answer) if isinstance(gold, Named) else (answer, gold)
    assert isinstance(named, Named)
    if isinstance(other, Record):
        return compare_records(rules, gold, answer)
    if isinstance(other, Relation):
        return relations.compare(rules, gold, answer) if named.relation else False
    value = rules(named.value, other) if named is gold else rules(other, named.value)
    return kleene_and([value, _consistent(rules, named)])


def _consistent(rules: Rules, named: Named) -> Truth:
    """What stands between a name and its value may not contradict the value."""
    return not rules.conventions.check_chains or kleene_and(
        rules(side, named.value)
        for side in named.sides
        if not named.name or (isinstance(side, Leaf) and not names_in(side.text))
    )


def compare_records(rules: Rules, gold: Form, answer: Form) -> Truth:
    """At least one side is values of several names."""
    if isinstance(gold, Record) and isinstance(answer, Record):
        left, right = ({entry.name: entry for entry in record.entries} for record in (gold, answer))
        if left.keys() != right.keys():
            return False
        return kleene_and(rules(left[name], right[name]) for name in left)
    record, other = (gold, answer) if isinstance(gold, Record) else (answer, gold)
    if isinstance(other, Named) and (split := _split_up(other)):
        return compare_records(rules, record, split) if record is gold else compare_records(rules, split, record)
    assert isinstance(record, Record)
    values = [entry.value for entry in record.entries]
    if isinstance(other, TupleOrInterval) and (other.opening, other.closing) == ("(", ")"):
        in_order = sorted(record.entries, key=lambda entry: entry.name)  # (x, y), however they were listed
        return rules.all_of(*_turned(record is gold, [entry.value for entry in in_order], other.items))
    names = {without_index(entry.name) for entry in record.entries}
    if isinstance(other, Named) and isinstance(other.value, Bag):
        return rules.any_order(*_turned(record is gold, values, other.value.items)) if names == {other.name} else False
    if isinstance(other, Bag) and not other.braces:
        pair = _turned(record is gold, values, other.items)
        return rules.any_order(*pair) if len(names) == 1 else rules.all_of(*pair)
    return False


def _turned(
    first_is_gold: bool, first: Sequence[Form], second: Sequence[Form]
) -> tuple[Sequence[Form], Sequence[Form]]:
    """The reference's parts before those of the answer."""
    return (first, second) if first_is_gold else (second, first)


def _split_up(named: Named) -> Record | None:
    """``(x, y) = (1, 2)`` as values of two names."""
    names = [name.strip() for name in named.name.strip("()").split(",")]
    if not isinstance(named.value, TupleOrInterval) or not 1 < len(names) == len(named.value.items):
        return None
    return Record(tuple(Named(name, value) for name, value in zip(names, named.value.items, strict=True)))


def _is_constant(form: Form) -> bool:
    return isinstance(form, Leaf) and not names_in(form.text)

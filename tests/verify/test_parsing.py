"""From a normalised answer to its form."""

from hapo_lit.verify.forms import Bag, Leaf, Named, TupleOrInterval
from hapo_lit.verify.parsing import parse


def test_texts_are_taken_apart():
    assert parse("1, 2") == Bag((Leaf("1"), Leaf("2")))
    assert parse("1,234") == Leaf("1,234")
    assert parse("1,234, 5,678") == Bag((Leaf("1,234"), Leaf("5,678")))
    assert parse(r"\pm2") == Bag((Leaf("2"), Leaf("-2")))
    assert parse("(1, 2]") == TupleOrInterval("(", (Leaf("1"), Leaf("2")), "]")
    assert parse("]1, 2[") == TupleOrInterval("(", (Leaf("1"), Leaf("2")), ")")
    assert parse(r"x\ge2").value == TupleOrInterval("[", (Leaf("2"), Leaf(r"\infty")), ")")
    assert parse("x=5") == Named("x", Leaf("5"), (), parse("x=5").relation)
    assert not isinstance(parse("x+5=7"), Named)
    assert parse("((5))") == Leaf("5")
    assert parse("(1, (2") == Leaf("(1, (2")
    assert parse("(" * 300 + ")" * 300) is not None  # no recursion error

"""Conventions on which graders disagree: each option has an effect, a default and a line in the documentation."""

from dataclasses import fields
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from support.verify_rows import BOX, ROWS, verdicts_on

import hapo_lit
from hapo_lit.verify import Checker, Conventions
from hapo_lit.verify.equality import Equality, PlainLeaves
from hapo_lit.verify.latex import normalise
from hapo_lit.verify.parsing import parse

CONVENTIONS = [  # option, other value, gold, answer, verdict by default
    ("fallbacks", (), "5", "The answer is 5", True),
    ("join_boxes", True, "1, 2", r"\boxed{1} and \boxed{2}", False),
    ("unfinished_thought_fails", False, "5", r"<think> \boxed{5}", False),
    ("percent_optional", False, "28", BOX % r"28\%", True),
    ("percent_as_ratio", False, "0.28", BOX % r"28\%", True),
    ("units_optional", False, "5", BOX % r"5\text{ cm}", True),
    ("units_optional", "gold", r"5\text{ cm}", BOX % "5", True),
    ("units_optional", "answer", "5", BOX % r"5\text{ cm}", True),
    ("decimal_comma", True, "3.5", BOX % "3,5", False),
    ("reduced_fractions", True, r"\frac{1}{2}", BOX % r"\frac{2}{4}", True),
    ("decimal_digits", 3, r"\frac{1}{3}", BOX % "0.333", False),
    ("decimal_digits", None, r"\frac{1}{3}", BOX % "0.333333", True),
    ("check_chains", False, "8", BOX % "3+4=8", False),
    ("brackets_optional", True, "(1,2)", BOX % "1, 2", False),
    ("letter_or_value", False, "12", BOX % r"\text{(B) }12", True),
    ("base_optional", True, "1011_2", BOX % "1011", False),
    ("log_base", "natural", r"\log 2", BOX % "0.3010300", True),
    ("unevaluated", "wrong", "4", BOX % "1+1+2", True),
    ("max_characters", 3, "4", BOX % "1+1+2", True),
]


@pytest.mark.parametrize(("option", "value", "gold", "response", "default"), CONVENTIONS)
def test_each_convention_changes_what_it_says(checker, option, value, gold, response, default):
    other = Checker(Conventions(**{option: value}))
    assert checker([gold], [response])[0].correct is default
    assert other([gold], [response])[0].correct is not default
    other.close()


@pytest.mark.parametrize(
    ("with_unit", "without"),
    [
        ("5 cm", "5"),
        ("72 clips", "72"),
        ("x=5 cm", "5"),
        ("3 cm, 4 cm", "3, 4"),
        ("3 and 4 cm", "3, 4"),
        ("x=3 cm, y=4 cm", "(3,4)"),
        ("x=3 cm, y=4 cm", "3, 4"),
        (r"\text{(B) }12\text{ cm}", "12"),
        (r"12\text{ cm}", r"\text{(B) }12"),
        (r"\$5", "5"),
    ],
)
def test_a_unit_may_be_left_out_by_the_side_that_the_option_names(with_unit, without):
    for side, right in (
        (True, (True, True)),
        (False, (False, False)),
        ("gold", (False, True)),
        ("answer", (True, False)),
    ):
        equality = Equality(Conventions(units_optional=side), PlainLeaves(Conventions()))
        one, two = parse(normalise(with_unit)), parse(normalise(without))
        assert (equality(one, two), equality(two, one)) == right


def test_each_convention_is_tested_configured_and_documented():
    names = {field.name for field in fields(Conventions)}
    root = Path(hapo_lit.__file__).parents[1]
    assert {option for option, *_ in CONVENTIONS} == names
    for name in ("math", "math_loose"):
        configured = OmegaConf.load(root / f"conf/verifier/{name}.yaml").conventions
        assert set(configured) == names | {"_target_"}
    defaults = instantiate(OmegaConf.load(root / "conf/verifier/math.yaml").conventions)
    assert defaults == Conventions()
    table = (root / "docs/verifier.md").read_text()
    assert all(f"`{name}`" in table for name in names)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fallbacks": ("guess",)}, r"fallbacks: guess is none of tag, phrase, bare, formula, number"),
        ({"units_optional": "both"}, r"units_optional must be true, false, gold or answer, got both"),
        ({"decimal_digits": 0}, r"decimal_digits must be at least 1 or null, got 0"),
        ({"log_base": "two"}, r"log_base must be one of ten, natural, got 'two'"),
        ({"unevaluated": "copied"}, r"unevaluated must be one of right, not_copied, wrong, got 'copied'"),
        ({"max_characters": 0}, r"max_characters must be at least 1, got 0"),
    ],
)
def test_conventions_refuse_nonsense(wrong, message):
    with pytest.raises(ValueError, match=message):
        Conventions(**wrong)


def test_conventions_change_no_verdict_of_plain_rows(checker):
    """Loosening how answers are found must not turn a wrong box into a right one."""
    loose = Checker(Conventions(fallbacks=("tag", "phrase", "bare", "formula", "number")), workers=2)
    boxed = [row for row in ROWS if r"\boxed" in row["prediction"]][:600:6]
    assert len(boxed) == 100
    assert [v.correct for v in verdicts_on(checker, boxed)] == [v.correct for v in verdicts_on(loose, boxed)]
    loose.close()

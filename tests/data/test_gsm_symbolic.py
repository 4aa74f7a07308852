"""Word problems of reasoning-gym: which templates are held out, what is dropped, and what the rows hold."""

from __future__ import annotations

import json
from collections import Counter
from importlib.util import find_spec
from random import Random

import pytest

from hapo_lit.data import gsm_symbolic
from hapo_lit.data.gsm_symbolic import DUPLICATE, FALSE_STEP, HELDOUT, KEPT, REFUSED, TRAIN, false_step, split, write
from hapo_lit.data.schemas import Plain
from hapo_lit.policy.pretrained import INSTALL
from hapo_lit.verify.answers import last_box

needs_templates = pytest.mark.skipif(find_spec("reasoning_gym") is None, reason=f"reasoning-gym is missing: {INSTALL}")
SIZES = {"train": 120, "heldout": 50, "heldout_templates": 25}


def rows(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gsm")
    return folder, write(folder, **SIZES, seed=0)


# -- the split


@pytest.mark.parametrize("seed", range(20))
def test_no_template_is_on_both_sides(seed):
    parts = split(list(range(85)), 25, seed)
    assert len(parts.heldout) == 25
    assert sorted(parts.train + parts.heldout) == list(range(85))


def test_the_split_is_a_function_of_its_seed():
    first = split(list(range(85)), 25, 0)
    assert split(list(reversed(range(85))), 25, 0) == first
    assert len({split(list(range(85)), 25, seed).heldout for seed in range(10)}) == 10


@pytest.mark.parametrize("size", [0, 3, -1])
def test_both_sides_have_templates(size):
    with pytest.raises(ValueError, match="heldout templates must be from 1 to 2"):
        split([4, 5, 6], size, 0)


@pytest.mark.smollm
@needs_templates
def test_the_files_share_no_template_and_no_problem(written):
    train, heldout = (rows(written[0], name) for name in (TRAIN, HELDOUT))
    templates = [{row["template"] for row in part} for part in (train, heldout)]
    assert not templates[0] & templates[1]
    assert (len(templates[0]), len(templates[1])) == (60, 25)
    assert set(Counter(row["template"] for row in train).values()) == {2}
    assert set(Counter(row["template"] for row in heldout).values()) == {2}
    assert len({row["template"] for row in heldout[:25]}) == 25  # a part of the file is fair too
    assert len({row["problem"] for row in train + heldout}) == 170


@pytest.mark.smollm
@needs_templates
def test_a_row_is_of_the_template_that_it_names(written):
    """The generator of that number, asked again, states the same problem."""
    import reasoning_gym

    generators = reasoning_gym.create_dataset("gsm_symbolic", seed=5, size=3).generators
    for row in rows(written[0], HELDOUT):
        seeds = (Random(f"hapo_lit 0 {row['template']} {sample}") for sample in range(100))
        assert any(generators[row["template"]](seed, 1.0)["question"].strip() == row["problem"] for seed in seeds)


@pytest.mark.smollm
@needs_templates
def test_the_same_seed_gives_the_same_files_and_another_others(written, tmp_path):
    for name, seed in (("same", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, **SIZES, seed=seed)
    for name in (TRAIN, HELDOUT):
        original = (written[0] / name).read_bytes()
        assert (tmp_path / "same" / name).read_bytes() == original
        assert (tmp_path / "other" / name).read_bytes() != original


# -- the rows


@pytest.mark.smollm
@needs_templates
def test_every_solution_ends_in_its_answer_and_none_of_its_steps_is_false(written):
    folder, tally = written
    assert tally[KEPT] == 170
    assert tally[REFUSED] == 0
    for row in rows(folder, TRAIN) + rows(folder, HELDOUT):
        candidate = Plain()(row)
        assert last_box(candidate.solutions[0]) == candidate.answer == row["answer"]
        assert "####" not in row["solution"]
        assert false_step(row["solution"]) is None
        assert candidate.level == f"{row['solution'].count(chr(10))} lines"


@pytest.mark.parametrize(
    "text",
    [
        "David has 13*0.5=6 tubes",
        "so that's 0.46*40 = 18 students",
        "$117.10 - $53.10 = $63 left",
        "fees of $380,000 x 3/100 = $11,401.",
        "he needs 1161.3 / 1.05 = 1107",
        "first 2 + 2 = 4, then 4 + 4 = 9",
        "50% * 50% = 26%",
    ],
)
def test_a_false_equation_is_found(text):
    assert false_step(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "David has 13*0.5=6.5 tubes",
        "fees of $380,000 x 3/100 = $11,400.",
        "48 * 0.3333333333333333 = 16 letters",
        "145 + T = 210, so T = 210 - 145 = 65",
        "27+2(13)=33.0 minutes, 14÷1/2=28 minutes",
        "50% * 50% = 25%, and 8 / 10 = 80.0%",
        "11/44 = 1/4 miles a minute",
        "then 74 + 48 + 24 + T = 146 + T = 236 toys",
        "2 + 2 = 3 + 1 toys",
        "it is 5 / 0 = 7 of nothing",
        "no numbers at all",
    ],
)
def test_what_holds_or_cannot_be_read_is_left_alone(text):
    assert false_step(text) is None


def item(question, cot, answer):
    return {"question": question, "answer": answer, "metadata": {"answer_cot": cot}}


def test_what_is_dropped_is_counted_by_its_reason():
    items = iter(
        [
            item("a?", "1 + 1 = 2\n#### 2.0", "2"),
            item("a?", "1 + 1 = 2\n#### 2.0", "2"),
            item("b?", "3 * 0.5 = 1\n#### 1", "1"),
            item("c?", "Nothing comes of it.\n#### ", ""),
            item("d?", " Two lines,\n\n 3 + 1 = 4 \n#### 4", "4"),
        ]
    )
    tally = Counter()
    valid = gsm_symbolic._valid_rows(7, lambda *_: next(items), 0, gsm_symbolic.MathVerifier(), tally)
    first, second = next(valid), next(valid)
    assert first["solution"] == "1 + 1 = 2\nThe answer is \\boxed{2}."
    assert (second["problem"], second["level"], second["template"]) == ("d?", "2 lines", 7)
    assert tally == {DUPLICATE: 1, FALSE_STEP: 1, REFUSED: 1}


def test_an_exhausted_template_is_named():
    def always(*_):
        return item("a?", "1 + 1 = 2\n#### 2", "2")

    valid = gsm_symbolic._valid_rows(7, always, 0, gsm_symbolic.MathVerifier(), Counter())
    next(valid)
    with pytest.raises(ValueError, match="template 7 gave no further valid problem in 1000 samples"):
        next(valid)


def test_a_solution_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="template 7: a solution does not end in ####"):
        gsm_symbolic._row(7, item("a?", "it is 2", "2"))

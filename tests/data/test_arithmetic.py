import numpy as np
import pytest

from hapo_lit.data import arithmetic
from hapo_lit.data.arithmetic import (
    HELDOUT_SHARE,
    Arithmetic,
    IndependentErrors,
    Level,
    NoErrors,
    SparseSolutions,
    SystematicErrors,
    worked_problem,
)
from hapo_lit.verify.exact import ExactVerifier

SUBTRACTION = [Level("-", 4), Level("-", 5)]


def right(problems):
    return ExactVerifier()([p.solution for p in problems], [p.answer for p in problems]).bool().tolist()


def test_the_worked_solution_by_hand():
    problem = worked_problem(7547, "-", 2293, NoErrors())
    assert problem.problem == "Compute 7547-2293."
    assert problem.solution == r"7-3-0=04;4-9-0=15;5-2-1=02;7-2-0=05;\boxed{5254}"
    assert problem.answer == "5254"
    assert worked_problem(99, "+", 901, NoErrors()).solution == r"9+1+0=10;9+0+1=10;0+9+1=10;\boxed{1000}"


@pytest.mark.parametrize("operation", ["+", "-"])
def test_a_teacher_without_errors_is_always_right(operation):
    levels = [Level(operation, digits) for digits in (1, 2, 3, 4, 5)]
    problems = Arithmetic(levels, 500, 0, NoErrors(), seed=3, repeats=True).train()
    assert all(right(problems))
    for problem in problems:
        left, sign, other = problem.problem[8:-1].partition(operation)
        assert problem.answer == str(int(left) + int(sign + other))


def test_seeded_distinct_and_disjoint():
    def source(seed):
        return Arithmetic(SUBTRACTION, 300, 100, IndependentErrors(0.1), seed)

    train, heldout = source(0).train(), source(0).heldout()
    assert train == source(0).train()
    assert train != source(1).train()
    assert len({p.problem for p in train}) == 300
    assert not {p.problem for p in train} & {p.problem for p in heldout}
    # the split is by hash, so that no seed's training set meets another seed's held-out set
    assert not {p.problem for p in source(1).train()} & {p.problem for p in heldout}
    assert all(p.prompt_id % HELDOUT_SHARE == 0 for p in heldout)


def test_levels_are_drawn_by_weight():
    levels = [Level("-", 4, weight=3.0), Level("-", 5, weight=1.0)]
    sizes = [len(p.problem.split("-")[0]) - 8 for p in Arithmetic(levels, 2000, 0, NoErrors(), seed=0).train()]
    assert np.mean(np.array(sizes) == 4) == pytest.approx(0.75, abs=0.04)


def test_independent_errors_leave_nine_columns_of_ten():
    problems = Arithmetic(SUBTRACTION, 2000, 0, IndependentErrors(0.1), seed=0).train()
    assert np.mean(right(problems)) == pytest.approx((0.9**4 + 0.9**5) / 2, abs=0.03)


def test_systematic_errors_are_the_same_every_time():
    # 5013-2208: the tens column is 1-0-1 = 0, fine; the hundreds column 0-2 must borrow and the teacher forgets
    problem = worked_problem(5013, "-", 2208, SystematicErrors((0, 1)))
    assert problem.solution == r"3-8-0=15;1-0-1=00;0-2-0=08;5-2-0=03;\boxed{3805}"
    assert problem.answer == "2805"
    assert (
        worked_problem(5553, "-", 2221, SystematicErrors((0, 1))).solution
        == worked_problem(5553, "-", 2221, NoErrors()).solution
    )


def test_coverage_leaves_some_problems_without_a_solution():
    problems = Arithmetic(SUBTRACTION, 2000, 0, SparseSolutions(0.15, NoErrors()), seed=0).train()
    taught = [p for p in problems if p.solution]
    assert len(taught) / 2000 == pytest.approx(0.15, abs=0.03)
    assert all(right(taught))


def test_a_teachers_mistakes_do_not_depend_on_the_order_of_problems():
    errors = IndependentErrors(0.5)
    assert worked_problem(7547, "-", 2293, errors, seed=4) == worked_problem(7547, "-", 2293, errors, seed=4)
    heldout = Arithmetic(SUBTRACTION, 10, 50, errors, seed=4).heldout()
    assert all(right(heldout))


def test_too_few_distinct_problems_is_an_error_and_not_a_hang(monkeypatch):
    with pytest.raises(ValueError, match="train_size is 500, and these levels have about 94 distinct problems"):
        Arithmetic([Level("+", 1)], 500, 0, NoErrors(), seed=0)
    with pytest.raises(ValueError, match="heldout_size must be a whole number from 0 to 50,000, got 1000000"):
        Arithmetic([Level("+", 5)], 8, 1_000_000, NoErrors(), seed=0)
    monkeypatch.setattr(arithmetic, "TRIES", 0)
    with pytest.raises(ValueError, match="no 90 distinct problems"):
        Arithmetic([Level("+", 1)], 90, 0, NoErrors(), seed=0).train()


def test_unknown_operations_are_refused():
    with pytest.raises(ValueError, match="'\\+' or '-', got '\\*'"):
        Level("*", 2)


def test_tokenizer_round_trip(tokenizer):
    problem = worked_problem(7547, "-", 2293, NoErrors())
    text = problem.problem + "\n" + problem.solution
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer) == 24
    assert len(tokenizer(r"\boxed{", add_special_tokens=False)["input_ids"]) == 1

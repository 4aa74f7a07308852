import math
import random

import pytest

from hapo_lit.data.corpus import problem_of
from hapo_lit.data.schemas import BadRow, Candidate, Luffy, Numina15, NuminaCoT, OpenR1, Plain

COT = {
    "source": "olympiads",
    "problem": "A ferry takes 12 cars a trip. How many trips do 50 cars need?",
    "solution": r"Four trips carry \boxed{48} cars, two are left: \[\boxed{5}\]",
    "messages": [{"role": "user", "content": "ignored"}],
}
NUMINA15 = {
    "problem": "Find the sum of the roots of $x^2-9x+2=0$.",
    "solution": r"By Vieta the sum is $\boxed{9}$.",
    "answer": "9",
    "problem_type": "Algebra",
    "question_type": "math-word-problem",
    "problem_is_valid": "Yes",
    "solution_is_valid": "Yes",
    "source": "cn_k12",
    "synthetic": False,
}
OPENR1 = {
    "problem": "Find $3\\cdot 14$.",
    "solution": r"It is $\boxed{42}$.",
    "answer": "42",
    "question_type": "math-word-problem",
    "source": "aops_forum",
    "uuid": "a1",
    "generations": ["wrong", "only the judge", "proven", "cut"],
    "is_reasoning_complete": [True, True, True, False],
    "correctness_math_verify": [False, False, True, True],
    "correctness_llama": [False, True, True, True],
    "finish_reasons": ["stop", "stop", "stop", "length"],
}
LUFFY = {
    "data_source": "openr1",
    "prompt": [{"role": "system", "content": "Think first."}, {"role": "user", "content": "What is $2^5$?"}],
    "target": [{"role": "assistant", "content": "<think>\nDouble five times.</think>\\boxed{32}"}],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "32"},
    "extra_info": {"index": 4, "split": "train"},
}
PLAIN = {"problem": "What is 6+7?", "solution": r"\boxed{13}", "answer": "13"}

SCHEMAS = [(NuminaCoT(), COT), (Numina15(), NUMINA15), (OpenR1(), OPENR1), (Luffy(), LUFFY), (Plain("problem"), PLAIN)]
every_schema = pytest.mark.parametrize(("schema", "row"), SCHEMAS, ids=lambda value: type(value).__name__)


def without(row, *columns):
    return {name: value for name, value in row.items() if name not in columns}


@pytest.mark.parametrize(
    ("schema", "row", "candidate"),
    [
        (NuminaCoT(), COT, Candidate(COT["problem"], (COT["solution"],), "5", "olympiads")),
        (
            Numina15(),
            NUMINA15,
            Candidate(
                NUMINA15["problem"], (NUMINA15["solution"],), "9", "cn_k12", "math-word-problem", False, "Algebra"
            ),
        ),
        (
            OpenR1(),
            OPENR1,
            Candidate(
                OPENR1["problem"],
                ("proven", "only the judge", OPENR1["solution"]),
                "42",
                "aops_forum",
                "math-word-problem",
            ),
        ),
        (Luffy(), LUFFY, Candidate("What is $2^5$?", (LUFFY["target"][0]["content"],), "32", "openr1")),
        (Plain(), PLAIN, Candidate("What is 6+7?", (r"\boxed{13}",), "13")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_good_row(schema, row, candidate):
    assert schema(row) == candidate


@every_schema
def test_a_missing_column_is_named(schema, row):
    for column in schema.columns:
        with pytest.raises(BadRow, match=f"'{column}'"):
            schema(without(row, column))


@every_schema
def test_columns_that_are_not_listed_may_be_missing(schema, row):
    optional = without(row, *schema.columns, "solution", "answer")
    assert schema(without(row, *optional)).problem == schema(row).problem


@every_schema
@pytest.mark.parametrize("value", [7, 1.5, True, ["a"], {"a": 1}, b"a"], ids=repr)
def test_a_value_of_the_wrong_type_is_named_with_its_type(schema, row, value):
    for column in schema.columns:
        if column != "answer" and type(value) is not type(row[column]):
            with pytest.raises(BadRow, match=rf"'{column}(\[0\])?': (expected .*, found|1 entries)"):
                schema({**row, column: value})
    with pytest.raises(BadRow, match=rf"'(problem|prompt)': expected .*, found {type(value).__name__}|'prompt\[0\]'"):
        schema({**row, schema.columns[0]: value})


@every_schema
@pytest.mark.parametrize("value", ["", " \n", None, math.nan], ids=repr)
def test_a_blank_problem_is_refused(schema, row, value):
    if schema.columns[0] == "prompt":
        value = [{"role": "user", "content": value}]
    with pytest.raises(BadRow, match="empty"):
        schema({**row, schema.columns[0]: value})


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(BadRow, match=r"'problem'.*character 3"):
        Plain()({**PLAIN, "problem": "2+2\ud83d"})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("  13 ", "13"),
        (13, "13"),
        (-4, "-4"),
        (13.0, "13"),
        (0.25, "0.25"),
        (1e-7, "0.0000001"),
        (1e22, "1" + "0" * 22),
        (10**300, "1" + "0" * 300),
        (None, "99"),
        (math.nan, "99"),
        ("", "99"),
        (" ", "99"),
        ("proof", "proof"),
    ],
    ids=lambda value: repr(value)[:20],
)
@pytest.mark.parametrize(
    ("schema", "row"), [pair for pair in SCHEMAS if not isinstance(pair[0], NuminaCoT)], ids=lambda v: type(v).__name__
)
def test_answers_of_mixed_types(schema, row, value, text):
    row = {**row, "solution": r"\boxed{99}", "answer": value}
    if isinstance(schema, Luffy):
        row["target"] = [{"role": "assistant", "content": r"\boxed{99}"}]
        row["reward_model"] = {"ground_truth": value}
    assert schema(row).answer == text


@pytest.mark.parametrize(
    "value", [True, [13], {"value": 13}, b"13", 1j, math.inf, -math.inf, 10**5000], ids=lambda v: type(v).__name__
)
def test_what_is_no_answer_is_refused(value):
    for schema in (Plain(), Numina15(), OpenR1()):
        with pytest.raises(BadRow, match="'answer'"):
            schema({**OPENR1, **NUMINA15, "answer": value})
    with pytest.raises(BadRow, match=r"'reward_model\.ground_truth'"):
        Luffy()({**LUFFY, "reward_model": {"ground_truth": value}})


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"first \boxed{1}, then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{4} and the rest is cut \boxed{5", ""),
        (r"as was to be shown. $\boxed{}$", ""),
        ("there is no box, only 5", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_without_an_answer_column_the_last_box_is_the_answer(solution, answer):
    assert NuminaCoT()({**COT, "solution": solution}).answer == answer
    assert Plain()({**without(PLAIN, "answer"), "solution": solution}).answer == answer


@pytest.mark.parametrize("sentinel", ["proof", "notfound"])
def test_sentinels_are_left_to_the_filters(sentinel):
    assert Numina15()({**NUMINA15, "answer": sentinel}).answer == sentinel


@pytest.mark.parametrize("column", ["problem_is_valid", "solution_is_valid"])
@pytest.mark.parametrize(
    ("flag", "invalid"), [("Yes", False), ("yes ", False), ("No", True), ("Incomplete", True), ("", True), (None, True)]
)
def test_any_flag_but_yes_is_invalid(column, flag, invalid):
    assert Numina15()({**NUMINA15, column: flag}).invalid == invalid


@pytest.mark.parametrize(("stated", "kind"), [("MCQ", "mcq"), ("proof", "proof"), (None, ""), (" Other", "other")])
def test_the_question_type_is_in_lower_case(stated, kind):
    assert Numina15()({**NUMINA15, "question_type": stated}).kind == kind


def test_a_null_solution_is_no_teacher():
    for schema, row in SCHEMAS:
        if isinstance(schema, Numina15 | Plain):
            assert schema({**row, "solution": None}).solutions == ()


@pytest.mark.parametrize(
    ("change", "solutions"),
    [
        ({"correctness_llama": None}, ("proven",)),
        ({"finish_reasons": None}, ("proven", "only the judge")),
        ({"finish_reasons": [None] * 4}, ("proven", "only the judge")),
        ({"finish_reasons": ["stop", "stop", "length", "stop"]}, ("only the judge",)),
        ({"correctness_llama": None, "finish_reasons": None, "correctness_math_verify": None}, ()),
        ({"correctness_math_verify": [None, None, True, None]}, ("proven", "only the judge")),
        ({"is_reasoning_complete": [True] * 3 + [None]}, ("proven", "only the judge")),
        ({"generations": ["wrong", " ", None, "cut"]}, ()),
        ({"correctness_math_verify": [True] * 4}, ("wrong", "only the judge", "proven")),
        (
            {
                "generations": [],
                "is_reasoning_complete": [],
                "correctness_math_verify": [],
                "correctness_llama": None,
                "finish_reasons": None,
            },
            (),
        ),
    ],
)
def test_only_complete_generations_that_someone_calls_right_are_teachers(change, solutions):
    assert OpenR1()({**OPENR1, **change}).solutions == (*solutions, OPENR1["solution"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correctness_llama": [True]}, "'correctness_llama': 1 entries for 4 generations"),
        ({"finish_reasons": []}, "'finish_reasons': 0 entries for 4"),
        ({"generations": None}, "'is_reasoning_complete': 4 entries for 0"),
        ({"generations": "one text"}, "'generations': expected a list, found str"),
        ({"generations": ["a", 2, "c", "d"]}, r"'generations\[1\]': expected text, found int"),
        ({"is_reasoning_complete": [True, "True", True, True]}, r"'is_reasoning_complete\[1\]'.*found str"),
        ({"correctness_math_verify": [1, 0, 1, 0]}, r"'correctness_math_verify\[0\]'.*found int"),
    ],
)
def test_parallel_lists_must_be_parallel(change, message):
    with pytest.raises(BadRow, match=message):
        OpenR1()({**OPENR1, **change})


def test_an_empty_answer_is_never_read_from_a_generation():
    row = {**OPENR1, "answer": "", "generations": [r"\boxed{7}"] * 4}
    assert OpenR1()(row).answer == "42"
    assert OpenR1()({**row, "solution": "none"}).answer == ""


def test_the_last_user_message_is_the_problem():
    prompt = [{"role": role, "content": role + str(index)} for index, role in enumerate(["user", "assistant", "user"])]
    assert Luffy()({**LUFFY, "prompt": prompt}).problem == "user2"
    assert Luffy()({**LUFFY, "prompt": [*prompt, {"role": "assistant", "content": "<think>\n"}]}).problem == "user2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "What is 2^5?"}, "'prompt': expected a list, found str"),
        ({"prompt": []}, "'prompt': no message with the role 'user'"),
        ({"prompt": [{"role": "system", "content": "a"}]}, "'prompt': no message with the role 'user'"),
        ({"prompt": ["What is 2^5?"]}, r"'prompt\[0\]': expected a message with role and content, found str"),
        ({"prompt": [{"role": "user"}]}, r"'prompt\[0\]\.content' is empty"),
        ({"prompt": [{"role": "user", "content": [1]}]}, r"'prompt\[0\]\.content': expected text, found list"),
        ({"target": {"role": "assistant"}}, "'target': expected a list, found dict"),
        ({"reward_model": None}, "'reward_model': expected a mapping, found NoneType"),
        ({"reward_model": "32"}, "'reward_model': expected a mapping, found str"),
        ({"reward_model": {"style": "rule"}}, "'reward_model': no field 'ground_truth'"),
        ({"reward_model": {"ground_truth": ["32"]}}, r"'reward_model\.ground_truth'.*found list"),
    ],
)
def test_conversations_of_another_build_are_named(change, message):
    with pytest.raises(BadRow, match=message):
        Luffy()({**LUFFY, **change})


@pytest.mark.parametrize(
    "target", [None, [], [{"role": "assistant", "content": ""}], [{"role": "user", "content": "x"}]]
)
def test_a_target_without_words_of_the_teacher_is_no_teacher(target):
    assert Luffy()({**LUFFY, "target": target}) == Candidate("What is $2^5$?", (), "32", "openr1")


def test_plain_columns_have_the_names_they_are_given():
    row = {"question": "What is 6+7?", "worked": r"\boxed{13}", "gold": 14}
    schema = Plain(problem="question", solution="worked", answer="gold")
    assert schema(row) == Candidate("What is 6+7?", (r"\boxed{13}",), "14")
    with pytest.raises(BadRow, match="'question'"):
        schema(PLAIN)


def test_plain_rows_need_an_answer_or_a_solution():
    assert Plain()(without(PLAIN, "solution")) == Candidate("What is 6+7?", (), "13")
    with pytest.raises(BadRow, match="neither a column 'answer' nor a column 'solution'"):
        Plain()(without(PLAIN, "solution", "answer"))


def anything(generator, depth=0):
    """A value of any type that a JSON or Parquet cell can take, and some that it cannot."""
    atoms = [None, True, False, 0, -3, 10**5000, 0.5, math.nan, math.inf, "", " ", "5", "user", "Yes", "\ud800", b"x"]
    atoms += [r"\boxed{", r"\boxed{5}", r"\boxed{}", "}" * 5, object(), 1j, ..., {1}]
    choice = generator.randrange(4) if depth < 3 else 0
    if choice == 1:
        return [anything(generator, depth + 1) for _ in range(generator.randrange(4))]
    if choice == 2:
        keys = ["role", "content", "ground_truth", 3, None]
        return {generator.choice(keys): anything(generator, depth + 1) for _ in range(generator.randrange(4))}
    return generator.choice(atoms)


@every_schema
def test_random_rows_give_a_candidate_or_a_bad_row(schema, row):
    generator = random.Random(0)
    messages, read = [], 0
    for _ in range(2000):
        damaged = {name: value for name, value in row.items() if generator.random() < 0.95}
        for name in row:
            if generator.random() < 0.15:
                damaged[name] = anything(generator)
        try:
            candidate = schema(damaged)
        except BadRow as error:
            messages.append(str(error))
            continue
        read += 1
        assert candidate.problem.strip()
        assert all(isinstance(text, str) and text.strip() for text in candidate.solutions)
        assert isinstance(candidate.answer + candidate.source + candidate.kind, str)
        assert isinstance(candidate.invalid, bool)
    assert all(message.startswith(("column ", "no column ", "neither a column ")) for message in messages)
    assert 100 < read < 1900


def test_difficulty_is_the_sets_own_word_or_else_the_source():
    assert problem_of(Numina15()(NUMINA15)).difficulty == "Algebra"
    assert problem_of(NuminaCoT()(COT)).difficulty == "olympiads"
    assert problem_of(Plain()(PLAIN)).difficulty == ""
    assert problem_of(Plain()({**PLAIN, "level": "Level 5"})).difficulty == "Level 5"
    assert problem_of(Plain()({**PLAIN, "level": 5})).difficulty == "5"
    assert problem_of(Plain()({**PLAIN, "level": math.nan})).difficulty == ""
    with pytest.raises(BadRow, match="'level': expected text"):
        Plain()({**PLAIN, "level": ["5"]})

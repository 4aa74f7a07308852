"""The parts of the verifier one by one; whole verdicts by the thousand are in test_verify_rows.py."""

import asyncio
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

import hapo_lit
from hapo_lit.cli.invocation import run_job
from hapo_lit.errors import VerifierError
from hapo_lit.protocols import Verifier
from hapo_lit.verify import Checker, Conventions, verify
from hapo_lit.verify import verifier as verifier_module
from hapo_lit.verify.answers import bare, find, last_box, only_box, reference
from hapo_lit.verify.checking import REASONS
from hapo_lit.verify.exact import ExactVerifier
from hapo_lit.verify.forms import Bag, Leaf, Named, TupleOrInterval
from hapo_lit.verify.guard import refusal
from hapo_lit.verify.kinds import numbers, quantities
from hapo_lit.verify.latex import normalise
from hapo_lit.verify.parsing import parse
from hapo_lit.verify.verifier import MathVerifier

BOX = r"so \boxed{%s}."


@pytest.fixture(scope="module")
def checker():
    made = Checker(workers=2)
    yield made
    made.close()


# finding


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{5}.", "5"),
        (r"\boxed{1} and \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2", None),  # a broken last box is no answer, whatever came before
        (r"The value is 5. \boxed{}", None),
        (r"The value is 5. \boxed{ }", None),
        (r"The value is 5. \boxed 5", None),
        (r"no box: 5", None),
        (r"\boxed{1}</think> the answer is 5", None),
        (r"\boxed{1}</think> \boxed{2}", "2"),
        (r"</think>\boxed{3}", "3"),
        (r"\boxed{ {a} }", "{a}"),
        (r"\boxed {7}", "7"),
        (r"\fbox{7}", "7"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{x\right.}", r"\left\{x\right."),  # an escaped brace is no brace
        (r"\boxed{5\}", None),
        (r"\boxed{1\\}", r"1\\"),
    ],
)
def test_the_last_complete_box_counts(text, content):
    assert last_box(text) == content


@pytest.mark.parametrize(
    ("text", "answer", "route"),
    [
        ("<answer> 5 </answer>", "5", "tag"),
        ("<answer>4</answer> no, <answer>5</answer>", "5", "tag"),
        ("<answer>5", None, "tag"),
        ("The answer is 5.", "5", "phrase"),
        ("The final answer is: $\\frac{1}{2}$. I hope it is correct.", "$\\frac{1}{2}$", "phrase"),
        ("**Answer:** 3.5", "3.5", "phrase"),
        ("Answer: 4\nNo.\nAnswer: 5", "5", "phrase"),
        ("5", "5", "bare"),
        ("$x = 5$", "$x = 5$", "bare"),
        ("12 square meters", "12 square meters", "bare"),
        ("2 and 3", "2 and 3", "bare"),
        ("I think that it is about 5", None, "none"),
        ("maybe 5", None, "none"),
        ("5\n6", None, "none"),
        ("", None, "none"),
        ("<think>so 5", None, "none"),
        ("<think>so \\boxed{5}", None, "none"),  # an unfinished thought
        ("<think>hm</think>5", "5", "bare"),
    ],
)
def test_without_a_box_the_fallbacks_are_tried_in_order(text, answer, route):
    assert find(text) == (answer, route)


def test_fallbacks_can_be_switched_off_and_never_follow_a_broken_box():
    assert find("The answer is 5", ()) == (None, "none")
    assert find("The answer is 5", ("bare",)) == (None, "none")
    assert find(r"The answer is 5. \boxed{@", ("phrase", "number")) == (None, "box")
    assert find("so that gives 4 in the end", ("number",)) == ("4", "number")
    assert find("so $x=3$ holds", ("formula", "number")) == ("x=3", "formula")
    assert find("<think>so 5", (*Conventions().fallbacks, "number"), False) == ("5", "number")


def test_boxes_side_by_side_are_joined_only_on_demand():
    text = r"\boxed{1} and \boxed{2}"
    assert find(text) == ("2", "box")
    assert find(text, join_boxes=True) == ("1, 2", "box")
    assert find(r"\boxed{1}. After a longer consideration it is clear: \boxed{2}", join_boxes=True) == ("2", "box")


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5", "5"),
        (" x=5 ", "x=5"),
        (r"We add. So \boxed{7}, done.", "7"),
        (r"\boxed{", None),
        ("", None),
        ("  ", None),
        ("a figure that nobody can draw at all", "a figure that nobody can draw at all"),
    ],
)
def test_the_reference_is_the_last_box_of_a_solution_or_the_text_itself(gold, answer):
    assert reference(gold) == answer


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"7-2-0=05;\boxed{5}", "5"),
        (r"\boxed{5} ", "5"),
        (r"\boxed{5}5", None),
        (r"\boxed{5}\boxed{5}", None),
        (r"\boxed{5", None),
        (r"\boxed{5}}", None),
    ],
)
def test_only_one_box_at_the_very_end(text, content):
    assert only_box(text) == content


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{" * 150_000,
        r"\boxed{" + "{" * 1_000_000,
        "<think>" * 150_000,
        "the answer is " * 70_000,
        "<answer>" * 120_000,
        "$" * 1_000_000,
        "a" * 1_000_000,
        "answer   " * 110_000,
        " " * 1_000_000,
        "\\" * 1_000_000,
    ],
)
def test_a_megabyte_is_searched_in_milliseconds(text):
    start = time.process_time()
    found = find(text, (*Conventions().fallbacks, "formula", "number"))
    reference(text)
    assert found.answer is None or len(found.answer) <= len(text)
    assert time.process_time() - start < 0.5


# reading


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (r"$\dfrac12$", r"\frac{1}{2}"),
        (r"\left( \frac{1}{2}, \sqrt3 \right)", r"(\frac{1}{2}, \sqrt{3})"),
        (r"12\,345", "12{,}345"),
        (r"12,\!345", "12{,}345"),
        (r"x^{2}", "x^2"),
        (r"10^{12}", "10^{12}"),
        (r"30^{\circ}", r"30^\circ"),
        ("30°", r"30^\circ"),
        ("x²+2x−1", "x^2+2x-1"),
        ("2½", r"2\frac{1}{2}"),
        ("√2", r"\sqrt{2}"),
        ("x ≥ 2", r"x\ge2"),
        ("x_{1}", "x_1"),
        ("１２", "12"),
        ("5\u200b", "5"),
        ("٣", "3"),
        (r"\text{E}", "E"),
        (r"1-\frac{1}{\mathrm{e}}", r"1-\frac{1}{e}"),
        (r"5\text{ m}", r"5\text{m}"),  # metres, and not five times m
        (r"\text{5 cm}", "5 cm"),
        (r"\operatorname{arctan} x", r"\arctan x"),
        ("5.", "5"),
        ("5!", "5!"),
        (r"\$5", r"\$5"),
        ("$5", r"\$5"),
        (r"\(5\)", "5"),
        (r"{n \choose k}", r"\binom{n}{k}"),
        (r"\\frac{1}{2}", r"\frac{1}{2}"),
    ],
)
def test_one_spelling(text, normal):
    assert normalise(text) == normal


@pytest.mark.parametrize(
    "row", ["x", r"\frac{1}{2}", r"\{1, 2\}", r"5\text{ m}", "x²", r"\begin{pmatrix}1\\2\end{pmatrix}"]
)
def test_one_spelling_is_stable(row):
    assert normalise(normalise(row)) == normalise(row)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("0.50", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("3.", 3),
        ("1,234,567", 1234567),
        ("1 000", 1000),
        (r"\frac{-3}{4}", Fraction(-3, 4)),
        (r"-\frac{3}{4}", Fraction(-3, 4)),
        ("3/4", Fraction(3, 4)),
        (r"2\frac{1}{2}", Fraction(5, 2)),
        ("2 1/2", Fraction(5, 2)),
        (r"-2\frac{1}{2}", Fraction(-5, 2)),
        ("21/2", Fraction(21, 2)),
        (r"1.5\cdot10^{-3}", Fraction(3, 2000)),
        ("1.5e-3", Fraction(3, 2000)),
        ("3E5", 300_000),
        ("10^{-2}", Fraction(1, 100)),
        (r"0.\overline{3}", Fraction(1, 3)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        ("1/0", None),
        ("1 2", None),
        ("1,2", None),
        (r"2\frac{3}{2}", None),
        ("2e-5", None),  # 2e - 5
        ("10^{99999}", None),
        ("1e999999", None),
        ("9" * 401, None),
        ("__import__('os')", None),
        ("x", None),
        ("", None),
    ],
)
def test_numbers_are_read_exactly(text, value):
    number = numbers.read(text)
    assert (number.value if number else None) == value


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("0.333333", "1/3", True),
        ("0.33333", "1/3", False),
        ("0.333334", "1/3", False),
        ("0.666666", "2/3", True),
        ("0.666667", "2/3", True),
        ("-0.333333", "1/3", False),
        ("3.142857", "22/7", True),
        ("3.14286", "22/7", False),
        ("0.3", "0.30000000000000004", True),
        ("1.000000", "0.9999999", False),
        ("0.1234567", "0.1234568", False),
        ("1000001", "1.000000E6", False),
    ],
)
def test_a_decimal_stands_for_a_fraction_only_if_it_is_long_and_right(left, right, same):
    one, two = numbers.read(left), numbers.read(right)
    assert numbers.equal(one, two, 6) is same
    assert numbers.equal(two, one, 6) is same


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        (r"5\text{cm}", "5", "centimeter"),
        ("5 centimeters", "5", "centimeter"),
        (r"9.8\text{m/s^2}", "9.8", "meter/second^2"),
        (r"12\text{square feet}", "12", "foot^2"),
        (r"12\text{ft}^2", "12", "foot^2"),
        (r"\$5", "5", "dollar"),
        ("5 dollars", "5", "dollar"),
        (r"5\text{apples}", "5", "apple"),
        (r"30^\circ", "30", "degree"),
        (r"5\text{not 6}", r"5\text{not 6}", ""),
        (r"5\text{ is wrong}", r"5\text{ is wrong}", ""),
        (r"5\text{million}", r"5\cdot1000000", ""),
        (r"\sin30^\circ", r"\sin30^\circ", ""),
        ("5th", "5", ""),
        ("5m", "5m", ""),
    ],
)
def test_units_have_one_spelling_and_other_words_are_none(text, value, unit):
    assert quantities.read(text)[:2] == (value, unit)


def test_forms():
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


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("9^{9^{9}}", True),
        ("2^{10^{10}}", True),
        ("x^{12345}", True),
        (r"(x+1)^{200}", True),
        ("1000!", True),
        ("(3!)!", True),
        (r"\int_0^1x", True),
        (r"\lim_{x\to0}x", True),
        ("{" * 20 + "}" * 20, True),
        ("1" * 41, True),
        ("+".join("x" * 80), True),
        (r"\binom{100000}{5}", True),
        (r"6.02\cdot10^{23}", False),
        ("2^{100}", False),
        ("100!", False),
        (r"\binom{52}{5}", False),
        (r"x^{2^n}", True),
        (r"\frac{1}{1+\frac{1}{2}}", False),
    ],
)
def test_the_guard_refuses_what_is_dear(answer, refused):
    assert (refusal(answer) is not None) is refused


# verdicts


def test_a_verdict_says_what_decided(checker):
    rows = {
        ("5", BOX % "5"): (True, "string"),
        (r"\frac12", BOX % r"\dfrac{1}{2}"): (True, "string"),
        ("5", BOX % "5.0"): (True, "number"),
        ("5", BOX % "6"): (False, "number"),
        ("(1,2)", BOX % "(1, 3)"): (False, "structure"),
        (r"\sqrt8", BOX % r"2\sqrt2"): (True, "sympy"),
        ("5", "nothing"): (False, "structure"),
        ("5", "nothing that is an answer at all"): (False, "no_answer"),
        ("5", BOX % ("1+" * 200)): (False, "too_long"),
        ("5", BOX % r"9^{9^{9^9}}"): (False, "refused"),
        ("5", BOX % "1\x00"): (False, "refused"),
        ("5", BOX % r"\frac{"): (False, "no_answer"),
        ("5x", BOX % r"x+@"): (False, "unparsable"),
        ("x+@", BOX % "5x"): (False, "bad_gold"),
        (r"\boxed{", BOX % "5"): (False, "bad_gold"),
        ("", BOX % "5"): (False, "bad_gold"),
    }
    verdicts = checker([gold for gold, _ in rows], [response for _, response in rows])
    assert [(verdict.correct, verdict.reason) for verdict in verdicts] == list(rows.values())
    assert {verdict.reason for verdict in verdicts} == set(REASONS) - {"timeout", "worker_died"}


def test_verify_is_the_door_for_one_answer():
    verdict = verify(r"\frac{1}{2}", BOX % "0.5")
    assert (verdict.correct, verdict.reason, verdict.extracted, verdict.route) == (True, "number", "0.5", "box")


def test_long_answers_that_are_the_reference_are_right():
    text = "x+" * 300 + "1"
    assert verify(text, BOX % text).reason == "string"


def test_percent_signs_can_be_read_although_the_parser_for_this_antlr_cannot(checker):
    """latex2sympy2_extended 1.11.0 raises on each of them with ANTLR 4.9.3; the worker mends that."""
    from latex2sympy2_extended.gen.antlr4_9_3.PSParser import PSParser

    assert not hasattr(PSParser.AtomContext, "FUNC_GAMMA"), "mended upstream: the repair can go"
    (verdict,) = checker([r"\frac{2x}{100}"], [BOX % r"2\% x"])
    assert (verdict.correct, verdict.reason) == (True, "sympy")


CONVENTIONS = [  # option, other value, gold, answer, verdict by default
    ("fallbacks", (), "5", "The answer is 5", True),
    ("join_boxes", True, "1, 2", r"\boxed{1} and \boxed{2}", False),
    ("unfinished_thought_fails", False, "5", r"<think> \boxed{5}", False),
    ("percent_optional", False, "28", BOX % r"28\%", True),
    ("percent_as_ratio", False, "0.28", BOX % r"28\%", True),
    ("units_optional", False, "5", BOX % r"5\text{ cm}", True),
    ("decimal_comma", True, "3.5", BOX % "3,5", False),
    ("reduced_fractions", True, r"\frac{1}{2}", BOX % r"\frac{2}{4}", True),
    ("decimal_digits", 3, r"\frac{1}{3}", BOX % "0.333", False),
    ("decimal_digits", None, r"\frac{1}{3}", BOX % "0.333333", True),
    ("check_chains", False, "8", BOX % "3+4=8", False),
    ("brackets_optional", True, "(1,2)", BOX % "1, 2", False),
    ("letter_or_value", False, "12", BOX % r"\text{(B) }12", True),
    ("base_optional", True, "1011_2", BOX % "1011", False),
    ("max_characters", 3, "4", BOX % "1+1+2", True),
]


@pytest.mark.parametrize(("option", "value", "gold", "response", "default"), CONVENTIONS)
def test_each_convention_changes_what_it_says(checker, option, value, gold, response, default):
    other = Checker(Conventions(**{option: value}))
    assert checker([gold], [response])[0].correct is default
    assert other([gold], [response])[0].correct is not default
    other.close()


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
        ({"decimal_digits": 0}, r"decimal_digits must be at least 1 or null, got 0"),
        ({"max_characters": 0}, r"max_characters must be at least 1, got 0"),
    ],
)
def test_conventions_refuse_nonsense(wrong, message):
    with pytest.raises(ValueError, match=message):
        Conventions(**wrong)


def test_verdicts_do_not_depend_on_order_company_or_memory():
    golds = [r"\sqrt{8}", "x^2-1", r"\frac{\pi}{4}", "(1,2)", "5", r"\ln 2"] * 3
    answers = [r"2\sqrt2", "(x-1)(x+1)", r"\arctan 1", "(1,3)", "5", r"\ln 3"] * 3
    responses = [BOX % answer for answer in answers]
    first, second = Checker(workers=1), Checker(workers=3, remembered=1)
    together = [(v.correct, v.reason) for v in first(golds, responses)]
    again = [(v.correct, v.reason) for v in first(golds, responses)]
    backwards = [(v.correct, v.reason) for v in second(golds[::-1], responses[::-1])][::-1]
    alone = [(v.correct, v.reason) for g, r in zip(golds, responses, strict=True) for v in second([g], [r])]
    assert together == again == backwards == alone
    assert len(second._known) == 1
    first.close()
    second.close()


def test_what_a_worker_has_said_is_remembered(checker):
    (first,) = checker([r"\sqrt{75}"], [BOX % r"5\sqrt{3}"])
    started = time.perf_counter()
    (second,) = checker([r"\sqrt{75}"], [BOX % r"5 \sqrt3"])
    assert first.correct
    assert second.correct
    assert second.reason == "sympy"
    assert time.perf_counter() - started < 0.05


def test_a_checker_works_in_threads_and_event_loops_and_under_an_alarm(checker):
    def ask(number):
        return checker([f"{number}+x"], [BOX % f"x+{number}"])[0].correct

    found = []
    threads = [threading.Thread(target=lambda n=n: found.append(ask(n))) for n in range(100, 104)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [True] * 4

    async def both():
        return ask(110), await asyncio.to_thread(ask, 111)

    assert asyncio.run(both()) == (True, True)
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        assert ask(120)
        time.sleep(0.4)
        assert rung == [1]  # math-verify would have cancelled it
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# rewards


def test_math_verifier_rewards_and_counts():
    verifier = MathVerifier()
    assert isinstance(verifier, Verifier)
    responses = [
        r"\boxed{\frac12 x}",
        "x, or was it x/2 after all",
        r"\boxed{5}",
        r"\boxed{" + "1+" * 200 + "}",
        r"\boxed{@x}",
    ]
    rewards = verifier(responses, [r"\frac{x}{2}", "5", "5", "5", "5"])
    assert rewards.tolist() == [1, 0, 1, 0, 0]
    assert rewards.dtype == torch.float32
    metrics = verifier.metrics()
    shares = {name: metrics[f"verify/{name}"] for name in REASONS}
    assert shares == pytest.approx(
        dict.fromkeys(REASONS, 0.0) | dict.fromkeys(("sympy", "no_answer", "string", "too_long", "unparsable"), 0.2)
    )
    assert metrics["verify/from_box"] == pytest.approx(0.8)
    assert metrics["verify/kills"] == 0
    assert metrics["verify/p99_ms"] > 0
    assert metrics["time/verify"] > 0
    verifier.checker.close()


def test_a_step_that_nobody_could_judge_stops_the_run():
    verifier = MathVerifier()
    responses = [r"\boxed{1}"] * 8
    assert verifier(responses[:7], [""] * 7).sum() == 0  # too few to say
    assert verifier(responses, [""] * 7 + ["1"]).sum() == 1
    with pytest.raises(VerifierError, match=r"could check none of 8 answers \(8 bad_gold\).*reference '', answer '1'"):
        verifier(responses, [""] * 8)
    assert verifier([r"\boxed{@@}"] * 8, ["x+1"] * 8).sum() == 0  # the policy's fault, and no reason to stop
    verifier.checker.close()


def test_too_many_missed_limits_stop_the_run(monkeypatch):
    monkeypatch.setattr(verifier_module, "WINDOW", 100)
    verifier = MathVerifier(cpu_seconds=1e-6)
    slow = [rf"\boxed{{\sqrt{{{n}}}}}" for n in range(3)]
    for _ in range(2):  # 3 of 100: seen when the window is full
        verifier([r"\boxed{1}"] * 48, ["1"] * 48)
    with pytest.raises(
        VerifierError, match=r"3 of the last 100 answers met a limit of the verifier \(3.0%, at most 2%"
    ):
        verifier([*slow, r"\boxed{1}"], [r"x+1"] * 3 + ["1"])
    for _ in range(3):
        assert verifier([r"\boxed{1}"] * 48, ["1"] * 48).sum() == 48  # long past
    assert verifier([slow[0], *[r"\boxed{1}"] * 47], ["x+2", *["1"] * 47]).sum() == 47  # 1 of 100 or more
    assert verifier.metrics()["verify/timeout"] == pytest.approx(1 / 48)
    assert verifier.metrics()["verify/kills"] == 1
    verifier.checker.close()


def test_exact_verifier_wants_one_box_at_the_end_and_no_algebra():
    verifier = ExactVerifier()
    assert isinstance(verifier, Verifier)
    responses = [r"\boxed{5254}", r"\boxed{7547-2293}", r"5254", r"\boxed{5254};", r"\boxed{05254}", r"\boxed{5253}"]
    assert verifier(responses, ["5254"] * 6).tolist() == [1, 0, 0, 0, 1, 0]
    assert verifier.metrics()["verify/no_answer"] == pytest.approx(2 / 6)


# safety


def test_no_text_is_ever_evaluated():
    """The functions of SymPy and Python that execute a string must not occur in the package."""
    banned = re.compile(r"\b(sympify|parse_expr|simplify|nsimplify|exec|eval|compile|pickle\.loads|literal_eval)\(")
    allowed = {("worker.py", "pickle.loads(")}  # what the parent sent, never what a worker or a model wrote
    for path in Path(hapo_lit.__file__).parent.rglob("*.py"):
        for line in path.read_text().splitlines():
            found = banned.search(line.replace(".eval()", "").replace("re.compile(", "").replace("torch.compile(", ""))
            assert not found or (path.name, found.group()) in allowed, f"{path}: {line}"


PAYLOAD = "__import__('pathlib').Path('MARK').touch()"


@pytest.mark.parametrize(
    "form",
    [
        "%s", r"\text{%s}", r"\mathrm{%s}", "1:%s", "%s_2", r"\operatorname{%s}", r"\frac{%s}{2}", r"\frac{1}{%s}",
        r"\sqrt{%s}", "x_{%s}", "x^{%s}", r"\{1, %s\}", "(%s, 1)", "[%s, 2)", r"\begin{pmatrix}%s&1\end{pmatrix}",
        "x=%s", "x<%s", "%s=x", "1, %s", "1+%s", "%s+1", "%s!", r"\log_{%s} 2", r"%s\%%", r"5\text{ %s}", r"\$%s",
        r"\left|%s\right|", r"\sum_{k=1}^{%s}k", r"\binom{%s}{2}", "f(%s)", r"\begin{pmatrix}1\end{pmatrix}+%s",
        r"%s \approx 1", r"x \in %s",
    ],
)  # fmt: skip
def test_a_payload_in_any_position_executes_nothing(tmp_path, form):
    code = (
        "import sys; from hapo_lit.verify import Checker; c = Checker();"
        "g, a = sys.argv[1:]; print([v.correct for v in c([g, a, g], [rf'\\boxed{{{a}}}', rf'\\boxed{{{g}}}', a])])"
    )
    command = [sys.executable, "-c", code, "x+1", form % PAYLOAD]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[False, False, False]"
    assert list(tmp_path.iterdir()) == []


def test_bare_answers_are_few_words():
    assert bare("Evelyn") == "Evelyn"
    assert bare("the red car won it") is None


def test_a_run_that_is_stopped_says_why_in_one_line(capsys):
    def main(config):
        raise VerifierError("31 of the last 1,000 answers met a limit of the verifier")

    with pytest.raises(SystemExit):
        run_job(main, None)
    assert capsys.readouterr().err == "hapo: error: 31 of the last 1,000 answers met a limit of the verifier\n"

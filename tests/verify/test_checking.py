"""Verdicts and their reasons; verdicts by the thousand are in test_rows.py."""

import asyncio
import signal
import threading
import time

from support.verify_rows import BOX

from hapo_lit.verify import Checker, verify
from hapo_lit.verify.checking import REASONS


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
    assert {verdict.reason for verdict in verdicts} == set(REASONS) - {"unevaluated", "timeout", "worker_died"}


def test_verify_checks_one_answer_by_the_default_conventions():
    verdict = verify(r"\frac{1}{2}", BOX % "0.5")
    assert (verdict.correct, verdict.reason, verdict.extracted, verdict.route) == (True, "number", "0.5", "box")
    assert verify(r"\frac{1}{2}", BOX % "2/4").correct
    assert verify(r"\frac{1}{2}", BOX % "2/4", "Simplify $2/4$.").reason == "unevaluated"


def test_long_answers_that_are_the_reference_are_right():
    text = "x+" * 300 + "1"
    assert verify(text, BOX % text).reason == "string"


def test_percent_signs_can_be_read_although_the_parser_for_this_antlr_cannot(checker):
    """latex2sympy2_extended 1.11.0 raises on each of them with ANTLR 4.9.3; the worker mends that."""
    from latex2sympy2_extended.gen.antlr4_9_3.PSParser import PSParser

    assert not hasattr(PSParser.AtomContext, "FUNC_GAMMA"), "mended upstream: the repair can go"
    (verdict,) = checker([r"\frac{2x}{100}"], [BOX % r"2\% x"])
    assert (verdict.correct, verdict.reason) == (True, "sympy")


def test_verdicts_do_not_depend_on_order_company_or_memory(checker):
    golds = [r"\sqrt{8}", "x^2-1", r"\frac{\pi}{4}", "(1,2)", "5", r"\ln 2"] * 3
    answers = [r"2\sqrt2", "(x-1)(x+1)", r"\arctan 1", "(1,3)", "5", r"\ln 3"] * 3
    responses = [BOX % answer for answer in answers]
    second = Checker(workers=3, remembered=1)
    together = [(v.correct, v.reason) for v in checker(golds, responses)]
    again = [(v.correct, v.reason) for v in checker(golds, responses)]
    backwards = [(v.correct, v.reason) for v in second(golds[::-1], responses[::-1])][::-1]
    alone = [(v.correct, v.reason) for g, r in zip(golds, responses, strict=True) for v in second([g], [r])]
    assert together == again == backwards == alone
    assert len(second._known) == 1
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
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        assert ask(120)
        time.sleep(0.1)
        assert rung == [1]  # math-verify would have cancelled it
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_references_that_cannot_be_read_are_told_from_the_others(checker):
    golds = {
        **dict.fromkeys(
            ["5", r"\frac{1}{2}", "x^2+1", "(1, 2)", r"5\text{ cm}", "CO2", r"\text{east}", "x=5, y=6"], True
        ),
        **dict.fromkeys([r"x \oplus y", r"\boxed{a \star b}", "see below", "", r"(1, \heartsuit)"], False),
    }
    assert dict(zip(golds, checker.can_read(list(golds)), strict=True)) == golds

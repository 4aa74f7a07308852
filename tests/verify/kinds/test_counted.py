"""Words beside a number."""

import time

import pytest

from hapo_lit.verify.kinds import counted, quantities, units


@pytest.mark.parametrize(
    ("word", "text", "plain"),
    [
        ("clips", True, True),
        ("Clips", True, True),
        ("CLIPS", True, False),
        ("car", True, True),
        ("hut", True, False),  # as plain letters, h times u times t
        ("CAR", True, False),
        ("families", True, True),
        ("family", True, True),
        ("nearly", False, False),
        ("tenfold", False, False),
        ("dozen", False, False),
        ("Monday", False, False),
        ("mln", False, False),
        ("ab", False, False),
        ("abcd", False, False),
        ("isn't", False, False),
        ("aBcDe", False, False),
    ],
)
def test_a_word_is_counted_unless_a_list_or_its_form_refuses_it(word, text, plain):
    assert (counted.counts(word, plain=False), counted.counts(word, plain=True)) == (text, plain)


@pytest.mark.parametrize(
    ("words", "noun"),
    [
        (["rejected"], False),
        (["broken", "toys"], True),
        (["prime"], False),
        (["prime", "numbers"], True),
        (["left"], True),
    ],
)
def test_a_participle_or_an_adjective_needs_a_noun(words, noun):
    assert counted.has_noun(words) is noun


def test_no_word_is_refused_and_read():
    assert not counted.REFUSED & (counted.ADJECTIVES | counted.MEASURES | units.NAMES)
    assert counted.MEASURES <= counted.ADJECTIVES


@pytest.mark.parametrize(
    "piece", [" clips", "5 clips ", r"\text{ a}", "a", " a", "5cm ", "cm", "5 ", "^2", "5 m/s", "$", "5-"]
)
def test_long_texts_are_read_in_time_linear_in_their_length(piece):
    started = time.process_time()
    quantities.read("5 " + piece * (300_000 // len(piece)) + "!")
    assert time.process_time() - started < 0.5

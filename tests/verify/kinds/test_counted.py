"""Words beside a number."""

import time

import pytest

from hapo_lit.verify.kinds import counted, quantities, units


@pytest.mark.parametrize("word", ["clips", "Clips", "CLIPS", "hut", "families", "family", "red", "prime"])
def test_a_word_that_no_list_refuses_is_part_of_a_count(word):
    assert counted.counts(word)


REFUSED = (
    "nearly tenfold zillions seventeenths thirtieth Monday mln ab abcd isn't aBcDe maybe not wrong more half six if"
)


@pytest.mark.parametrize("word", REFUSED.split())
def test_the_lists_and_the_form_of_a_word_refuse_it(word):
    assert not counted.counts(word)


@pytest.mark.parametrize(
    ("words", "noun"),
    [
        (["rejected"], False),
        (["broken", "toys"], True),
        (["prime"], False),
        (["prime", "numbers"], True),
        (["left"], True),
        (["awful"], False),
        (["fish"], True),
        (["mice"], True),
        (["ridiculous"], False),
    ],
)
def test_a_participle_or_an_adjective_needs_a_noun(words, noun):
    assert counted.has_noun(words, one=False, plain=False) is noun


def test_a_singular_follows_one_and_short_words_in_plain_letters_are_products():
    assert counted.has_noun(["bracelet"], one=True, plain=False)
    assert not counted.has_noun(["bracelet"], one=False, plain=False)
    assert counted.has_noun(["cats"], one=False, plain=True)
    assert not counted.has_noun(["CATS"], one=False, plain=True)
    assert not counted.has_noun(["obs"], one=False, plain=True)


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

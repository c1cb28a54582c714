"""What is said in words although it has a notation."""

from __future__ import annotations

import pytest

from saccade.parsing.number_words import english_number, leading_number
from saccade.parsing.spoken import read_inequality, read_set, with_base, with_times


@pytest.mark.parametrize(
    ("said", "signs"),
    [
        ("243 (base 8)", "243_{8}"),
        ("110 in base two", "110_{2}"),
        ("37_{eight}", "37_{8}"),
        ("2A base 16", "2A_{16}"),
        ("the base 5 is 3", "the base 5 is 3"),
        ("x_{max}", "x_{max}"),
    ],
)
def test_a_base_in_words_becomes_a_subscript_and_nothing_else_does(said, signs):
    assert with_base(said) == signs


@pytest.mark.parametrize(
    ("said", "signs"),
    [
        ("half past seven in the evening", "7:30 PM"),
        ("a quarter to one", "12:45"),
        ("9 o'clock in the morning", "9:00 AM"),
        ("six o'clock", "6:00"),
        ("from 3 to 5", "from 3 to 5"),
        ("thirty o'clock", "thirty o'clock"),
    ],
)
def test_a_time_in_words_becomes_digits_where_it_is_an_hour(said, signs):
    assert with_times(said) == signs


@pytest.mark.parametrize(
    ("said", "signs"),
    [
        ("x is greater than 3", "x>3"),
        ("all real numbers less than or equal to -1", "x<=-1"),
        ("t is at least 2 and less than 6", "t>=2 and t<6"),
        ("all real numbers except 2", "x \\neq 2"),
        ("all x such that x \\le 4", "x \\le 4"),
        ("x is 3", None),
        ("x > 3", None),
        ("3", None),
    ],
)
def test_an_inequality_in_words_becomes_signs_and_other_texts_are_none(said, signs):
    assert read_inequality(said) == signs


@pytest.mark.parametrize(
    ("said", "signs"),
    [
        ("There is no solution.", "\\emptyset"),
        ("The system has no real solutions", "\\emptyset"),
        ("any real number", "\\mathbb{R}"),
        ("all nonzero real numbers", "x \\neq 0"),
        ("negative infinity", "-\\infty"),
        ("one solution", None),
        ("some real numbers", None),
    ],
)
def test_a_set_with_a_name_is_read_and_a_description_is_not(said, signs):
    assert read_set(said) == signs


def test_parts_in_words_are_exact_and_ordinals_are_no_numbers():
    for said, number in (("two thirds", 2 / 3), ("three and a half", 3.5), ("a hundred", 100), ("minus a fifth", -0.2)):
        assert float(english_number(said) or 0) == number
    for said in ("third", "two third", "one fifths", "twenty fifth", "and", ""):
        assert english_number(said) is None, said


def test_a_number_in_words_is_followed_by_ordinary_words_only():
    assert leading_number("fifteen birds in a tree") == (15, "birds in a tree")
    for said in ("two or three", "one of them", "two times four", "twenty first", "birds"):
        assert leading_number(said) is None, said

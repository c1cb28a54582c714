"""Laws of the readers of letters, numbers, yes and no: what is said is read, what hedges is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.parsing import read_choice, read_number, read_yes_no

COLORS = ("red", "green", "blue", "red circle")


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "b",
        "(B)",
        "B.",
        "B)",
        "B:",
        " B \n",
        "**B**",
        "$B$",
        r"\boxed{B}",
        r"\text{B}",
        "B) green",
        "B. green",
        "(B) green",
        "The answer is B",
        "The answer is (B).",
        "Answer: B",
        "Option B",
        "green",
        "Green.",
        "Ans is B, not A.",
        "答案是B",
        "B",
        "B: foo",
        "So the correct answer is B) green",
        "It is B because the others are not",
    ],
)
def test_a_letter_is_read_in_every_form(text):
    assert read_choice(text, "ABCD", COLORS) == "B"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "E",
        "A or B",
        "A, B",
        "A and B",
        "A/B",
        "B) red",
        "The answer is A or B",
        "[LETTER]",
        "maybe",
        "A cat",
        "Be",
        "yellow",
        "A) red B) green C) blue",
        "A. red\nB. green",
        "the answer is a dog",
        "ABCD",
        "red green",
        "not sure",
        "x" * 20000,
    ],
)
def test_a_hedge_or_nothing_picks_no_letter(text):
    assert read_choice(text, "ABCD", COLORS) is None


def test_the_last_answer_wins_and_equal_options_are_no_answer():
    assert read_choice("The answer is A. No, wait: the answer is C.", "ABCD", COLORS) == "C"
    assert read_choice("red", "AB", ("red", "Red")) is None


@given(st.sampled_from("ABCD"))
def test_without_options_only_letters_count(letter):
    assert read_choice(f"{letter}) foo", "ABCD") == letter
    assert read_choice(f"Final answer: {letter}", "ABCD") == letter


@given(st.integers(-(10**12), 10**12) | st.floats(-1e6, 1e6).map(lambda v: round(v, 4)))
def test_a_number_reads_back(value):
    assert read_number(f"{value}") == float(value)
    assert read_number(f"{value} cm") == float(value)
    assert read_number(f"The answer is {value}.") == float(value)
    if abs(value) >= 1e-3:
        assert read_number(f"{value:,}") == float(value)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,234", 1234),
        ("12,345,678.5", 12345678.5),
        ("1 234 567", 1234567),
        (r"1{,}234", 1234),
        (r"1\!234", 1234),
        ("3/4", 0.75),
        ("-3/4", -0.75),
        (r"\frac{3}{4}", 0.75),
        (r"-\dfrac{3}{4}", -0.75),
        ("½", 0.5),
        ("1e3", 1000),
        ("60°", 60),
        (r"60^\circ", 60),
        ("60 degrees", 60),
        ("50%", 50),
        (r"50\%", 50),
        ("5 cm^2", 5),
        ("5 cm²", 5),
        ("$5", 5),
        ("$5$", 5),
        ("−5", -5),
        ("5", 5),
        ("5厘米", 5),
        (".5", 0.5),
        ("three", 3),
        ("Seven.", 7),
        ("3 objects", 3),
        ("2 + 3 = 5", 5),
        ("x = 5", 5),
        ("There are 3 red and 2 blue, so the answer is 5", 5),
        ("答案是5", 5),
        ("5, so it is 5", 5),
        (r"\boxed{12}", 12),
        ("+4", 4),
    ],
)
def test_a_number_is_read_in_every_form(text, number):
    assert read_number(text) == pytest.approx(number)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "none",
        "3 or 4",
        "3, 4",
        "1/0",
        "x2",
        "one of them",
        "NaN",
        "inf",
        "1e999",
        "9" * 400,
        "3 to 5",
        "H2O",
        "2-3",
    ],
)
def test_a_hedge_or_nothing_is_no_number(text):
    assert read_number(text) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("yes", True),
        ("Yes.", True),
        ("YES, there is no cat", True),
        ("No, yes would be wrong", False),
        ("no", False),
        ("The answer is no.", False),
        ("true", True),
        ("False", False),
        ("是", True),
        ("不是", False),
        ("there is no cat", False),
        ("know", None),
        ("not", None),
        ("unknown", None),
        ("eyes", None),
        ("yes or no", None),
        ("yes/no", None),
        ("", None),
        ("maybe", None),
    ],
)
def test_yes_and_no_are_whole_words(text, said):
    assert read_yes_no(text) is said

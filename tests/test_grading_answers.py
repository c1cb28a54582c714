"""Laws of graders of short answers: right, wrong, and a gold that cannot be graded."""

from __future__ import annotations

import pytest

from saccade.grading import grade_choice, grade_number, grade_text, grade_value, grade_yes_no


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("3", "3", True),
        ("3.0", 3, True),
        ("three", 3, True),
        ("1,000", "1000", True),
        ("1/2", "0.5", True),
        ("12 cm", 12, True),
        ("60°", "60", True),
        ("50%", 0.5, True),
        ("50%", 50, True),
        ("50", 0.5, False),
        ("0.5", 50, False),
        ("3 or 4", 3, False),
        ("", 3, False),
        ("-3", 3, False),
        ("12345678901234567890", "12345678901234567891", False),
        ("012", "12", True),
        ("3", "three apples or four", None),
        ("3", "about", None),
        ("3", float("nan"), None),
    ],
)
def test_numbers(answer, gold, right):
    assert grade_number(answer, gold).right is right


@pytest.mark.parametrize(
    ("answer", "relative", "absolute", "right"),
    [
        ("104", 0.05, 0, True),
        ("106", 0.05, 0, False),
        ("101", 0, 1, True),
        ("101.5", 0, 1, False),
        ("100.0001", 0, 0, False),
    ],
)
def test_tolerances_bound_the_distance_to_the_gold(answer, relative, absolute, right):
    assert grade_number(answer, 100, relative, absolute).right is right


@pytest.mark.parametrize(
    ("answer", "gold", "options", "right"),
    [
        ("B", "B", ("x", "y"), True),
        ("(b)", "b", (), True),
        ("y", "B", ("x", "y"), True),
        ("A", "B", ("x", "y"), False),
        ("B) x", "B", ("x", "y"), False),
        ("A or B", "B", ("x", "y"), False),
        ("C", "B", ("x", "y"), False),
        ("B", "C", ("x", "y"), None),
        ("B", "y", ("x", "y"), None),
        ("B", "", (), None),
    ],
)
def test_choices(answer, gold, options, right):
    assert grade_choice(answer, gold, options).right is right


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [("Yes.", "yes", True), ("No", True, False), ("no", False, True), ("I know", "no", False), ("yes", "blue", None)],
)
def test_yes_and_no(answer, gold, right):
    assert grade_yes_no(answer, gold).right is right


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("no defect", "No Defect.", True),
        (' "No  Defect" ', "No Defect", True),
        ("No Defects", "No Defect", False),
        ("the answer is No Defect", "No Defect", False),
        ("", "No Defect", False),
        ("x", " ", None),
    ],
)
def test_text(answer, gold, right):
    assert grade_text(answer, gold).right is right


def test_a_value_is_compared_as_what_its_gold_is():
    assert grade_value("12.0", "12").right is True
    assert grade_value("Blue", "blue").right is True
    assert grade_value("2 blue", "blue").right is False
    assert grade_value("1e0", 1).right is True


def test_a_verdict_says_by_which_rule_and_why_not():
    verdict = grade_number("7", "3")
    assert (verdict.route, verdict.detail) == ("number", "got 7")

"""What a good grader must accept and reject, case by case, as whole replies; most of them break a published grader."""

from __future__ import annotations

import pytest

from saccade.grading import grade_reply, math_pool

COLOURS = ("red", "green", "blue", "red circle")
ACCEPTED = [
    ("12", "12 cm"),
    ("12 cm", "12"),
    ("12\\text{ cm}", "12"),
    ("0.5 m", "50 cm"),
    ("2 hours", "120 min"),
    ("60°", "60"),
    ("60^\\circ", "60"),
    ("60 degrees", "60"),
    ("60度", "60"),
    ("60", "60°"),
    ("1,000", "1000"),
    ("1\\!000", "1000"),
    ("1\u2009000", "1000"),
    ("１０００", "1000"),
    ("1\\frac12", "3/2"),
    ("1 1/2", "1.5"),
    ("4/8", "1/2"),
    ("0.25", "1/4"),
    ("2\\sqrt{3}", "3.46"),
    ("\\pi", "3.14"),
    ("{2, 1}", "1, 2"),
    ("2, 1", "\\{1, 2\\}"),
    ("1 and 2", "1, 2"),
    ("1 000 000", "1000000"),
    ("(1, 2)", "(1, 2)"),
    ("(-\\infty, 1) \\cup (2, \\infty)", "x<1 \\text{ or } x>2"),
    ("[1, \\infty)", "x \\ge 1"),
    ("y = 2x + 1", "2x - y + 1 = 0"),
    ("4x - 2y = -2", "2x - y + 1 = 0"),
    ("x = 5", "5"),
    ("\\pm 2", "2, -2"),
    ("x = 2 or x = -2", "\\pm 2"),
    ("\\text{12}", "12"),
    ("\\mathrm{12}", "12"),
    ("\\dfrac{1}{2}", "\\frac12"),
    ("2.5e3", "2500"),
    ("2.5 \\times 10^3", "2500"),
    ("3:4", "3/4"),
    ("6:8", "3:4"),
    ("50%", "0.5"),
    ("答案是 5", "5"),
    ("Yes", "yes"),
    ("是", "yes"),
    ("对", "yes"),
    ("否", "no"),
    ("No, there is none.", "no"),
    ("no defect", "No Defect"),
]
REJECTED = [
    ("12 mm", "12 cm"),
    ("12 kg", "12 cm"),
    ("50", "0.5"),
    ("0.5", "50"),
    ("3.46", "2\\sqrt{3}"),
    ("0.33", "1/3"),
    ("3.0001", "3"),
    ("(2, 1)", "(1, 2)"),
    ("[1, 2]", "(1, 2)"),
    ("1", "1, 2"),
    ("1, 2, 3", "1, 2"),
    ("3 or 4", "3"),
    ("3, 4", "3"),
    ("2023-01-01", "2021"),
    ("0.4", "12:30"),
    ("", "3"),
    ("\\boxed{}", "3"),
    ("[NUMBER]", "3"),
    ("print(3)", "3"),
    ("import math; math.sqrt(9)", "3"),
    ("13", "3"),
    ("3 4", "34"),
    ("3 4", "12"),
    ("31", "3"),
    ("I know", "no"),
    ("nothing", "no"),
    ("yes or no", "yes"),
    ("1-1/e", "1+1/e"),
    ("x^2+1", "(x+1)^2"),
    ("-5", "5"),
    ("5!", "5"),
]
FRAMES = ("<think>It is 7, or B.</think><answer>{}</answer>", "<think>7</think>\n**Final Answer:** {}")


@pytest.fixture(scope="module", autouse=True)
def pool():
    yield
    math_pool.shared().close()


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize(("answer", "gold"), ACCEPTED)
def test_what_is_right_is_accepted(frame, answer, gold):
    graded = grade_reply(frame.format(answer), gold)
    assert graded.verdict.right is True, graded


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize(("answer", "gold"), REJECTED)
def test_what_is_wrong_is_rejected(frame, answer, gold):
    graded = grade_reply(frame.format(answer), gold)
    assert graded.verdict.right is False, graded


@pytest.mark.parametrize(
    "answer",
    ["B", "(B)", "B.", "B: green", "green", "故选B", "答案是B", "\\boxed{B}", "The answer is **B**", "Final Answer:B"],
)
@pytest.mark.parametrize("frame", FRAMES)
def test_a_choice_is_accepted_by_letter_or_content(frame, answer):
    assert grade_reply(frame.format(answer), "B", options=COLOURS).verdict.right is True


@pytest.mark.parametrize(
    "answer",
    ["A", "B: red", "red", "A or B", "A, B, C, D", "(A) red (B) green", "[LETTER]", "", "greenish", "Be", "C. green"],
)
@pytest.mark.parametrize("frame", FRAMES)
def test_another_choice_a_hedge_and_a_list_are_rejected(frame, answer):
    assert grade_reply(frame.format(answer), "B", options=COLOURS).verdict.right is False


@pytest.mark.parametrize(
    "reply",
    [
        "<think>So the answer is \\boxed{3}.",
        "<think>The answer is 3</think>",
        "<think>The answer is 3</think><answer></answer>",
        "<think><answer>3</answer></think>",
        "",
        "<answer>",
    ],
)
def test_an_answer_inside_the_thought_or_cut_off_before_it_is_none(reply):
    assert grade_reply(reply, "3").verdict.right is False


@pytest.mark.parametrize(
    ("gold", "kind"), [("", "math"), (None, "auto"), ("about", "number"), ("blue", "yes_no"), ("Z", "choice")]
)
def test_a_gold_that_cannot_be_graded_is_the_third_result(gold, kind):
    for reply in ("3", "<answer>B</answer>", "", "<think>"):
        assert grade_reply(reply, gold, kind).verdict.right is None

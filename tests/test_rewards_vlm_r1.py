"""VLM-R1's formulas on odd replies: what its released code gives there, worked out by hand."""

from __future__ import annotations

import time
from typing import Any

import pytest

from saccade.rewards import PENALTIES, REWARDS
from saccade.types import Completion, Frame, Sample

FRAME = Frame("pixels_resized", (100, 100), (100, 100))
A, B = '{"bbox_2d": [0, 0, 10, 10], "label": "a"}', '{"bbox_2d": [50, 0, 80, 90], "label": "b"}'
GOLD = [{"bbox_2d": [0, 0, 10, 10], "label": "a"}]
TWO = [*GOLD, {"bbox_2d": [50, 0, 80, 90], "label": "b"}]
LISTS = ("map", "od_ap", "od_ap50", "odLength", "weighted_sum")


def value(name: str, text: str, gold: Any, frame: Frame = FRAME) -> float:
    score = (REWARDS | PENALTIES)[f"vlm_r1/{name}"](
        Completion(text, frames=(frame,)), Sample("s", (), "?", gold, "any")
    )
    assert score.masked is None
    return score.value


def fence(*items: str) -> str:
    return f"```json\n[{', '.join(items)}]\n```"


def tagged(text: str) -> str:
    return f"<think>t</think><answer>{text}</answer>"


@pytest.mark.parametrize(
    ("answer", "gold", "values"),
    [
        # the last closed fence counts for average precision, the first for the weighted sum
        (fence(A) + fence(B), GOLD, (0.0, 0.0, 0.0, 0.0, 1.0)),
        (fence(B) + fence(A), GOLD, (1.0, 1.0, 1.0, 1.0, 0.0)),
        (fence(A) + "```json\n[", GOLD, (1.0, 1.0, 1.0, 1.0, 1.0)),
        (f"```json\n[{A}]", GOLD, (0.0,) * 5),
        (f"```\n[{A}]\n```", GOLD, (0.0,) * 5),
        # an empty gold is the text 'None'; any text without entries equals it, but under the weighted sum
        ("None", [], (1.0,) * 5),
        ("NONE.", [], (1.0,) * 5),
        ("There is nothing.", [], (1.0, 1.0, 1.0, 1.0, 0.0)),
        (fence(), [], (1.0, 1.0, 1.0, 1.0, 0.0)),
        ("```json\n5\n```", [], (1.0, 1.0, 1.0, 1.0, 0.0)),
        (fence(A), [], (0.0,) * 5),
        (fence("3"), [], (0.0,) * 5),
        (fence(), GOLD, (0.0,) * 5),
        # entries that cannot be read: dropped, counted by odLength, false alarms of the weighted sum (0.7 + 0.3 * 3/4)
        (fence(A, "null"), GOLD, (1.0, 1.0, 1.0, 0.5, 0.925)),
        (fence("7", A), GOLD, (1.0, 1.0, 1.0, 0.5, 0.925)),
        (fence(A, '{"bbox_2d": [0, 0, 9], "label": "a"}'), GOLD, (1.0, 1.0, 1.0, 0.5, 0.925)),
        (fence(A, '{"bbox_2d": "[0, 0, 10, 10]", "label": "a"}'), GOLD, (1.0, 1.0, 1.0, 0.5, 0.925)),
        ('```json\n{"bbox_2d": 1, "label": 2}\n```', GOLD, (0.0,) * 5),
        # of five numbers the first four, and true is 1
        ('```json\n[{"bbox_2d": [0, 0, 10, 10, 99], "label": "a"}]\n```', GOLD, (1.0,) * 5),
        ('```json\n[{"bbox_2d": [false, 0, 10, 10], "label": "a"}]\n```', GOLD, (1.0,) * 5),
        # labels: as written, or in lower case; so are the keys
        ('```json\n[{"bbox_2d": [0, 0, 10, 10], "label": "A"}]\n```', GOLD, (0.0, 0.0, 0.0, 0.0, 1.0)),
        ('```json\n[{"BBOX_2D": [0, 0, 10, 10], "LABEL": "A"}]\n```', GOLD, (0.0, 0.0, 0.0, 0.0, 1.0)),
        ('```json\n[{"bbox_2d": [0, 0, 10, 10]}]\n```', GOLD, (0.0, 0.0, 0.0, 0.0, 0.3)),
        # reversed and vast boxes are ignored by average precision; the weighted sum counts them as false alarms
        (fence('{"bbox_2d": [10, 0, 0, 10], "label": "a"}', A), GOLD, (1.0, 1.0, 1.0, 0.5, 0.925)),
        (fence('{"bbox_2d": [0, 0, 1e6, 1e6], "label": "a"}', A), GOLD, (1.0, 1.0, 1.0, 0.5, 0.925)),
        (fence('{"bbox_2d": [20, 0, 30, 10], "label": "a"}', A), GOLD, (0.5, 0.5, 0.5, 0.25, 0.925)),
        (fence('{"bbox_2d": [NaN, NaN, NaN, NaN], "label": "a"}'), GOLD, (0.0,) * 5),
        (fence('{"bbox_2d": [0, 0, 10, 1' + "0" * 400 + '], "label": "a"}'), GOLD, (0.0,) * 5),
        # one of two labels; half of 0.7 and 0.3 * (1 - 1/4)
        (fence(A), TWO, (0.5, 0.5, 0.5, 0.5, 0.575)),
    ],
)
def test_lists_on_odd_replies(answer: str, gold: Any, values: tuple[float, ...]):
    assert [value(name, tagged(answer), gold) for name in LISTS] == pytest.approx(values)


def test_the_block_that_counts_is_the_last_of_the_answer_or_the_whole_text():
    assert value("map", fence(A), GOLD) == value("weighted_sum", fence(A), GOLD) == 1.0
    assert value("od_ap", fence(A), GOLD) == value("odLength", "None", []) == 0.0
    late = f"<answer>{fence(A)}</answer> {fence(B)}"
    assert [value(name, late, GOLD) for name in LISTS] == [0.0, 1.0, 1.0, 1.0, 1.0]
    for twice in (tagged("none") + tagged(fence(A)), f"</answer><answer>{fence(A)}</answer><answer>"):
        assert [value(name, twice, GOLD) for name in LISTS] == [1.0] * 5
    assert value("weighted_sum", f"<ANSWER>{fence(A)}</ANSWER>{fence(B)}", GOLD) == 1.0, "the second look sees it"


def test_a_pair_without_a_label_takes_the_label_of_the_pair_before():
    bare = '{"bbox_2d": [50, 0, 80, 88]}'  # IoU 88/90, found after the other pair
    right = '[{"bbox_2d": [0, 0, 10, 10], "label": "b"}, ' + bare + "]"
    wrong = '[{"bbox_2d": [0, 0, 10, 10], "label": "a"}, ' + bare + "]"
    assert value("weighted_sum", f"```json{right}```", TWO) == pytest.approx(0.7 * 88 / 90 / 2 + 0.3)
    assert value("weighted_sum", f"```json{wrong}```", TWO) == pytest.approx(0.7 / 2 + 0.3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (fence(A, A, B, B), -0.5),
        (fence(A, '{"bbox_2d": [0.0, 0, 10, 10], "label": "a"}'), 0.0),  # not the same letters
        (f"I see [{A}, {A}] here", -0.5),  # no fence
        (f"```\n[{A}, {A}]\n```", -0.5),
        ("```json\n``` a a a a a a a", -0.25),  # an empty fence: words, four 6-grams of which two are equal
        (f"``` ``` [{A}, {A}]", -0.5),
        (fence(A, A) + fence(A), -0.5),  # the first fence
        (f"```json\n[{A}, {A}", 0.0),
        (fence('{"bbox_2d": [1], "label": 2}', '{"bbox_2d": [1], "label": 2}'), -0.5),
        (fence('{"label": "a"}', '{"label": "a"}') + " a a a a a a a", 0.0),  # a list, but nothing to count
        (fence(A, A, ""), -0.5),  # a stray comma
        (fence(A, A.replace('"', "'")), -0.5),
        (f"```json\n[{A} {A}]\n```", -0.5),
        (f"```json\n{A}, {A}\n```", -0.5),
        (f"```json\n[{A}, {A}, {{]\n```", -0.5),
        (fence() + " a a a a a a a", -0.2),  # so is an empty list
        ("a b c d e", 0.0),
        ("a a a a a a a a", -2 / 3),
        ("A a A a A a A", -0.5),
        ("", 0.0),
    ],
)
def test_repetition_on_odd_replies(text: str, expected: float):
    assert value("repetition", text, "?") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        ("<answer>no</answer><answer>yes</answer>", "no", 1.0),  # the first block
        ("<ANSWER>No</ANSWER> yes", "no", 1.0),
        ("<answer>no", "no", 1.0),
        ("yes, the answer: <answer>I know</answer>", "no", 1.0),
        ("<answer>maybe</answer>", "perhaps", 1.0),
        ("<answer></answer>yes", "yes", 0.0),
        ("<answer>eyes</answer>", "It is\nYES", 1.0),
    ],
)
def test_yes_or_no_on_odd_replies(text: str, gold: str, expected: float):
    assert value("yes_no", text, gold) == expected


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        ("<answer>a \n b</answer>", "a  b", 1.0),  # a line break after white space goes
        ("<answer>a\n\nb</answer>", "a b", 1.0),
        ("<answer>a\r\nb</answer>", "a b", 1.0),
        ("<answer>a\nb</answer>", "ab", 0.0),
        ("<answer>a b</answer>", "a  b", 0.0),
        ("<answer>x</answer><answer> RED... </answer>", "<answer>red</answer>", 1.0),
        ("<answer>red. .</answer>", "red. ", 0.0),
        ("<answer>red", "red", 0.0),
        ("Red.", "red", 1.0),
        ("<answer>3</answer>", 3, 1.0),
    ],
)
def test_equal_texts_on_odd_replies(text: str, gold: Any, expected: float):
    assert value("all_match", text, gold) == expected
    assert (value("levenshtein", text, gold) == 1.0) == bool(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<answer>[0, 0, 10, 5]</answer>", 0.5),
        ("<answer>[0,0,\n 10,  5]</answer> <answer>[0, 0, 10, 10]</answer>", 0.5),  # the first block
        ("<answer>[0, 0, 10, 5, 1] [0, 0, 10, 10]</answer>", 1.0),  # five numbers are none
        ("<answer>[ 0, 0, 10, 10]</answer>", 0.0),
        ("<answer>[-1, 0, 10, 10]</answer>", 0.0),
        ("<answer>[10, 10, 0, 0]</answer>", 0.0),
        ("[0, 0, 10, 10]", 0.0),
        ("<answer>[0, 0, 10, 10]", 0.0),
        ("<answer>[0, 0, 10, " + "9" * 400 + "]</answer>", 0.0),
    ],
)
def test_one_box_on_odd_replies(text: str, expected: float):
    assert value("iou", text, [0, 0, 10, 10]) == pytest.approx(expected)


def test_one_box_is_put_into_original_pixels_and_lists_are_not():
    half = Frame("pixels_resized", (200, 100), (100, 100))
    assert value("iou", "<answer>[0, 0, 5, 10]</answer>", [0, 0, 10, 10], half) == 1.0
    assert value("map", '```json\n[{"bbox_2d": [0, 0, 5, 10], "label": "a"}]\n```', GOLD, half) == 1.0


@pytest.mark.parametrize(
    ("text", "form", "form_rec"),
    [
        ("<think></think>\n <answer></answer>", 1.0, 0.0),
        ("<think>a</think> b <answer>c</answer>", 0.0, 0.0),
        ("<think>a</think><answer>b</answer>\n", 0.0, 0.0),
        ("<think>a</think><answer>b</answer> c </answer>", 1.0, 0.0),
        ("<think>a</answer>", 0.0, 0.0),
        ("x <think>a</think><answer>{[1, 2, 3, 4]}</answer> y", 0.0, 1.0),
        ("<think>a</think><answer>[1, 2, 3, 4]} {[1,2,3,4]</answer> } </answer>", 1.0, 1.0),
        ("<think>a</think><answer>{[1, 2, 3, 4, 5]}</answer>", 1.0, 0.0),
        ("<think>a</think><answer>{[[1, 2, 3, 4]]}</answer>", 1.0, 1.0),
    ],
)
def test_forms_on_odd_replies(text: str, form: float, form_rec: float):
    assert (value("format", text, "?"), value("format_rec", text, "?")) == (form, form_rec)


@pytest.mark.parametrize(
    "text",
    [
        "</answer>" + "<answer>" * 6_000,
        "<answer>" * 6_000 + "</answer>",
        "<think></think>" * 3_000,
        "```json[" * 6_000,
        "```json\n[" + "[], " * 12_000 + "0]```",
        "[{" * 25_000,
        '[ {"bbox_2d": "label"' * 2_500,
        "```json\n[" + A + "," * 50_000 + "```",
        "```json\n[{" + " ,  " * 12_000 + "```",
        "\n \n" * 16_000,
        "[1," + "1" * 50_000,
    ],
    ids=range(11),
)
def test_hostile_texts_of_fifty_thousand_characters_take_a_moment(text: str):
    for name in [name for name in [*REWARDS, *PENALTIES] if name.startswith("vlm_r1/")]:
        gold = [0, 0, 9, 9] if name.endswith("/iou") else TWO if name.removeprefix("vlm_r1/") in LISTS else "no"
        start = time.thread_time()
        value(name.removeprefix("vlm_r1/"), text, gold)
        assert time.thread_time() - start < 2, name

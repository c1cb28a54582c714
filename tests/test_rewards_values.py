"""What each reward and penalty says, to the number; where published definitions are odd, what we say instead."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_search import examples

from saccade.rewards import PENALTIES, REWARDS
from saccade.rewards.table import bind
from saccade.types import Completion, Frame, Sample, Score

FRAME = Frame("pixels_resized", (200, 100), (100, 100))


def reply(answer: str, tokens: int = 0) -> Completion:
    return Completion(f"<think>So.</think><answer>{answer}</answer>", token_ids=(1,) * tokens, frames=(FRAME,))


def says(name: str, answer: str, gold: object, options: dict[str, object] | None = None) -> float:
    score = bind(name, options or {})(reply(answer), Sample("s", (), "?", gold, "any"))
    assert score.masked is None
    return score.value


@pytest.mark.parametrize(
    ("answer", "whole", "partial"),
    [("A, C", 1.0, 1.0), ("C and A", 1.0, 1.0), ("A", 0.0, 0.5), ("A, B", 0.0, 0.0), ("A, B, C", 0.0, 0.0), ("", 0, 0)],
)
@pytest.mark.parametrize("gold", ["A, C", ["C", "A"]])
def test_several_letters_are_right_as_a_set_and_partial_credit_is_an_option(gold, answer, whole, partial) -> None:
    assert (says("choices", answer, gold), says("choices", answer, gold, {"partial": True})) == (whole, partial)


@pytest.mark.parametrize(
    ("options", "answer", "gold", "default", "changed"),
    [
        ({"digits": 3}, "0.333", r"\frac{1}{3}", 0.0, 1.0),
        ({"gold_decimals": 4}, r"2\sqrt{3}", "3.46", 1.0, 0.0),
        ({"units": "required"}, "5", "5 cm", 1.0, 0.0),
        ({"order": "strict"}, "2, 1", "1, 2", 1.0, 0.0),
        ({"order": "any"}, "(2, 1)", "(1, 2)", 0.0, 1.0),
    ],
)
def test_the_rules_of_mathematics_are_options_of_the_reward(options, answer, gold, default, changed) -> None:
    sample = Sample("s", (), "?", gold, "free_form")
    assert bind("math", {})(reply(answer), sample).value == default
    assert bind("math", options)(reply(answer), sample).value == changed


def item(box: list[float], label: str = "a") -> dict[str, object]:
    return {"bbox_2d": box, "label": label}


def written(*items: dict[str, object]) -> str:
    return str(list(items)).replace("'", '"')


# ---------------------------------------------------------------------------------------------------------- one box


def test_rec_iou_is_the_soft_iou_in_the_frame_of_the_reply():
    gold = [20, 10, 60, 50]  # in the frame: 10 10 30 50
    assert says("rec_iou", '{"bbox_2d": [10, 10, 30, 50]}', gold) == 1.0
    assert says("rec_iou", '{"bbox_2d": [10, 10, 30, 30]}', gold) == 0.5
    assert says("rec_iou", '{"bbox_2d": [20, 10, 60, 50]}', gold) == pytest.approx(1 / 5)
    assert says("rec_iou", "[10.0, 10.0, 30.0, 50.0]", gold) == 1.0
    assert says("rec_iou", "[-10, 10, 30, 50]", gold) == 0.5
    assert says("rec_iou", "[30, 50, 10, 10]", gold) == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        *(
            "(10,10),(30,50)",
            "(10,10,30,50)",
            "10, 10, 30, 50",
            "[10，10，30，50]",
            '{"x1":10,"y1":10,"x2":30,"y2":50}',
        ),
        *('{"bbox_2d": [[10,10],[30,50]]}', '{"bbox_2d": "[10,10,30,50]"}', "(10,10) (30,50)"),
    ],
)
def test_a_box_counts_in_every_spelling(answer):
    assert says("rec_iou", answer, [20, 10, 60, 50]) == 1.0
    assert says("format", answer, "?", {"form": "box"}) == 1.0


def test_an_entry_that_cannot_be_read_is_no_box_and_still_one_too_many():
    assert says("rec_iou", '{"bbox_2d": [1, 2, 3]}', [0, 0, 2, 1]) == 0.0
    assert says("rec_iou", '[{"bbox_2d": [10, 10, 30, 50]}, {"bbox_2d": [1, 2]}]', [20, 10, 60, 50]) == 0.0
    assert says("detection_f1", '[{"bbox_2d": [1, 2, 3], "label": "a"}]', []) == 0.0
    assert says("format", '{"bbox_2d": [1, 2, 3]}', "?", {"form": "box"}) == 0.0


@pytest.mark.parametrize(
    "answer", ['{"x": 20, "y": 30}', "x=20, y=30", "<point>20 30</point>", "[20，30]", "(20, 30)", "20, 30"]
)
def test_a_point_counts_in_every_spelling(answer):
    assert says("point_in_box", answer, [20, 10, 60, 50]) == 1.0


def test_thresholds_are_strict():
    gold = [20, 10, 60, 50]
    assert says("rec_iou", "[10, 10, 30, 30]", gold, {"threshold": 0.5}) == 0.0
    assert says("rec_iou", "[10, 10, 30, 31]", gold, {"threshold": 0.5}) == pytest.approx(21 / 40)
    assert says("rec_iou_at", "[10, 10, 30, 30]", gold) == 0.0
    assert says("rec_iou_at", "[10, 10, 30, 31]", gold) == 1.0
    assert says("rec_iou_at", "[10, 10, 30, 31]", gold, {"threshold": 0.9}) == 0.0


def test_a_box_one_pixel_wide_matches_itself():
    assert says("rec_iou", "[5, 5, 6, 9]", [10, 5, 12, 9]) == 1.0


def test_boxes_beside_the_first_are_not_free():
    assert says("rec_iou", "[[10, 10, 30, 50], [1, 1, 2, 2]]", [20, 10, 60, 50]) == 0.0


def test_the_image_of_a_box_is_named_by_the_sample():
    second = Frame("thousand", (10, 10), (10, 10))
    completion = Completion("<think>a</think><answer>[100, 100, 500, 500]</answer>", frames=(FRAME, second))
    sample = Sample("s", (), "?", [1, 1, 5, 5], "difference", {"image_index": 1})
    assert REWARDS["rec_iou"](completion, sample).value == 1.0


# ------------------------------------------------------------------------------------------------------------- lists

A, B = [0, 0, 40, 40], [100, 0, 160, 90]  # in the frame: 0 0 20 40 and 50 0 80 90
A_IN, B_IN = [0, 0, 20, 40], [50, 0, 80, 90]
LISTS = ("detection_map", "detection_od_length", "detection_f1")


@pytest.mark.parametrize(
    ("answer", "gold", "precision", "od_length", "f1"),
    [
        (written(item(A_IN), item(B_IN)), [item(A), item(B)], 1.0, 1.0, 1.0),
        (written(item(A_IN)), [item(A), item(B)], 51 / 101, 51 / 101, 2 / 3),
        (written(*[item(A_IN)] * 4), [item(A)], 1.0, 0.25, 2 / 5),
        (written(item(A_IN), item(B_IN, "absent")), [item(A)], 1.0, 0.5, 2 / 3),
        (written(item(A_IN)) + ' {"bbox_2d": [1, 2]}', [item(A)], 1.0, 0.5, 2 / 3),
        (written(item(A_IN, "A ")), [item(A, "a")], 1.0, 1.0, 1.0),
        (written(item(A_IN, "b")), [item(A, "a")], 0.0, 0.0, 0.0),
        (written(item(A)), [item(A)], 0.1, 0.1, 1.0),  # half as wide: found at the first of ten thresholds
        ("[]", [], 1.0, 1.0, 1.0),
        ("None", [], 1.0, 1.0, 1.0),
        ("```json\n[]\n```", [], 1.0, 1.0, 1.0),
        ("There are none of these.", [], 0.0, 0.0, 0.0),
        ("", [], 0.0, 0.0, 0.0),
        ("[]", [item(A)], 0.0, 0.0, 0.0),
        (written(item(A_IN)), [], 0.0, 0.0, 0.0),
    ],
)
def test_lists_of_boxes(answer, gold, precision, od_length, f1):
    assert [says(name, answer, gold) for name in LISTS] == pytest.approx([precision, od_length, f1])


def test_enumerating_everything_pays_under_map_and_not_under_od_length():
    spurious = [item([x, 60, x + 5, 70]) for x in range(0, 90, 6)]
    honest, spam = written(item(A_IN)), written(item(A_IN), *spurious, item(B_IN))
    gold = [item(A), item(B)]
    assert says("detection_map", spam, gold) > says("detection_map", honest, gold)
    assert says("detection_od_length", spam, gold) < says("detection_od_length", honest, gold)


# ------------------------------------------------------------------------------------------------------ short answers


@pytest.mark.parametrize(
    ("name", "answer", "gold", "value"),
    [
        ("exact_text", "No Defect.", "no defect", 1.0),
        ("exact_text", "No Defects", "no defect", 0.0),
        ("yes_no", "I do not know", "no", 0.0),
        ("yes_no", "No.", "no", 1.0),
        ("choice", "(A)", "A", 1.0),
        ("choice", "A)", "A", 1.0),
        ("choice", "A cat", "A", 0.0),
        ("choice", "Ans is A, not B.", "A", 1.0),
        ("choice", "Ans is A, not B.", "B", 0.0),
        ("choice", "Final Answer:B", "B", 1.0),
        ("number", "65°", "65", 1.0),
        ("number", "12 cm", "12", 1.0),
        ("number", "0.5", "1/2", 1.0),
        ("value", "blue", "blue", 1.0),
        ("value", "3", "4", 0.0),
        ("math", r"\frac{1}{2}", "0.5", 1.0),
        ("math", r"3\pi", "3π", 1.0),
    ],
)
def test_short_answers(name, answer, gold, value):
    assert says(name, answer, gold) == value


def test_an_option_may_be_named_by_its_text():
    sample = Sample("s", (), "?", "B", "choice", {"options": ["red", "blue"]})
    assert REWARDS["choice"](reply("blue"), sample).value == 1.0
    assert REWARDS["choice"](reply("red"), sample).value == 0.0


def test_tolerance_is_an_option_of_the_number():
    assert says("number", "104", 100, {"relative": 0.05}) == 1.0
    assert says("number", "104", 100) == 0.0


NOT_OF_THE_ANSWER = {"format", "hard", "cosine_length", "llm_judge", "language_consistency", "perception"}
PLAIN = sorted(name for name in REWARDS if not name.startswith("vlm_r1/"))


@pytest.mark.parametrize("name", sorted(set(PLAIN) - NOT_OF_THE_ANSWER))
def test_without_an_answer_tag_there_is_no_answer(name):
    sample = Sample("s", (), "?", "3", "count")
    for text in ("3", "<think>3</think>3", "<think><answer>3</answer></think>", "<answer>3"):
        score = REWARDS[name](Completion(text, frames=(FRAME,)), sample)
        assert (score.value, score.reason, score.masked) == (0.0, "no answer tag", None)


def test_a_gold_that_cannot_be_graded_masks():
    for name, gold in (("choice", "foo"), ("number", "many"), ("yes_no", "blue"), ("exact_text", "")):
        score = REWARDS[name](reply("3"), Sample("s", (), "?", gold, "any"))
        assert score.masked is not None and "cannot be graded" in score.masked


# -------------------------------------------------------------------------------------------------------------- form


def test_format_is_strict():
    sample = Sample("s", (), "?", "3", "count")
    assert REWARDS["format"](reply("4"), sample) == Score(1.0, None)
    for text in (reply("3").text + "\n", "Hm. " + reply("3").text, "<think></think><answer>3</answer>", "3"):
        assert REWARDS["format"](Completion(text), sample).value == 0.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<think>a</think><answer>3</answer>", 1.0),
        ("<think>a</think><answer>4</answer>", 0.0),
        ("<think>a</think><answer>3</answer> ", 0.0),
        ("<answer>3</answer>", 0.0),
        ("3", 0.0),
    ],
)
def test_hard_is_one_for_strict_form_with_a_right_answer_only(text, value):
    hard = bind("hard", {"accuracy": "number"})
    assert hard(Completion(text), Sample("s", (), "?", "3", "count")).value == value


def test_hard_passes_options_on_and_needs_full_marks():
    gold = [20, 10, 60, 50]
    assert says("hard", "[10, 10, 30, 40]", gold, {"accuracy": "rec_iou"}) == 0.0
    assert says("hard", "[10, 10, 30, 40]", gold, {"accuracy": "rec_iou_at"}) == 1.0
    assert says("hard", "[10, 10, 30, 40]", gold, {"accuracy": "rec_iou_at", "options": {"threshold": 0.8}}) == 0.0


# --------------------------------------------------------------------------------------------------------- penalties


def penalty(name: str, completion: Completion, **options: int) -> float:
    return PENALTIES[name](completion, Sample("s", (), "?", "3", "count"), **options).value


def test_repetition_is_the_share_of_ngrams_seen_before():
    assert penalty("repetition", Completion("one two three four five")) == 0.0
    assert penalty("repetition", Completion("a b c d e f g h i j k l")) == 0.0
    assert penalty("repetition", Completion("A a " * 10), ngram=2) == pytest.approx(-18 / 19)
    assert penalty("repetition", Completion("x y x y x y"), ngram=2) == pytest.approx(-3 / 5)


def test_soft_overlong_falls_linearly_over_the_buffer():
    values = [
        penalty("soft_overlong", reply("3", tokens=n), max_length=100, buffer=20) for n in (0, 80, 85, 90, 100, 999)
    ]
    assert values == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]


@pytest.mark.parametrize("options", [{"max_length": 10, "buffer": 0}, {"max_length": 10, "buffer": 11}])
def test_an_impossible_buffer_is_refused(options):
    with pytest.raises(ValueError, match=r"expected 0 < buffer <= max_length|greater than or equal to 1"):
        bind("soft_overlong", options)


# ------------------------------------------------------------------------------------------------------------- total

PIECES = [
    "<think>a</think>",
    "<answer>",
    "</answer>",
    "<think>",
    '{"bbox_2d": [',
    "1, 2, 3, 4",
    "]}",
    "[]",
    "[",
    "]",
    "a",
    "-1e308",
]
PIECES += [
    "NaN",
    "1e999",
    ', "label": "a"',
    "B",
    "yes",
    "3",
    "{",
    "}",
    "9" * 30,
    "\ud800",
    "\\frac{1}{0}",
    " ",
    "\n",
    "None",
    "or",
]
TEXTS = st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
ANSWERS = TEXTS.map(lambda text: f"<think>a</think><answer>{text}</answer>") | TEXTS
GOLDS = {
    **{key: [0, 0, 10, 10] for key in ("rec_iou", "rec_iou_at", "rec_iou_dynamic", "point_in_box", "vlm_r1/iou")},
    **{key: [item(A), item(B, "b")] for key in (*LISTS, "detection_ap50", "detection_weighted_sum", "box_repetition")},
    **{f"vlm_r1/{name}": [item(A), item(B, "b")] for name in ("map", "od_ap", "od_ap50", "odLength", "weighted_sum")},
    **dict.fromkeys(("number", "value", "counting", "math", "format", "hard", "cosine_length"), "3"),
    **dict.fromkeys(("choice", "choices"), "B"),
    **dict.fromkeys(("exact_text", "char_similarity", "language_consistency", "perception", "llm_judge"), "red"),
    **dict.fromkeys(("yes_no", "vlm_r1/yes_no"), "yes"),
    **{f"vlm_r1/{name}": "red" for name in ("format", "format_rec", "all_match", "levenshtein", "cosine")},
}
OPTIONS = {
    "hard": {"accuracy": "number"},
    "cosine_length": {"accuracy": "number", "max_length": 10},
    "language_consistency": {"script": "latin"},
    "soft_overlong": {"max_length": 10, "buffer": 5},
}
FACTS = {"facts": ["a red circle", ["two", "2"]]}
SLOW = {"math", "llm_judge"}  # ask another process or a server: their laws are in other files


@pytest.mark.parametrize("name", sorted((REWARDS.keys() | PENALTIES.keys()) - SLOW))
@given(text=ANSWERS, tokens=st.integers(0, 20))
@settings(max_examples=examples(60))
def test_any_text_gets_a_finite_value_in_range_without_an_exception(name, text, tokens):
    completion = Completion(text, token_ids=(0,) * tokens, frames=(FRAME,))
    score = bind(name, OPTIONS.get(name, {}))(completion, Sample("s", (), "?", GOLDS.get(name, "3"), "any", FACTS))
    low, high = (-1.0, 0.0) if name in PENALTIES else (0.0, 1.0)
    assert math.isfinite(score.value) and low <= score.value <= high
    assert score.masked is None
    assert score.value == high or score.reason


def test_every_reward_has_a_gold_in_these_tests():
    assert set(GOLDS) - set(PENALTIES) == set(REWARDS)


@pytest.mark.parametrize("gold", [[1, 2], {"a": 1}, None, True, "x", math.nan, math.inf, 10**400, -1, 2.5])
def test_a_gold_that_is_no_count_masks_the_reply(gold):
    score = REWARDS["counting"](Completion("<think>x</think><answer>3</answer>"), Sample("i", (), "q", gold, "count"))
    assert score.masked is not None and "is no count" in score.masked

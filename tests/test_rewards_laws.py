"""What each reward must not let through: more of a good thing never costs, more of a bad one never pays."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_search import examples

from saccade.rewards import PENALTIES, REWARDS
from saccade.rewards.table import bind
from saccade.types import Completion, Frame, Sample, Score

FRAME = Frame("pixels_original", (200, 200), (200, 200))


def reply(answer: str, think: str = "So.", tokens: int = 0, version: int = 0, finish: Any = "stop") -> Completion:
    text = f"<think>{think}</think><answer>{answer}</answer>"
    return Completion(text, (1,) * tokens, finish_reason=finish, frames=(FRAME,), weights_version=version)


def of(
    name: str, completion: Completion, gold: Any, question: str = "Where?", meta: Any = None, **options: Any
) -> Score:
    score = bind(name, options)(completion, Sample("s", (), question, gold, "any", meta or {}))
    assert isinstance(score, Score)
    return score


def says(name: str, answer: str, gold: Any, **options: Any) -> float:
    score = of(name, reply(answer), gold, **options)
    assert score.masked is None
    return score.value


def item(x: float, y: float, side: float = 20, label: str = "cat") -> dict[str, Any]:
    return {"bbox_2d": [x, y, x + side, y + side], "label": label}


# ---------------------------------------------------------------------------------------------------------- one box


def test_a_dynamic_threshold_rises_from_start_to_end_and_stays_there():
    def at(step: int) -> float:
        return of("rec_iou_dynamic", reply("[0, 0, 10, 8]", version=step), [0, 0, 10, 10], over=100).value

    assert [at(step) for step in (0, 74, 76, 100, 5000)] == [0.8, 0.8, 0.0, 0.0, 0.0]
    full = of("rec_iou_dynamic", reply("[0, 0, 10, 10]", version=5000), [0, 0, 10, 10])
    assert full == Score(1.0)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ('{"point_2d": [15, 15]}', 1.0),
        ("(10, 20)", 1.0),  # on the edge
        ("15, 15", 1.0),
        ('<point x="15.5" y="15.5" alt="cup">cup</point>', 1.0),
        ("[9, 15]", 0.0),
        ("[[15, 15], [16, 16]]", 0.0),  # strewing points
        ("[10, 10, 20, 20]", 0.0),  # a box is no point
        ("somewhere", 0.0),
    ],
)
def test_one_point_in_the_box_is_right(answer: str, value: float):
    assert says("point_in_box", answer, [10, 10, 20, 20]) == value


# ------------------------------------------------------------------------------------------------------------- lists

LISTS = ("detection_map", "detection_ap50", "detection_od_length", "detection_weighted_sum", "detection_f1")
GOLD = [item(0, 0), item(50, 50), item(100, 100, label="dog")]
JUNK = st.builds(item, st.integers(0, 170), st.integers(0, 170), st.integers(1, 30), st.sampled_from(["cat", "cow"]))


@given(found=st.lists(st.sampled_from(GOLD), unique_by=str), junk=st.lists(JUNK, min_size=1, max_size=6))
@settings(max_examples=examples(150))
def test_boxes_that_find_nothing_never_pay_when_they_count(found: list[dict], junk: list[dict]):
    wrong = [one for one in junk if one["label"] == "cow"]
    for name in ("detection_od_length", "detection_weighted_sum", "detection_f1"):
        alone, more = says(name, json.dumps(found), GOLD), says(name, json.dumps(found + wrong), GOLD)
        assert more <= alone + 1e-12, name


@given(order=st.permutations(GOLD))
@settings(max_examples=examples(30))
def test_every_box_that_is_found_pays(order: list[dict]):
    for name in LISTS:
        values = [says(name, json.dumps(list(order)[:n]), GOLD) for n in range(1, 4)]
        assert values == sorted(values) and values[-1] == 1.0, name


def test_copies_of_the_right_box_do_not_pay():
    once = json.dumps([item(0, 0)])
    for copies in (2, 5, 50):
        many = json.dumps([item(0, 0)] * copies)
        for name in ("detection_od_length", "detection_weighted_sum", "detection_f1"):
            assert says(name, many, [item(0, 0)]) < says(name, once, [item(0, 0)])
        assert says("box_repetition", many, [item(0, 0)]) == pytest.approx(-(copies - 1) / copies)


def test_weighted_sum_to_the_number():
    assert says("detection_weighted_sum", json.dumps([item(0, 0, label="dog")]), [item(0, 0)]) == 0.0
    two = json.dumps([item(0, 0), item(100, 100)])
    assert says("detection_weighted_sum", two, [item(0, 0)]) == pytest.approx(0.7 / 2 + 0.3 * 0.75)
    shifted = json.dumps([{"bbox_2d": [0, 0, 20, 16], "label": "cat"}])
    assert says("detection_weighted_sum", shifted, [item(0, 0)]) == pytest.approx(0.7 * 0.8 + 0.3)
    assert says("detection_weighted_sum", shifted, [item(0, 0)], position=0.0, completeness=1.0) == 1.0
    assert says("detection_weighted_sum", '[{"bbox_2d": [0, 0, 20, 20]}]', [item(0, 0)]) == 0.0, "a label is missing"


def test_moving_a_copy_by_a_pixel_does_not_hide_it_and_a_crowd_of_the_gold_is_free():
    near = json.dumps([item(0, 0), {"bbox_2d": [0, 0, 20, 20.5], "label": "cat"}])
    assert says("box_repetition", near, [item(0, 0)]) == -0.5
    assert says("box_repetition", near, [item(0, 0), item(0, 0)]) == 0.0
    apart = json.dumps([item(0, 0), item(0, 0, label="dog"), item(30, 0)])
    assert says("box_repetition", apart, [item(0, 0)]) == 0.0
    assert says("box_repetition", "no list", [item(0, 0)]) == 0.0


# ------------------------------------------------------------------------------------------------------------- words


def test_nearness_of_letters_falls_with_every_mistake_and_ends_at_the_threshold():
    values = [
        says("char_similarity", answer, "platform 9") for answer in ("Platform 9.", "platform 8", "plxxform 8", "?")
    ]
    assert values == pytest.approx([1.0, 8 / 9, 6 / 9, 0.0])
    assert says("char_similarity", "Platform 9", "platform 9", case=True) == pytest.approx(8 / 9)
    assert says("char_similarity", "platform9", "platform 9", spaces=True) == pytest.approx(0.9)
    assert says("char_similarity", "color", ["colour", "color"]) == 1.0
    assert says("char_similarity", "aaaaaaaaaa", "platform 9") == 0.0, "a text of the same length earns nothing"


def test_texts_that_are_compared_have_a_longest_length_also_after_they_are_folded():
    page = "a line of print " * 2_000
    assert says("char_similarity", page, page) == says("char_similarity", page, page + page, spaces=True) == 1.0, (
        "both are cut"
    )
    golds = ["plain words " * 600] * 13
    started = time.process_time()
    assert says("char_similarity", "\ufdfa" * 20_000, golds) == 0.0  # each becomes 18 characters
    assert time.process_time() - started < 1.0
    masked = of("char_similarity", reply("plain words"), golds * 3).masked or ""
    assert masked.startswith("gold cannot be graded: ") and "expected 100,000 at most" in masked


@given(gold=st.integers(0, 30), off=st.integers(0, 40))
def test_a_count_is_worth_less_the_further_off_it_is(gold: int, off: int):
    near, far = (says("counting", str(gold + n), gold) for n in (off, off + 1))
    assert 0.0 <= far <= near <= 1.0
    assert (near == 1.0) is (off == 0)


def test_a_fraction_is_no_count():
    assert says("counting", "2.5", 3) == says("counting", "-3", 3) == says("counting", "1 or 2", 3) == 0.0
    assert of("counting", reply("2"), "many").masked is not None


@pytest.mark.parametrize(
    ("think", "question", "value"),
    [
        ("It is red.", "What colour?", 1.0),
        ("它是红色的", "这是什么颜色？", 1.0),
        ("它是红色的", "What colour?", 0.0),
        ("It is 红", "What colour?", 4 / 5),
        ("x = 3 so α + β", "How many?", 1.0),
        ("かれは赤い", "これは何色ですか", 1.0),
        ("1 + 1 = 2", "How many?", 0.0),  # digits alone would be a way around it
    ],
)
def test_a_thought_in_the_questions_script(think: str, question: str, value: float):
    assert of("language_consistency", reply("3", think), "3", question).value == pytest.approx(value)


def test_a_script_may_be_named_and_a_question_without_letters_needs_it():
    assert of("language_consistency", reply("3", "So."), "3", "1 + 1?").masked is not None
    assert of("language_consistency", reply("3", "So."), "3", "1 + 1?", script="latin").value == 1.0
    with pytest.raises(ValueError, match="'script': got 'klingon'"):
        bind("language_consistency", {"script": "klingon"})


def test_facts_are_counted_when_their_words_stand_together():
    meta = {"facts": ["AB = 5", "right angle", ["two", "2"]]}
    assert of("perception", reply("3", "AB = 5 and a Right Angle; two"), "3", meta=meta).value == 1.0
    assert of("perception", reply("3", "angle right, AB is 5, twofold"), "3", meta=meta).value == 0.0
    assert of("perception", reply("3", "I see 2 of them"), "3", meta=meta).value == pytest.approx(1 / 3)
    assert of("perception", reply("3"), "3").masked is not None


# ----------------------------------------------------------------------------------------------- form, lengths, repeats


@pytest.mark.parametrize(
    ("form", "right", "wrong"),
    [
        ("letter", "B", "maybe"),
        ("number", "12 cm", "4 or 3"),
        ("yes_no", "Yes.", "perhaps"),
        ("box", "[1, 2, 3, 4]", "[1, 2, 3, 4] [1, 2, 3, 4]"),
        ("boxes", "[]", "nothing there"),
        ("point", "(1, 2)", "[1, 2, 3, 4]"),
        ("boxed", r"\boxed{3}", "3"),
    ],
)
def test_a_format_may_ask_for_the_form_of_the_answer(form: str, right: str, wrong: str):
    assert says("format", right, "?", form=form) == 1.0
    assert says("format", wrong, "?", form=form) == 0.0
    assert of("format", Completion(reply(right).text + "."), "?", form=form).value == 0.0


@given(right_tokens=st.integers(0, 300), wrong_tokens=st.integers(0, 300))
def test_a_right_answer_is_worth_more_than_any_wrong_one_at_any_length(right_tokens: int, wrong_tokens: int):
    def value(answer: str, tokens: int) -> float:
        return of("cosine_length", reply(answer, tokens=tokens), "3", accuracy="number", max_length=100).value

    right, wrong = value("3", right_tokens), value("4", wrong_tokens)
    assert 0.0 <= wrong < right <= 1.0
    assert value("3", right_tokens + 1) <= right
    if wrong_tokens + 1 < 100:
        assert value("4", wrong_tokens + 1) >= wrong


def test_cosine_length_has_the_published_values_moved_into_zero_to_one():
    def value(answer: str, tokens: int, finish: str = "stop") -> float:
        completion = reply(answer, tokens=tokens, finish=finish)
        return of("cosine_length", completion, "3", accuracy="number", max_length=100).value

    published = [(1.0 + 0.5) / 1.5, (0.75 + 0.5) / 1.5, (0.5 + 0.5) / 1.5, (0.5 + 0.5) / 1.5]
    assert [value("3", n) for n in (0, 50, 100, 2000)] == pytest.approx(published)
    assert [value("4", n) for n in (0, 50, 99)] == pytest.approx([0.0, 1 / 6, 1 / 3], abs=1e-3)
    assert value("4", 100) == value("4", 50, "length") == 0.0
    with pytest.raises(ValueError, match="wrong_ceiling < right_floor"):
        bind("cosine_length", {"accuracy": "number", "max_length": 9, "right_floor": 0.2, "wrong_ceiling": 0.3})


def test_repeats_are_seen_without_spaces_and_in_one_endless_word():
    def value(think: str, gold: str = "3", answer: str = "3") -> float:
        return of("repetition", reply(answer, think), gold).value

    assert value("我看到一个红色的圆形物体在左边" * 12) < -0.8
    assert value("a" * 4000) < -0.9
    assert value("abc" * 2000) < -0.9
    assert value("wait no wait " * 40) < -0.9
    listing = json.dumps([item(10 * i, 0) for i in range(8)])
    assert value("I see them.", answer=listing) == 0.0, "a list of boxes repeats its words by nature"
    refrain = "row row row your boat gently down the stream " * 3
    assert value("I read it.", refrain, refrain) == 0.0, "what the gold repeats is free"


# -------------------------------------------------------------------------------------------------- VLM-R1's arithmetic


def fenced(*items: Any) -> str:
    return f"```json\n{json.dumps(list(items))}\n```"


@pytest.mark.parametrize(
    ("name", "answer", "gold", "value"),
    [
        ("iou", '{"bbox_2d": [0, 0, 10, 5]}', [0, 0, 10, 10], 0.5),
        ("iou", "[0, 0, 10, 10] [90, 90, 99, 99]", [0, 0, 10, 10], 1.0),  # further boxes are free
        ("iou", "[0.0, 0, 10, 10]", [0, 0, 10, 10], 0.0),
        ("iou", "[5, 5, 6, 9]", [5, 5, 6, 9], 0.0),  # one pixel wide
        ("odLength", fenced(*[item(0, 0)] * 4), [item(0, 0)], 0.25),
        ("odLength", "None", [], 1.0),
        ("odLength", "Plenty of cats here, I think.", [], 1.0),
        ("od_ap", fenced(item(0, 0), item(9, 9, label="absent")), [item(0, 0)], 1.0),
        ("od_ap", fenced(item(0, 0, label="Cat")), [item(0, 0)], 0.0),
        ("map", fenced(item(0, 0)), [item(0, 0), item(50, 50)], 51 / 101),
        ("weighted_sum", fenced(item(0, 0)), [item(0, 0)], 1.0),
        ("weighted_sum", fenced(item(0, 0, label="dog")), [item(0, 0)], 0.3),
        ("weighted_sum", fenced(item(0, 0), item(90, 90)), [item(0, 0)], 0.925),
        ("all_match", "No Defect.", "no defect", 1.0),
        ("yes_no", "I do not know", "no", 1.0),
        ("levenshtein", "abd", "abc", 2 / 3),
        ("format", "", "?", 1.0),
        ("format_rec", '{"bbox_2d": [1, 2, 3, 4]}', "?", 1.0),
        ("format_rec", "[1, 2, 3, 4]", "?", 0.0),
        ("format_rec", '{"bbox_2d": [1.5, 2, 3, 4]}', "?", 0.0),
    ],
)
def test_compat_rewards_count_as_vlm_r1_counts(name: str, answer: str, gold: Any, value: float):
    assert says(f"vlm_r1/{name}", answer, gold) == pytest.approx(value)


def test_the_published_format_takes_an_empty_thought_and_no_newline_at_the_end():
    sample = Sample("s", (), "?", "3", "any")
    for text, value in (
        ("<think></think><answer></answer>", 1.0),
        (reply("3").text + "\n", 0.0),
        ("x" + reply("3").text, 0.0),
    ):
        assert REWARDS["vlm_r1/format"](Completion(text), sample).value == value


def test_the_published_cosine_falls_and_rises_again():
    values = [of("vlm_r1/cosine", reply("4", tokens=n), "3").value for n in (0, 512, 1024, 1536, 2048)]
    assert values == pytest.approx([1.0, 0.75, 0.5, 0.75, 1.0])


def test_the_published_repetition_counts_boxes_or_words():
    assert of("vlm_r1/repetition", reply(fenced(*[item(0, 0)] * 4)), "?").value == -0.75
    assert of("vlm_r1/repetition", Completion("a b c"), "?").value == 0.0
    assert of("vlm_r1/repetition", Completion("a a a a a a a"), "?").value == -0.5
    assert math.isclose(PENALTIES["vlm_r1/repetition"](Completion("a " * 105), Sample("s", (), "", 0, "")).value, -0.99)

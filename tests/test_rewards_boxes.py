"""Rewards and penalties of boxes at their edges: thresholds, defaults, and the reason that is given."""

from __future__ import annotations

import json
from typing import Any

import pytest

from saccade.rewards.boxes import frame_of, gold_box, gold_list
from saccade.rewards.table import bind
from saccade.types import Completion, Frame, Sample, Score

FRAME = Frame("pixels_original", (200, 200), (200, 200))
GOLD = [0, 0, 100, 100]


def score(name: str, answer: Any, gold: Any, version: int = 0, **options: Any) -> Score:
    text = f"<think>So.</think><answer>{answer if isinstance(answer, str) else json.dumps(answer)}</answer>"
    found = bind(name, options)(
        Completion(text, frames=(FRAME,), weights_version=version), Sample("s", (), "Where?", gold, "any")
    )
    assert isinstance(found, Score)
    return found


def high(height: int) -> list[int]:
    """A box whose IoU with the gold is height / 100."""
    return [0, 0, 100, height]


def item(box: list[int], label: str = "cat") -> dict[str, Any]:
    return {"bbox_2d": box, "label": label}


ONE, TWO = item(GOLD), item([150, 150, 160, 160])

# ---------------------------------------------------------------------------------------------------------- one box


def test_one_box_is_worth_its_iou_and_says_why_it_is_not_all() -> None:
    assert score("rec_iou", GOLD, GOLD) == Score(1.0, None)
    assert score("rec_iou", high(50), GOLD) == Score(0.5, "iou 0.50")
    assert score("rec_iou", "somewhere", GOLD) == Score(0.0, "no box")
    assert score("rec_iou", [GOLD, GOLD], GOLD) == Score(0.0, "more than one box")


def test_accuracy_at_a_threshold_is_one_above_it_and_gives_a_reason_only_below() -> None:
    assert score("rec_iou_at", high(51), GOLD) == Score(1.0, None)
    assert score("rec_iou_at", high(50), GOLD) == Score(0.0, "iou 0.50")
    assert score("rec_iou_at", GOLD, GOLD, threshold=0.99) == Score(1.0, None)


@pytest.mark.parametrize(
    ("version", "threshold"), [(0, 50), (25, 60), (50, 70), (75, 80), (100, 90), (101, 90), (9_999, 90)]
)
def test_the_dynamic_threshold_rises_in_a_straight_line_from_a_half_to_nine_tenths(
    version: int, threshold: int
) -> None:
    assert score("rec_iou_dynamic", high(threshold - 1), GOLD, version).value == 0.0
    assert score("rec_iou_dynamic", high(threshold + 1), GOLD, version).value == (threshold + 1) / 100


# ------------------------------------------------------------------------------------------------------------- lists


def test_lists_say_what_they_found() -> None:
    assert score("detection_map", [ONE], [ONE, TWO]) == Score(51 / 101, "map 0.50")
    assert score("detection_map", [ONE], [ONE]) == Score(1.0, None)
    assert score("detection_od_length", [ONE, TWO], [ONE]) == Score(0.5, "2 boxes for 1, 0.50")
    assert score("detection_od_length", [ONE], [ONE]) == Score(1.0, None)
    assert score("detection_f1", [ONE], [ONE, TWO]) == Score(2 / 3, "f1 0.67")
    assert score("detection_f1", [ONE], [ONE]) == Score(1.0, None)
    assert score("detection_f1", "nothing there", [ONE]) == Score(0.0, "no list of boxes")


def test_precision_at_a_half_looks_at_one_threshold() -> None:
    assert score("detection_ap50", [item(high(50))], [ONE]).value == 1.0
    assert score("detection_ap50", [item(high(49))], [ONE]).value == 0.0


def test_the_weighted_sum_is_place_label_and_completeness() -> None:
    assert score("detection_weighted_sum", [ONE], [ONE, TWO]) == Score(
        pytest.approx(0.7 / 2 + 0.3 * 0.75), "1 of 2 boxes, 0.57"
    )
    halves = score("detection_weighted_sum", [item(high(50))], [ONE])
    assert halves == Score(pytest.approx(0.7 * 0.5 + 0.3), "1 of 1 boxes, 0.65")
    assert score("detection_weighted_sum", [item(high(49))], [ONE]).value == 0.0
    assert score("detection_weighted_sum", [ONE, TWO], [ONE, TWO]) == Score(1.0, None)


def test_a_weight_on_labels_pays_for_every_pair_and_the_weights_are_shares_of_their_sum() -> None:
    # one of two is found: place 1/2, label 1/2, complete 1 - (1/2) / 2
    options = {"position": 1.0, "label": 2.0, "completeness": 1.0}
    assert score("detection_weighted_sum", [ONE], [ONE, TWO], **options).value == pytest.approx(2.25 / 4)
    # both are answered but one is wrong: the same by the other half of completeness
    wrong = item([170, 0, 180, 10])
    assert score("detection_weighted_sum", [ONE, wrong], [ONE], **options).value == pytest.approx(2.25 / 4)


def test_the_weighted_sum_of_empty_lists_is_one_and_of_one_empty_list_nothing() -> None:
    assert score("detection_weighted_sum", [], []) == Score(1.0, None)
    assert score("detection_weighted_sum", [], [ONE]) == Score(0.0, "one list is empty")
    assert score("detection_weighted_sum", [ONE], []) == Score(0.0, "one list is empty")


def test_a_weighted_sum_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="got three weights of 0"):
        bind("detection_weighted_sum", {"position": 0.0, "label": 0.0, "completeness": 0.0})
    assert score("detection_weighted_sum", [ONE], [ONE], position=0.0, label=1e-3, completeness=0.0).value == 1.0


# -------------------------------------------------------------------------------------------------------------- gold


@pytest.mark.parametrize("index", [-1, 2])
def test_a_box_in_an_image_that_the_prompt_does_not_have_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match=f"asks for boxes in image {index}, but the completion has 2 frames"):
        frame_of(Sample("s", (), "?", GOLD, "refer", {"image_index": index}), (FRAME, FRAME))


def test_the_first_image_is_meant_unless_the_sample_says_otherwise() -> None:
    other = Frame("thousand", (10, 10), (10, 10))
    assert frame_of(Sample("s", (), "?", GOLD, "refer"), (FRAME, other)) == FRAME
    assert frame_of(Sample("s", (), "?", GOLD, "refer", {"image_index": 1}), (FRAME, other)) == other


@pytest.mark.parametrize("answer", [[1, 2, 3], [1, 2, 3, 4, 5], ["a", 2, 3, 4], 7, None])
def test_a_gold_box_has_four_numbers(answer: Any) -> None:
    with pytest.raises(ValueError, match="expected four numbers"):
        gold_box(Sample("s", (), "?", answer, "refer"))


@pytest.mark.parametrize("answer", ["a cat", [[1, 2, 3, 4]], {"bbox_2d": GOLD}, [ONE, "a cat"]])
def test_a_gold_list_has_items_with_boxes(answer: Any) -> None:
    with pytest.raises(ValueError, match="expected a list of"):
        gold_list(Sample("s", (), "?", answer, "detect"))


# --------------------------------------------------------------------------------------------------------- penalties


def test_a_copy_is_a_box_whose_iou_with_an_earlier_one_is_nine_tenths_or_more() -> None:
    assert score("box_repetition", [ONE, item(high(90))], [ONE]) == Score(-0.5, "1 of 2 boxes repeated")
    assert score("box_repetition", [ONE, item(high(89))], [ONE]) == Score(0.0, None)
    assert score("box_repetition", [ONE, item(high(50))], [ONE], threshold=0.5).value == -0.5
    assert score("box_repetition", [ONE, item(high(49))], [ONE], threshold=0.5).value == 0.0


def test_a_copy_of_a_copy_counts_only_where_it_is_one_of_the_first() -> None:
    # 90 repeats 100; 81 is 0.9 of 90 but only 0.81 of 100, which is what was kept
    assert score("box_repetition", [ONE, item(high(90)), item(high(81))], [ONE]).value == pytest.approx(-1 / 3)


def test_boxes_apart_are_no_copies_at_any_threshold_and_equal_ones_without_area_are() -> None:
    assert score("box_repetition", [ONE, TWO], [ONE], threshold=0.0).value == 0.0
    flat = item([5, 5, 5, 9])
    assert score("box_repetition", [flat, flat], [ONE]).value == -0.5


@pytest.mark.parametrize(("boxes", "value"), [(200, 0.0), (201, -1 / 201), (203, -3 / 203)])
def test_every_box_after_the_two_hundredth_counts_as_a_copy(boxes: int, value: float) -> None:
    many = [item([10 * (i % 20), 10 * (i // 20), 10 * (i % 20) + 9, 10 * (i // 20) + 9]) for i in range(boxes)]
    assert score("box_repetition", many, [ONE]).value == pytest.approx(value)


def repetition(text: str, **options: Any) -> Score:
    found = bind("repetition", options)(Completion(text), Sample("s", (), "?", "3", "any"))
    assert isinstance(found, Score)
    return found


def test_a_run_without_spaces_is_one_word_up_to_a_hundred_letters_and_then_pieces_of_eight() -> None:
    assert repetition("a" * 100, ngram=1) == Score(0.0, None)
    assert repetition("a" * 104, ngram=1) == Score(pytest.approx(-12 / 13), "92% repeated")  # 13 pieces of 8
    assert repetition("a" * 101, ngram=1).value == pytest.approx(-11 / 13)  # 12 of 8 and one of 5


def test_six_words_in_a_row_are_what_is_counted() -> None:
    assert repetition("a b c d e f").value == 0.0
    assert repetition("a b c d e f a b c d e f").value == pytest.approx(-1 / 7)


def test_the_buffer_may_be_the_whole_length() -> None:
    penalty = bind("soft_overlong", {"max_length": 10, "buffer": 10})
    sample = Sample("s", (), "?", "3", "any")
    assert penalty(Completion("", token_ids=(0,) * 5), sample) == Score(-0.5, "5 tokens into the buffer")
    assert penalty(Completion(""), sample) == Score(0.0, None)

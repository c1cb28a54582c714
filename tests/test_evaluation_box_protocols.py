"""Protocols of boxes, and of Geometry3K, rule by rule."""

from __future__ import annotations

import random

import pytest

from saccade.evaluation.benchmarks import rec
from saccade.types import Sample
from tests.protocol_cases import CHOICES, REFER, ask, grade

# ---------------------------------------------------------------------------------------------------------------- boxes


@pytest.mark.parametrize(
    ("reply", "official", "vlm_r1", "strict"),
    [
        ('<answer>{"bbox_2d": [100, 100, 500, 500]}</answer>', True, True, True),
        ("<answer>[100, 100, 500, 500]</answer>", True, False, True),  # no braces
        ('{"bbox_2d": [100, 100, 500, 500]}', True, False, True),  # no answer block
        ('<answer>{"bbox_2d": [100.0, 100, 500, 500]}</answer>', True, False, True),  # a float
        ('<answer>{"bbox_2d": [100, 100, 500, 500]}, {"bbox_2d": [1, 1, 2, 2]}</answer>', True, True, False),
        ('<answer>{"bbox_2d": [500, 500, 100, 100]}</answer>', False, False, False),  # inverted
        ('<answer>{"bbox_2d": [100, 100, 100, 100]}</answer>', False, False, False),  # no area
        ('<answer>{"bbox_2d": [100, 100, 500, 300]}</answer>', True, False, False),  # IoU 0.5 exactly
        ("<answer>here</answer>", False, False, False),
        (
            '<think><answer>{"bbox_2d": [100, 100, 500, 500]}</answer></think><answer>{"box": [1, 1, 9, 9]}</answer>',
            False,
            True,  # the first answer block, thought included
            False,
        ),
    ],
)
def test_one_box_by_the_three_modes(reply, official, vlm_r1, strict):
    assert grade("refcoco", reply, REFER).right is official
    assert grade("refcoco", reply, REFER, mode="vlm_r1").right is vlm_r1
    assert grade("refcoco", reply, REFER, mode="strict").right is strict


def test_vlm_r1_counts_an_overlap_of_a_pixel_as_none_and_equals_the_usual_iou_otherwise():
    assert rec.vlm_r1_iou((0, 0, 1, 50), (0, 0, 1, 50)) == 0.0
    assert rec.vlm_r1_iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert rec.vlm_r1_iou((3, 3, 3, 3), (3, 3, 3, 3)) == 0.0


def test_vlm_r1_asks_the_first_two_thousand_after_its_shuffle():
    samples = [Sample(str(i), (), "", None, "refer", {"slices": {"split": "val"}}) for i in range(3000)]
    picked = rec.first_shuffled(samples)
    random.seed(42)
    ids = [str(i) for i in range(3000)]
    random.shuffle(ids)
    assert [s.id for s in picked] == ids[:2000] and [s.id for s in samples[:2]] == ["0", "1"]


def test_an_answer_of_none_is_no_box_and_prose_is_no_list():
    sample = ask([], "detect", images=1)
    assert grade("coco_filtered", "None", sample).right
    found = grade(
        "coco_filtered", "I see nothing there.", ask([{"bbox_2d": [1, 1, 9, 9], "label": "cup"}], "detect", 1)
    )
    assert found.right is False and found.extracted is None


# ----------------------------------------------------------------------------------------------------------- Geometry3K


@pytest.mark.parametrize(
    ("reply", "right", "route"),
    [
        ("\\boxed{B}", True, "letter or text"),
        ("\\boxed{4}", True, "letter or text"),
        ("\\boxed{4.1}", True, "nearest of the choices"),
        ("\\boxed{4.4}", False, "nearest of the choices"),
        ("\\boxed{\\sqrt{16.2}}", True, "nearest of the choices"),
        ("a triangle", False, "no number"),
    ],
)
def test_geometry3k_takes_the_nearest_choice(reply, right, route):
    found = grade("geometry3k", reply, ask("B", "choice", **CHOICES))
    assert (found.right, found.route) == (right, route)


@pytest.mark.parametrize(
    ("reply", "gold", "right"),
    [
        ("\\boxed{12}", "12", True),
        ("12", "12", False),  # no box
        ("12", "None", True),  # the missing box reads as None
        ("\\boxed{4/8}", "1/2", False),  # not reduced
        ("\\boxed{0.5}", "1/2", True),
        ("\\boxed{12.0}", "12", True),
        ("\\boxed{24/2}", "12", False),  # a whole number is wanted
        ("\\boxed{2\\sqrt{3}}", "\\sqrt{12}", True),
        ("\\boxed{5.8}", "3\\sqrt{3.7}", False),
    ],
)
def test_geometry3k_as_easy_r1_rewards_it(reply, gold, right):
    assert grade("geometry3k", reply, ask(gold), mode="easy_r1").right is right

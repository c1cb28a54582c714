"""The twelve figures equal pycocotools; NMS-AP and greedy precision and recall on cases worked by hand."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import random
import time

import numpy as np
import pytest

from saccade.grading.coco import FIGURES, Detection, Truth, evaluate, greedy_precision_recall
from saccade.grading.coco import without_duplicates as left_by_nms

CASES = 60


def theirs(detections: list[Detection], truths: list[Truth], images: range, categories: range) -> list[float]:
    """`stats` of pycocotools. Its ids begin at 1: a gold box of id 0 can never count as found there."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")

    def xywh(box):
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    head = {"images": [{"id": i} for i in images], "categories": [{"id": c, "name": str(c)} for c in categories]}
    gold = [
        {"id": i, "image_id": t.image, "category_id": t.category, "bbox": xywh(t.box), "area": t.area}
        | {"iscrowd": int(t.crowd)}
        for i, t in enumerate(truths, 1)
    ]
    found = [
        {"id": i, "image_id": d.image, "category_id": d.category, "bbox": xywh(d.box), "score": d.score, "iscrowd": 0}
        | {"area": (d.box[2] - d.box[0]) * (d.box[3] - d.box[1])}
        for i, d in enumerate(detections, 1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        one, two = coco.COCO(), coco.COCO()
        one.dataset, two.dataset = head | {"annotations": gold}, head | {"annotations": found}
        one.createIndex()
        two.createIndex()
        run = evaluation.COCOeval(one, two, "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [float(v) for v in run.stats]


def some_box(rng: random.Random, side: int) -> tuple[float, float, float, float]:
    x, y = rng.randrange(side), rng.randrange(side)
    return float(x), float(y), float(x + rng.randint(0, side)), float(y + rng.randint(1, side))


def case(seed: int) -> tuple[list[Detection], list[Truth], range, range]:
    """Several images and categories: crowds, ties, flat boxes, masks smaller than boxes, empty images, many boxes."""
    rng = random.Random(seed)
    images, categories, side = range(1, rng.randint(2, 5)), range(1, rng.randint(2, 4)), rng.choice((8, 40, 160))
    scores = rng.choice(((1.0,), (0.2, 0.5, 0.9), tuple(rng.random() for _ in range(50))))
    truths, detections = [], []
    for image in images:
        for _ in range(rng.choice((0, 1, 3, 9))):
            box = some_box(rng, side)
            size = (box[2] - box[0]) * (box[3] - box[1]) * rng.choice((1.0, 1.0, 0.6))
            truths.append(Truth(image, rng.choice(categories), box, size, rng.random() < 0.15))
        for truth in [t for t in truths if t.image == image] * rng.choice((0, 1, 1, 2)):
            box = tuple(v + rng.choice((0, 0, 0, 1, -1)) for v in truth.box)
            box = (box[0], box[1], max(box[0], box[2]), max(box[1], box[3]))
            category = truth.category if rng.random() < 0.8 else rng.choice(categories)
            detections.append(Detection(image, category, box, rng.choice(scores)))
        for _ in range(rng.choice((0, 2, 130))):
            detections.append(Detection(image, rng.choice(categories), some_box(rng, side), rng.choice(scores)))
    rng.shuffle(detections)
    return detections, truths, images, categories


def check(seed: int) -> int:
    detections, truths, images, categories = case(seed)
    ours = evaluate(detections, truths)
    assert list(ours) == list(FIGURES)
    assert list(ours.values()) == pytest.approx(theirs(detections, truths, images, categories), abs=1e-6), seed
    return len(ours)


def test_the_twelve_figures_equal_pycocotools():
    assert sum(map(check, range(CASES))) == 12 * CASES


@pytest.mark.slow
def test_the_twelve_figures_equal_pycocotools_on_thousands_of_cases():
    assert sum(map(check, range(CASES, CASES + 3000))) == 12 * 3000


def test_nothing_to_find_is_minus_one_and_nothing_found_is_zero():
    truth = Truth(1, "cat", (0, 0, 10, 10), 100.0)
    assert set(evaluate([], []).values()) == {-1.0}
    assert evaluate([Detection(1, "cat", (0, 0, 10, 10))], [])["AP"] == -1.0
    assert evaluate([], [truth])["AP"] == 0.0
    assert evaluate([Detection(1, "cat", (0, 0, 10, 10))], [truth])["AP"] == pytest.approx(1.0)
    assert evaluate([], [truth])["APl"] == -1.0


def test_a_hundred_wrong_boxes_in_front_hide_the_right_one():
    truth = Truth(1, "cat", (0, 0, 10, 10), 100.0)
    junk, right = [Detection(1, "cat", (50, 50, 60, 60))] * 100, Detection(1, "cat", (0, 0, 10, 10))
    assert evaluate([*junk, right], [truth])["AP"] == 0.0
    assert evaluate([right, *junk], [truth])["AP"] == pytest.approx(1.0)


CAT = Truth(1, "cat", (0, 0, 10, 10), 100.0)


def test_of_equal_scores_nms_keeps_the_last_listed():
    right, wrong = Detection(1, "cat", (0, 0, 10, 10)), Detection(1, "dog", (0, 0, 10, 10))
    assert left_by_nms([right, wrong], [CAT]) == [wrong]
    assert left_by_nms([wrong, right], [CAT]) == [right]
    assert evaluate(left_by_nms([wrong, right], [CAT]), [CAT])["AP"] == pytest.approx(1.0)
    assert evaluate(left_by_nms([right, wrong], [CAT]), [CAT])["AP"] == 0.0
    assert evaluate([right, wrong], [CAT])["AP"] == pytest.approx(1.0), "the wrong label costs plain AP nothing"


def test_what_nms_leaves_is_found_in_linear_time_over_the_images():
    boxes = [(image, (x, 10.0, x + 50.0, 60.0)) for image in range(8000) for x in (0.0, 60.0)]
    found = [Detection(image, 1, box, score) for image, box in boxes for score in (0.9, 0.8)]
    started = time.process_time()
    left = left_by_nms(found, [Truth(image, 1, box, 2500.0) for image, box in boxes])
    assert time.process_time() - started < 5, "0.5 s; 10 s when each detection looked through all that were removed"
    assert left == [one for one in found if one.score == 0.9]


def test_nms_keeps_the_best_score_whatever_the_order():
    right, wrong = Detection(1, "cat", (0, 0, 10, 10), 0.9), Detection(1, "dog", (0, 0, 10, 10), 0.8)
    assert left_by_nms([right, wrong], [CAT]) == left_by_nms([wrong, right], [CAT]) == [right]


def test_a_box_that_one_gold_keeps_is_never_removed_by_another_and_boxes_far_from_gold_stay():
    near = Truth(1, "dog", (0, 0, 10, 12), 120.0)
    shared, own = Detection(1, "cat", (0, 0, 10, 10), 0.9), Detection(1, "dog", (0, 0, 10, 15), 0.95)
    far, elsewhere = Detection(1, "cow", (90, 90, 99, 99), 0.1), Detection(2, "cat", (0, 0, 10, 10), 0.1)
    detections = [shared, own, far, elsewhere]
    assert left_by_nms(detections, [near]) == [own, far, elsewhere]
    only_cat = Truth(1, "cat", (0, 0, 10, 7), 70.0)  # IoU 0.7 with `shared`, 0.47 with `own`
    assert left_by_nms(detections, [near, only_cat]) == detections
    assert left_by_nms(detections, [only_cat, near]) == detections


def test_half_an_overlap_is_not_above_the_threshold():
    half = Detection(1, "dog", (0, 0, 10, 5))
    assert left_by_nms([half, Detection(1, "cat", (0, 0, 10, 10))], [CAT])[0] == half


def test_greedy_figures_count_pairs_over_all_images_without_crowds():
    truths = [CAT, Truth(2, "cat", (0, 0, 10, 10), 100.0), Truth(2, "cat", (0, 0, 99, 99), 9801.0, crowd=True)]
    found = [
        Detection(1, "cat", (0, 0, 10, 9)),
        Detection(1, "cat", (0, 0, 10, 10)),
        Detection(2, "dog", (0, 0, 10, 10)),
    ]
    assert greedy_precision_recall(found, truths) == (pytest.approx(1 / 3), pytest.approx(1 / 2))
    assert greedy_precision_recall([], truths) == greedy_precision_recall(found, []) == (0.0, 0.0)


def test_a_large_set_takes_seconds():
    rng = random.Random(5)
    truths = [Truth(i % 200, i % 10, some_box(rng, 100), 500.0) for i in range(1000)]
    detections = [Detection(t.image, t.category, t.box, rng.random()) for t in truths] * 2
    times = []
    for _ in range(3):
        start = time.thread_time()
        evaluate(detections, truths)
        times.append(time.thread_time() - start)
    assert min(times) < 5.0
    assert np.isfinite(list(evaluate(detections, truths).values())).all()


def square(image: int, x: float, area: float, category: str = "cat") -> Truth:
    """A gold box 10 high and wide at x, of an object with that area."""
    return Truth(image, category, (x, 0, x + 10, 10), area)


def found(truth: Truth, score: float = 1.0) -> Detection:
    return Detection(truth.image, truth.category, truth.box, score)


@pytest.mark.parametrize(
    ("area", "sizes"),
    [
        (1.0, "s"),
        (1023.0, "s"),
        (1024.0, "sm"),
        (1025.0, "m"),
        (9215.0, "m"),
        (9216.0, "ml"),
        (9217.0, "l"),
        (1e10, "l"),
        (1e10 + 0.5, ""),
    ],
)
def test_the_size_of_an_object_is_small_to_32_squared_and_medium_to_96_squared(area: float, sizes: str):
    truth = square(1, 0, area)
    figures = evaluate([found(truth)], [truth])
    assert "".join(size for size in "sml" if figures[f"AR{size}"] == 1.0) == sizes
    assert all(figures[f"AR{size}"] == figures[f"AP{size}"] == -1.0 for size in "sml" if size not in sizes)


def test_recall_is_counted_at_one_ten_and_a_hundred_detections_per_image():
    truths = [square(1, 20 * i, 100.0) for i in range(120)]
    figures = evaluate([found(truth) for truth in truths], truths)
    assert [figures[name] for name in ("AR1", "AR10", "AR100")] == pytest.approx([1 / 120, 10 / 120, 100 / 120])
    # 100 of 120: recall 5/6 is reached by the points 0.00 to 0.83
    assert figures["AP"] == pytest.approx(84 / 101)


@pytest.mark.parametrize(("height", "passed"), [(49, 0), (50, 1), (55, 2), (60, 3), (75, 6), (94, 9), (95, 10)])
def test_precision_is_a_mean_over_ten_thresholds_and_its_parts_are_at_one(height: float, passed: int):
    truth = Truth(1, "cat", (0, 0, 10, 100), 1000.0)
    figures = evaluate([Detection(1, "cat", (0, 0, 10, height))], [truth])
    expected = [passed / 10, float(height >= 50), float(height >= 75), passed / 10]
    assert [figures[name] for name in ("AP", "AP50", "AP75", "AR1")] == pytest.approx(expected)


def test_the_figures_are_means_over_the_categories_that_have_gold():
    cat, dog = square(1, 0, 100.0), square(1, 50, 100.0, "dog")
    figures = evaluate([found(cat), Detection(1, "cow", (0, 0, 9, 9))], [cat, dog])
    assert (figures["AP"], figures["AR100"]) == (pytest.approx(0.5), 0.5)


def test_detections_of_all_images_are_ranked_by_score_and_of_equal_ones_the_earlier_image_goes_first():
    one, two = square(1, 0, 100.0), square(2, 0, 100.0)
    wrong = Detection(1, "cat", (50, 50, 60, 60), 0.9)
    # a wrong one first, then one right one: precision 1/2 up to recall 1/2
    assert evaluate([found(one, 0.5), wrong], [one, two])["AP"] == pytest.approx(0.5 * 51 / 101)
    assert evaluate([found(one, 0.95), wrong], [one, two])["AP"] == pytest.approx(51 / 101)
    tied = Detection(1, "cat", (50, 50, 60, 60), 0.5)
    assert evaluate([found(two, 0.5), tied], [two])["AP"] == pytest.approx(0.5)
    late = Detection(3, "cat", (50, 50, 60, 60), 0.5)
    assert evaluate([late, found(two, 0.5)], [two])["AP"] == pytest.approx(1.0)


def test_a_crowd_swallows_any_number_of_detections_that_are_mostly_in_it_and_need_not_be_found():
    crowd = Truth(1, "cat", (0, 0, 100, 100), 10_000.0, crowd=True)
    gold = Truth(1, "cat", (200, 0, 210, 10), 100.0)
    inside = [Detection(1, "cat", (10.0 * i, 0, 10.0 * i + 10, 10), 0.9) for i in range(3)]
    assert evaluate([*inside, found(gold, 0.5)], [crowd, gold])["AP"] == pytest.approx(1.0)
    beside = Detection(1, "cat", (96, 0, 106, 10), 0.9)  # 4 tenths of it in the crowd: wrong at every threshold
    assert evaluate([beside, found(gold, 0.5)], [crowd, gold])["AP"] == pytest.approx(0.5)
    assert evaluate(inside, [crowd])["AP"] == -1.0
    assert not gold.crowd


def test_a_gold_box_is_taken_once_and_a_detection_of_another_size_is_not_counted():
    gold = square(1, 0, 100.0)
    twice = evaluate(
        [found(gold, 0.9), found(gold, 0.8), found(square(1, 50, 100.0), 0.7)], [gold, square(1, 50, 100.0)]
    )
    assert twice["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    large = Detection(1, "cat", (100, 100, 300, 300), 0.9)
    figures = evaluate([large, found(gold, 0.5)], [gold])
    assert (figures["AP"], figures["APs"]) == (pytest.approx(0.5), pytest.approx(1.0))


def test_greedy_pairs_may_just_reach_a_half_and_another_threshold_may_be_asked():
    truth, half = Truth(1, "cat", (0, 0, 10, 10), 100.0), Detection(1, "cat", (0, 0, 10, 5))
    assert greedy_precision_recall([half], [truth]) == (1.0, 1.0)
    assert greedy_precision_recall([half], [truth], 0.6) == (0.0, 0.0)
    assert greedy_precision_recall([half, half], [truth]) == (0.5, 1.0)


def test_nms_looks_above_a_half_or_another_threshold():
    low, right = Detection(1, "dog", (0, 0, 10, 6), 0.9), Detection(1, "cat", (0, 0, 10, 10), 0.8)
    assert left_by_nms([low, right], [CAT]) == [low]
    assert left_by_nms([low, right], [CAT], 0.6) == [low, right]


def test_a_detection_without_a_score_has_one():
    assert Detection(1, "cat", (0, 0, 10, 10)).score == 1.0


def test_a_gold_box_and_a_detection_cannot_be_changed():
    for part in (CAT, found(CAT)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            part.image = 2

"""The twelve figures equal pycocotools; NMS-AP and greedy precision and recall on cases worked by hand."""

from __future__ import annotations

import contextlib
import io
import random
import statistics
import time

import numpy as np
import pytest

from saccade.grading.coco import FIGURES, Detection, Truth, evaluate, greedy_precision_recall, nms_ap
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
    assert nms_ap([wrong, right], [CAT]) == pytest.approx(1.0)
    assert nms_ap([right, wrong], [CAT]) == 0.0
    assert evaluate([right, wrong], [CAT])["AP"] == pytest.approx(1.0), "the wrong label costs plain AP nothing"


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
    assert statistics.median(times) < 5.0
    assert np.isfinite(list(evaluate(detections, truths).values())).all()

"""Average precision equals pycocotools; matching is one to one, best first."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import random
import time

import pytest

from saccade.geometry import iou
from saccade.grading.detection import COCO_THRESHOLDS, Match, average_precision, f1, match
from saccade.parsing import NOWHERE, LabelledBox


def coco_ap(pred: list[LabelledBox], gold: list[LabelledBox]) -> tuple[float, float]:
    """AP@[.5:.95] and AP50 of pycocotools, all scores 1, on one image."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    labels = {label: i + 1 for i, label in enumerate(sorted({g.label for g in gold}))}

    def rows(items: list[LabelledBox], **more: object) -> list[dict]:
        return [
            {
                "id": i + 1,
                "image_id": 1,
                "category_id": labels[item.label],
                "bbox": [item.box[0], item.box[1], item.box[2] - item.box[0], item.box[3] - item.box[1]],
                "area": (item.box[2] - item.box[0]) * (item.box[3] - item.box[1]),
                "iscrowd": 0,
                **more,
            }
            for i, item in enumerate(items)
        ]

    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = coco.COCO(), coco.COCO()
        categories = [{"id": i, "name": label} for label, i in labels.items()]
        truth.dataset = {"images": [{"id": 1}], "categories": categories, "annotations": rows(gold)}
        known = [p for p in pred if p.label in labels]
        found.dataset = {"images": [{"id": 1}], "categories": categories, "annotations": rows(known, score=1.0)}
        truth.createIndex()
        found.createIndex()
        run = evaluation.COCOeval(truth, found, "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return float(run.stats[0]), float(run.stats[1])


def box(rng: random.Random, side: int) -> tuple[float, float, float, float]:
    x, y = rng.randrange(side), rng.randrange(side)
    return (float(x), float(y), float(x + rng.randint(1, side // 2)), float(y + rng.randint(1, side // 2)))


def near(rng: random.Random, item: LabelledBox, labels: str) -> LabelledBox:
    """The item, jittered by a few pixels and at times under another label."""
    x1, y1, x2, y2 = (v + rng.choice((0, 0, 0, 1, -1, 2)) for v in item.box)
    return LabelledBox(
        (x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)), item.label if rng.random() < 0.8 else rng.choice(labels)
    )


def case(seed: int) -> tuple[list[LabelledBox], list[LabelledBox]]:
    """Gold and predictions of one image: jitter, duplicates, ties, spurious boxes and labels, at times very many."""
    rng = random.Random(seed)
    labels, side = "abcd"[: rng.randint(1, 4)], rng.choice((6, 30, 200))
    gold = [LabelledBox(box(rng, side), rng.choice(labels)) for _ in range(rng.choice((1, 2, 3, 8, 20)))]
    pred = [near(rng, rng.choice(gold), labels + "z") for _ in range(rng.choice((0, 1, 4, 12, 30)))]
    pred += [LabelledBox(box(rng, side), rng.choice(labels + "z")) for _ in range(rng.choice((0, 0, 3, 150)))]
    rng.shuffle(pred)
    return pred, gold


def strange(rng: random.Random, item: LabelledBox) -> LabelledBox:
    """The item with a side reversed, both sides reversed, without width, or far larger than any image."""
    x1, y1, x2, y2 = item.box
    big = 10.0 ** rng.randint(4, 12)
    boxes = [(x2, y1, x1, y2), (x2, y2, x1, y1), (x1, y1, x1, y2), (x1, y1, x1 + big, y1 + big), (x1, y1, x2 + big, y2)]
    boxes += [(-big, -big, big + x2, big), (x1 / 3, y1 / 7, x2 / 3, y2 / 7), (x1 + 1e15, y1, x2 + 1e15, y2)]
    return LabelledBox(rng.choice(boxes), item.label)


def strange_case(seed: int) -> tuple[list[LabelledBox], list[LabelledBox]]:
    """As `case`, with strange boxes among the predictions, the gold and at times in both."""
    rng = random.Random(seed)
    pred, gold = case(seed)
    gold = [strange(rng, one) if rng.random() < 0.3 else one for one in gold]
    pred = [strange(rng, one) if rng.random() < 0.4 else one for one in [*pred, *rng.sample(gold, min(3, len(gold)))]]
    rng.shuffle(pred)
    return pred, gold


@pytest.mark.parametrize("seed", range(1000, 1160, 40))
def test_boxes_of_negative_or_vast_area_are_ignored_as_pycocotools_does(seed):
    for pred, gold in map(strange_case, range(seed, seed + 40)):
        ap, ap50 = coco_ap(pred, gold)
        if ap == -1:  # no gold box counts
            ap = ap50 = float(not pred)
        assert average_precision(pred, gold) == pytest.approx(ap, abs=1e-6)
        assert average_precision(pred, gold, (0.5,)) == pytest.approx(ap50, abs=1e-6)


def test_a_reversed_side_or_a_vast_box_is_no_false_positive_and_a_reversed_diagonal_is():
    right = LabelledBox((0, 0, 9, 9), "a")
    for box_, expected in (((9, 0, 0, 9), 1.0), ((0, 0, 1e6, 1e6), 1.0), ((99, 99, 50, 50), 0.5), ((5, 5, 5, 5), 0.5)):
        assert average_precision([LabelledBox(box_, "a"), right], [right]) == expected
    vast = LabelledBox((0, 0, 2e5, 2e5), "a")
    assert average_precision([vast, right], [vast, right]) == average_precision([right], [right, vast]) == 1.0
    assert (average_precision([vast], [vast]), average_precision([], [vast])) == (0.0, 1.0)


@pytest.mark.parametrize("seed", range(0, 240, 24))
def test_average_precision_equals_pycocotools(seed):
    for pred, gold in map(case, range(seed, seed + 24)):
        ap, ap50 = coco_ap(pred, gold)
        assert average_precision(pred, gold) == pytest.approx(ap, abs=1e-6)
        assert average_precision(pred, gold, (0.5,)) == pytest.approx(ap50, abs=1e-6)


def test_the_order_of_the_list_ranks_and_a_hundred_per_label_are_looked_at():
    right, wrong = LabelledBox((0, 0, 9, 9), "a"), LabelledBox((50, 50, 60, 60), "a")
    assert average_precision([right, wrong], [right]) == 1.0
    assert average_precision([wrong, right], [right]) == 0.5
    for before, expected in ((99, 0.01), (100, 0.0)):
        pred = [wrong] * before + [right]
        assert average_precision(pred, [right]) == pytest.approx(expected) == pytest.approx(coco_ap(pred, [right])[0])


def test_of_two_equal_overlaps_the_later_gold_is_taken_as_coco_does():
    upper, lower, both = (LabelledBox(b, "a") for b in ((0, 0, 10, 8), (0, 2, 10, 10), (0, 0, 10, 10)))
    for pred in ([both, upper], [both, lower]):
        assert average_precision(pred, [upper, lower]) == pytest.approx(coco_ap(pred, [upper, lower])[0], abs=1e-6)
    assert average_precision([both, upper], [upper, lower]) > average_precision([both, lower], [upper, lower])


def test_nothing_against_nothing_is_perfect_and_against_something_is_nothing():
    something = [LabelledBox((0, 0, 9, 9), "a")]
    assert average_precision([], []) == f1([], []) == 1.0
    assert average_precision(something, []) == average_precision([], something) == 0.0
    assert f1(something, []) == f1([], something) == 0.0


def test_boxes_without_area_find_nothing():
    flat = [LabelledBox((0, 0, 0, 9), "a"), LabelledBox(NOWHERE, "a"), LabelledBox((9, 9, 0, 0), "a")]
    assert average_precision(flat, [LabelledBox((0, 0, 9, 9), "a")]) == 0.0
    assert average_precision(flat, flat) == f1(flat, flat) == 0.0


@pytest.mark.slow
def test_average_precision_equals_pycocotools_on_thousands_of_cases():
    for seed, (pred, gold) in enumerate([*map(case, range(10_000, 13_000)), *map(strange_case, range(20_000, 23_000))]):
        ap, ap50 = coco_ap(pred, gold)
        expected = (ap, ap50) if ap != -1 else (float(not pred),) * 2
        assert (average_precision(pred, gold), average_precision(pred, gold, (0.5,))) == pytest.approx(
            expected, abs=1e-6
        ), seed


@pytest.mark.parametrize(("n_gold", "n_pred", "bound_ms"), [(10, 10, 1.0), (20, 100, 10.0)])
def test_average_precision_of_one_image_is_quick(n_gold: int, n_pred: int, bound_ms: float):
    rng = random.Random(3)
    gold = [LabelledBox(box(rng, 100), "abc"[i % 3]) for i in range(n_gold)]
    pred = [near(rng, gold[i % n_gold], "abc") for i in range(n_pred)]
    times = []
    for _ in range(101):
        start = time.thread_time()
        average_precision(pred, gold)
        times.append(time.thread_time() - start)
    assert min(times) * 1e3 < bound_ms  # the least: a busy machine can only add to a time


@pytest.mark.parametrize("seed", range(40))
def test_matching_is_one_to_one_within_a_label_and_greedy_by_iou(seed):
    pred, gold = case(seed)
    pairs = match(pred, gold)
    assert len({p.pred for p in pairs}) == len({p.gold for p in pairs}) == len(pairs)
    assert [p.iou for p in pairs] == sorted((p.iou for p in pairs), reverse=True)
    for pair in pairs:
        assert pred[pair.pred].label == gold[pair.gold].label
        assert pair.iou == pytest.approx(iou(pred[pair.pred].box, gold[pair.gold].box)) and pair.iou >= 0.5
    used_pred, used_gold = {p.pred for p in pairs}, {p.gold for p in pairs}
    free = itertools.product(set(range(len(pred))) - used_pred, set(range(len(gold))) - used_gold)
    assert all(iou(pred[p].box, gold[g].box) < 0.5 or pred[p].label != gold[g].label for p, g in free)


def test_labels_may_be_left_out_of_matching():
    a, b = LabelledBox((0, 0, 9, 9), "a"), LabelledBox((0, 0, 9, 9), "b")
    assert match([a], [b]) == []
    assert len(match([a], [b], labels=False)) == 1


def test_f1_counts_what_is_missed_and_what_is_too_much():
    a, b = LabelledBox((0, 0, 9, 9), "a"), LabelledBox((20, 20, 29, 29), "a")
    assert f1([a, b], [a, b]) == 1.0
    assert f1([a], [a, b]) == f1([a, b], [a]) == pytest.approx(2 / 3)
    assert f1([a, a], [a]) == pytest.approx(2 / 3)


def row_of(n: int) -> list[LabelledBox]:
    """Boxes of one label that overlap nothing."""
    return [LabelledBox((20.0 * i, 0.0, 20.0 * i + 10, 10.0), "a") for i in range(n)]


@pytest.mark.parametrize(
    ("found", "gold", "points"),
    # recall found / gold is reached by that many of the points 0.00, 0.01 .. 1.00
    [(1, 1, 101), (1, 2, 51), (1, 3, 34), (2, 3, 67), (1, 4, 26), (3, 4, 76), (1, 7, 15), (1, 10, 11), (9, 10, 91)],
)
def test_precision_is_averaged_over_a_grid_of_101_recalls(found: int, gold: int, points: int):
    boxes = row_of(gold)
    assert average_precision(boxes[:found], boxes) == pytest.approx(points / 101, abs=1e-12)


def test_a_wrong_box_between_two_right_ones_costs_the_second_half_of_the_grid():
    first, second, wrong = row_of(3)
    # recall 1/2 with precision 1 for 51 points, recall 1 with precision 2/3 for 50
    assert average_precision([first, wrong, second], [first, second]) == pytest.approx((51 + 50 * 2 / 3) / 101)
    # precision is interpolated: the better precision of a higher recall counts at the lower one
    assert average_precision([wrong, first, second], [first, second]) == pytest.approx(2 / 3)


def high(height: float) -> LabelledBox:
    """IoU height / 100 with `high(100)`."""
    return LabelledBox((0.0, 0.0, 10.0, height), "a")


@pytest.mark.parametrize(
    ("height", "passed"), [(49, 0), (50, 1), (54, 1), (55, 2), (75, 6), (94, 9), (95, 10), (100, 10)]
)
def test_the_ten_thresholds_run_from_a_half_by_twentieths_and_are_met_by_equality(height: float, passed: int):
    assert COCO_THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    assert average_precision([high(height)], [high(100)]) == pytest.approx(passed / 10)


def test_a_threshold_of_one_is_met_by_the_box_itself():
    assert average_precision([high(100)], [high(100)], (1.0,)) == 1.0
    assert average_precision([high(99)], [high(100)], (1.0,)) == 0.0
    assert average_precision([high(100 - 1e-9)], [high(100)], (1.0,)) == 1.0, "up to round-off, as in COCO"


def test_the_mean_is_over_the_labels_of_the_gold():
    a, b = LabelledBox((0, 0, 9, 9), "a"), LabelledBox((20, 0, 29, 9), "b")
    assert average_precision([a], [a, b]) == 0.5
    assert average_precision([a, b], [a]) == 1.0, "a label without gold is not looked at"


def test_a_pair_may_just_reach_the_threshold_and_boxes_apart_never_pair():
    assert match([high(50)], [high(100)]) == [Match(0, 0, 0.5)]
    assert match([high(49)], [high(100)]) == []
    assert match([high(49)], [high(100)], threshold=0.25) == [Match(0, 0, 0.49)]
    first, second = row_of(2)
    assert match([first], [second], threshold=0.0) == []
    assert match([], [first]) == match([first], []) == []


def test_of_equal_overlaps_the_earlier_prediction_takes_the_earlier_gold():
    one = high(100)
    assert match([one, one, one], [one, one]) == [Match(0, 0, 1.0), Match(1, 1, 1.0)]
    assert match([high(60), high(80)], [one]) == [Match(1, 0, 0.8)], "the better one goes first"


def test_f1_looks_at_a_half_by_default():
    assert f1([high(50)], [high(100)]) == 1.0
    assert f1([high(49)], [high(100)]) == 0.0
    assert f1([high(50)], [high(100)], 0.6) == 0.0


def test_a_pair_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Match(0, 0, 1.0).iou = 0.5

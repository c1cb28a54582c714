"""Matching predicted boxes to gold ones, and COCO average precision of one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from saccade.geometry import COCO_THRESHOLDS, iou_matrix
from saccade.parsing import LabelledBox

MAX_DETECTIONS = 100
"""Per label, as COCO counts: later ones are not looked at."""
RECALL_POINTS = 101
LARGEST_AREA = 1e10
"""Square pixels; COCO neither wants a larger gold box found nor counts a larger prediction that finds none."""


@dataclass(frozen=True, slots=True)
class Match:
    """A predicted box with its gold box, by position in their lists."""

    pred: int
    gold: int
    iou: float


def match(
    pred: Sequence[LabelledBox], gold: Sequence[LabelledBox], threshold: float = 0.5, labels: bool = True
) -> list[Match]:
    """One-to-one pairs, best IoU first (ties: the earlier prediction, then the earlier gold), down to `threshold`.

    With `labels`, only boxes of equal label pair up.
    """
    if not pred or not gold:
        return []
    iou_PG = iou_matrix([p.box for p in pred], [g.box for g in gold])
    if labels:
        numbers: dict[str, int] = {}
        kind_P, kind_G = (
            np.array([numbers.setdefault(one.label, len(numbers)) for one in side]) for side in (pred, gold)
        )
        iou_PG[kind_P[:, None] != kind_G] = 0.0
    near = np.flatnonzero((iou_PG >= threshold) & (iou_PG > 0))
    pairs: list[Match] = []
    used_pred: set[int] = set()
    used_gold: set[int] = set()
    for flat in near[np.argsort(-iou_PG.flat[near], kind="stable")]:
        p, g = divmod(int(flat), len(gold))
        if p not in used_pred and g not in used_gold:
            pairs.append(Match(p, g, float(iou_PG[p, g])))
            used_pred.add(p)
            used_gold.add(g)
            if len(pairs) == min(len(pred), len(gold)):
                break
    return pairs


def f1(pred: Sequence[LabelledBox], gold: Sequence[LabelledBox], threshold: float = 0.5) -> float:
    """2 matched / (predicted + gold), labels counted, in [0, 1]; 1 when there is nothing on either side."""
    total = len(pred) + len(gold)
    return 2 * len(match(pred, gold, threshold)) / total if total else 1.0


def average_precision(
    pred: Sequence[LabelledBox], gold: Sequence[LabelledBox], thresholds: Sequence[float] = COCO_THRESHOLDS
) -> float:
    """COCO average precision of one image, in [0, 1]: the mean over the labels of the gold and over `thresholds`.

    Every prediction has the same score, so their order ranks them. Equal to pycocotools (Lin et al. 2014) with all
    areas and 100 detections per label: predictions under labels without gold are not looked at, and boxes of an area
    below 0 (one side reversed) or above `LARGEST_AREA` are ignored: such a gold box need not be found, such a
    prediction is no false positive, nor is one that finds an ignored gold box. Where no gold box counts and COCO says
    -1: 1 when there is no prediction either, else 0. `thresholds=(0.5,)` gives AP50.
    """
    gold_by, pred_by = _by_label(gold), _by_label(pred)
    thresholds_T1 = np.minimum(np.asarray(thresholds, dtype=np.float64), 1 - 1e-10)[:, None]
    with np.errstate(over="ignore", invalid="ignore"):
        found = [_label_ap(pred_by.get(label, [])[:MAX_DETECTIONS], gold_by[label], thresholds_T1) for label in gold_by]
    counted = [value for value in found if value is not None]
    return float(np.mean(counted)) if counted else float(not pred)


def _by_label(items: Sequence[LabelledBox]) -> dict[str, list[tuple[float, float, float, float]]]:
    by: dict[str, list[tuple[float, float, float, float]]] = {}
    for item in items:
        by.setdefault(item.label, []).append(item.box)
    return by


def _label_ap(
    pred: Sequence[Sequence[float]], gold: Sequence[Sequence[float]], thresholds_T1: NDArray[np.float64]
) -> float | None:
    """Mean over thresholds of the area under one label's interpolated precision-recall curve; None without gold."""
    ignored_G = _outside(gold)
    n_gold = len(gold) - int(ignored_G.sum())
    if not n_gold or not pred:
        return 0.0 if n_gold else None
    iou_PG = iou_matrix(pred, gold)
    hit_TP = _hits(iou_PG[:, ~ignored_G], thresholds_T1)
    false_TP = ~hit_TP & ~_outside(pred)
    if ignored_G.any():
        false_TP &= ~_hits(iou_PG[:, ignored_G], thresholds_T1, ~hit_TP)
    found_TP = hit_TP.cumsum(axis=1)
    precision_TP = np.where(hit_TP, found_TP / np.maximum(found_TP + false_TP.cumsum(axis=1), 1), 0.0)
    best_TP = np.maximum.accumulate(precision_TP[:, ::-1], axis=1)[:, ::-1]
    return float((hit_TP * best_TP * _points(n_gold)[found_TP]).sum(axis=1).mean() / RECALL_POINTS)


def _outside(boxes: Sequence[Sequence[float]]) -> NDArray[np.bool_]:
    """Which boxes COCO ignores for their area."""
    boxes_N4 = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    area_N = (boxes_N4[:, 2] - boxes_N4[:, 0]) * (boxes_N4[:, 3] - boxes_N4[:, 1])
    return (area_N < 0) | (area_N > LARGEST_AREA)


def _hits(
    iou_PG: NDArray[np.float64], thresholds_T1: NDArray[np.float64], open_TP: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Which predictions find a gold box, per threshold: in order, each takes the best box left (ties: the last).

    Only predictions that are `open_TP` look for one.
    """
    rows = np.arange(len(thresholds_T1))
    backward_PG = iou_PG[:, ::-1]  # argmax takes the first of equals, COCO the last
    free_TG = np.ones((len(rows), iou_PG.shape[1]))
    hit_TP = np.zeros((len(rows), iou_PG.shape[0]), dtype=bool)
    lowest = thresholds_T1.min()
    for p, iou_G in enumerate(backward_PG):
        if iou_G.max() < lowest:
            continue
        left_TG = iou_G * free_TG
        best_T = left_TG.argmax(axis=1)
        hit_T = (left_TG[rows, best_T] >= thresholds_T1[:, 0]) & (iou_G[best_T] > 0)
        if open_TP is not None:
            hit_T &= open_TP[:, p]
        free_TG[rows[hit_T], best_T[hit_T]] = 0.0
        hit_TP[:, p] = hit_T
    return hit_TP


@lru_cache(maxsize=256)
def _points(n_gold: int) -> NDArray[np.float64]:
    """How many of the 101 recall points the k-th found box is the first to reach, for k = 0 .. n_gold."""
    recall = np.arange(n_gold + 1) / n_gold
    first = np.searchsorted(recall, np.linspace(0.0, 1.0, RECALL_POINTS), side="left")
    return np.bincount(np.maximum(first, 1), minlength=n_gold + 1).astype(np.float64)

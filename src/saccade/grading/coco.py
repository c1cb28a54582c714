"""COCO average precision over a data set: scores, crowds, sizes of objects, and the twelve figures; OVDEval's NMS-AP.

Equal to pycocotools 2.0 (Lin et al. 2014, arXiv 1405.0312) for boxes, ties included: detections are ranked by a stable
sort, images in order of their ids, and of gold boxes that overlap equally the later one is taken.
Shape letters: T thresholds, D detections, G gold boxes, R recall points.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saccade.geometry import iou_matrix
from saccade.grading.detection import COCO_THRESHOLDS, RECALL_POINTS, match
from saccade.parsing import LabelledBox
from saccade.types import Box

SIZES: dict[str, tuple[float, float]] = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""Areas of gold objects in square pixels, both ends counted in."""
COUNTS = (1, 10, 100)
"""Detections per image and category that are looked at."""
FIGURES: dict[str, tuple[str, float | None, str, int]] = {
    "AP": ("precision", None, "all", 100),
    "AP50": ("precision", 0.5, "all", 100),
    "AP75": ("precision", 0.75, "all", 100),
    "APs": ("precision", None, "small", 100),
    "APm": ("precision", None, "medium", 100),
    "APl": ("precision", None, "large", 100),
    "AR1": ("recall", None, "all", 1),
    "AR10": ("recall", None, "all", 10),
    "AR100": ("recall", None, "all", 100),
    "ARs": ("recall", None, "small", 100),
    "ARm": ("recall", None, "medium", 100),
    "ARl": ("recall", None, "large", 100),
}
"""Name -> (what, at which IoU or the mean over all, size of objects, detections)."""


@dataclass(frozen=True, slots=True)
class Truth:
    """A gold box, xyxy. A crowd may be found any number of times and counts neither way."""

    image: Any
    category: Hashable
    box: Box
    area: float
    """Square pixels of the object, which in COCO is its mask; decides its size."""
    crowd: bool = False


@dataclass(frozen=True, slots=True)
class Detection:
    """A predicted box, xyxy."""

    image: Any
    category: Hashable
    box: Box
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class _Found:
    """What became of the detections of one image and category, for one size of objects."""

    scores_D: NDArray[np.float64]
    hit_TD: NDArray[np.bool_]
    ignored_TD: NDArray[np.bool_]
    golds: int
    """Gold boxes that have to be found."""


def evaluate(detections: Sequence[Detection], truths: Sequence[Truth]) -> dict[str, float]:
    """The twelve figures of COCO by the names of `FIGURES`, in [0, 1]; -1 where no gold box has that size."""
    pairs = _paired(detections, truths)
    curves = {size: _curves(pairs, size) for size in SIZES}
    figures = {}
    for name, (what, threshold, size, count) in FIGURES.items():
        values_KT = curves[size][what, count]
        if threshold is not None and len(values_KT):
            values_KT = values_KT[:, [COCO_THRESHOLDS.index(threshold)]]
        figures[name] = float(values_KT.mean()) if values_KT.size else -1.0
    return figures


Pair = tuple[list[Detection], list[Truth]]


def _paired(detections: Sequence[Detection], truths: Sequence[Truth]) -> dict[Hashable, list[Pair]]:
    """Category -> detections and gold boxes of each image that has either, in order of the images' ids."""
    found: dict[Hashable, dict[Any, Pair]] = defaultdict(dict)
    for truth in truths:
        found[truth.category].setdefault(truth.image, ([], []))[1].append(truth)
    for detection in detections:
        found[detection.category].setdefault(detection.image, ([], []))[0].append(detection)
    return {
        category: [images[key] for key in sorted(images, key=lambda key: (isinstance(key, str), key))]
        for category, images in found.items()
    }


def _curves(pairs: Mapping[Hashable, Sequence[Pair]], size: str) -> dict[tuple[str, int], NDArray[np.float64]]:
    """(precision or recall, detections) -> a row per category with gold boxes of that size, a column per threshold."""
    rows: dict[tuple[str, int], list[NDArray[np.float64]]] = defaultdict(list)
    for images in pairs.values():
        found = [_found(detections, truths, SIZES[size]) for detections, truths in images]
        golds = sum(one.golds for one in found)
        if golds:
            for count in COUNTS:
                precision_T, recall_T = _accumulate(found, golds, count)
                rows["precision", count].append(precision_T)
                rows["recall", count].append(recall_T)
    empty = np.zeros((0, len(COCO_THRESHOLDS)))
    return {(what, n): np.array(rows.get((what, n), empty)) for what in ("precision", "recall") for n in COUNTS}


def _found(detections: Sequence[Detection], truths: Sequence[Truth], bounds: tuple[float, float]) -> _Found:
    """Matches one image's boxes of one category at all thresholds."""
    low, high = bounds
    scores = np.array([d.score for d in detections], dtype=np.float64)
    order = np.argsort(-scores, kind="stable")[: COUNTS[-1]]
    ranked = [detections[i] for i in order]
    outside_G = np.array([t.crowd or not low <= t.area <= high for t in truths], dtype=bool)
    placed = [truths[i] for i in np.argsort(outside_G, kind="stable")]
    crowd_G = np.array([t.crowd for t in placed], dtype=bool)
    wanted = len(placed) - int(outside_G.sum())
    thresholds_T = np.minimum(np.asarray(COCO_THRESHOLDS), 1 - 1e-10)
    hit_TD = np.zeros((len(thresholds_T), len(ranked)), dtype=bool)
    ignored_TD = np.zeros_like(hit_TD)
    free_TG = np.ones((len(thresholds_T), len(placed)), dtype=bool)
    overlap_DG = _overlaps(ranked, placed)
    for d in range(len(ranked) if placed else 0):
        usable_TG = (free_TG | crowd_G) & (overlap_DG[d] >= thresholds_T[:, None])
        for t in np.flatnonzero(usable_TG.any(axis=1)):
            regular = usable_TG[t, :wanted].any()
            part = slice(0, wanted) if regular else slice(wanted, None)
            g = _last_best(np.where(usable_TG[t, part], overlap_DG[d, part], -1.0)) + (0 if regular else wanted)
            hit_TD[t, d], ignored_TD[t, d], free_TG[t, g] = True, not regular, False
    sides = np.array([(d.box[2] - d.box[0]) * (d.box[3] - d.box[1]) for d in ranked])
    ignored_TD |= ~hit_TD & ((sides < low) | (sides > high))
    return _Found(scores[order], hit_TD, ignored_TD, wanted)


def _last_best(values_G: NDArray[np.float64]) -> int:
    """Position of the largest value; of equal ones the last."""
    return len(values_G) - 1 - int(values_G[::-1].argmax())


def _overlaps(detections: Sequence[Detection], truths: Sequence[Truth]) -> NDArray[np.float64]:
    """IoU (D, G); with a crowd the share of the detection that lies in it."""
    d = np.array([one.box for one in detections], dtype=np.float64).reshape(-1, 1, 4)
    g = np.array([one.box for one in truths], dtype=np.float64).reshape(1, -1, 4)
    sides = np.minimum(d[..., 2:], g[..., 2:]) - np.maximum(d[..., :2], g[..., :2])
    shared_DG = np.where((sides > 0).all(-1), sides.prod(-1), 0.0)
    area_D1, area_1G = ((b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]) for b in (d, g))
    crowd_1G = np.array([[one.crowd for one in truths]], dtype=bool).reshape(1, -1)
    union_DG = np.where(crowd_1G, area_D1, area_D1 + area_1G - shared_DG)
    return np.divide(shared_DG, union_DG, out=np.zeros_like(shared_DG), where=shared_DG > 0)


def _accumulate(found: Sequence[_Found], golds: int, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average precision and final recall of one category, a value per threshold."""
    scores_D = np.concatenate([one.scores_D[:count] for one in found])
    order = np.argsort(-scores_D, kind="stable")
    hit_TD = np.concatenate([one.hit_TD[:, :count] for one in found], axis=1)[:, order]
    counted_TD = ~np.concatenate([one.ignored_TD[:, :count] for one in found], axis=1)[:, order]
    right_TD = (hit_TD & counted_TD).cumsum(axis=1).astype(np.float64)
    wrong_TD = (~hit_TD & counted_TD).cumsum(axis=1).astype(np.float64)
    if not len(order):
        return np.zeros(len(hit_TD)), np.zeros(len(hit_TD))
    precision_TD = right_TD / (right_TD + wrong_TD + np.spacing(1))
    best_TD = np.maximum.accumulate(precision_TD[:, ::-1], axis=1)[:, ::-1]
    best_TD = np.concatenate([best_TD, np.zeros((len(best_TD), 1))], axis=1)  # recall that is never reached
    points_R = np.linspace(0.0, 1.0, RECALL_POINTS)
    reached = [np.searchsorted(right_D / golds, points_R, side="left") for right_D in right_TD]
    average_T = np.array([best_D[at].mean() for best_D, at in zip(best_TD, reached, strict=True)])
    return average_T, right_TD[:, -1] / golds


# ------------------------------------------------------------------------------------------------ OVDEval and VLM-R1


def without_duplicates(
    detections: Sequence[Detection], truths: Sequence[Truth], threshold: float = 0.5
) -> list[Detection]:
    """What OVDEval's NMS leaves (Yao et al. 2023, arXiv 2308.13177) before average precision is counted.

    Around each gold box, in order, of the detections of any category with IoU above `threshold` only the best scored
    one stays, of equal scores the last listed; one that some gold box keeps is never removed, and one that overlaps no
    gold box stays. So the right box under many labels at once loses where a wrong label scores as high.
    """
    by_image: dict[Any, list[int]] = defaultdict(list)
    for i, detection in enumerate(detections):
        by_image[detection.image].append(i)
    boxes = {image: np.array([detections[i].box for i in places]) for image, places in by_image.items()}
    kept: set[int] = set()
    removed: set[int] = set()
    for truth in truths:
        if (boxes_D4 := boxes.get(truth.image)) is None:
            continue
        places = by_image[truth.image]
        near = [places[d] for d in np.flatnonzero(iou_matrix(boxes_D4, truth.box)[:, 0] > threshold)]
        if near:
            kept.add(max(near, key=lambda i: (detections[i].score, i)))
            removed.update(near)
    removed -= kept
    return [detection for i, detection in enumerate(detections) if i not in removed]


def greedy_precision_recall(
    detections: Sequence[Detection], truths: Sequence[Truth], threshold: float = 0.5
) -> tuple[float, float]:
    """Precision and recall over all images of one-to-one pairs, best IoU first, labels counted; scores play no part.

    VLM-R1 (arXiv 2504.07615) reports these 'greedy' figures and defines them no further. Crowds are left out. 0 over
    nothing is 0.
    """
    plain = [truth for truth in truths if not truth.crowd]
    images: dict[Any, tuple[list[LabelledBox], list[LabelledBox]]] = defaultdict(lambda: ([], []))
    for detection in detections:
        images[detection.image][0].append(LabelledBox(detection.box, str(detection.category)))
    for truth in plain:
        images[truth.image][1].append(LabelledBox(truth.box, str(truth.category)))
    pairs = sum(len(match(found, gold, threshold)) for found, gold in images.values())
    return pairs / max(len(detections), 1), pairs / max(len(plain), 1)

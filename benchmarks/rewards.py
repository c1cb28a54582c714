"""Rewards alone: replies scored per second of CPU, beside VLM-R1's published formulas through pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.measure import Cost, alternate
from benchmarks.table import Row, finish, options, parse, row
from saccade.rewards.table import bind
from saccade.types import Completion, Frame, Sample

COUNT, QUICK_COUNT = 1_024, 64
FRAME = Frame("pixels_resized", (1280, 960), (1288, 952))
OURS, THEIRS = "saccade", "VLM-R1's formula"
Job = tuple[Completion, Sample]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of reply, the reward that scores it, and what it is compared with."""

    name: str
    jobs: list[Job]
    reward: str
    options: dict[str, Any]
    peer: Callable[[Completion, Sample], float] | None = None


def reply(answer: str, think: str = "I look at the image from left to right and name what is there. ") -> Completion:
    text = f"<think>{think * 6}</think><answer>{answer}</answer>"
    return Completion(text, (1,) * (len(text) // 4), frames=(FRAME,))


def shaken(rng: random.Random, box: Sequence[float]) -> list[int]:
    return [round(v + rng.uniform(-12, 12)) for v in box]


def random_box(rng: random.Random) -> list[int]:
    x, y = rng.randrange(900), rng.randrange(600)
    return [x, y, x + rng.randint(20, 350), y + rng.randint(20, 300)]


def referring(rng: random.Random, count: int) -> list[Job]:
    golds = [random_box(rng) for _ in range(count)]
    return [
        (reply(json.dumps({"bbox_2d": shaken(rng, box), "label": "cup"})), Sample(f"{i}", (), "?", box, "refer"))
        for i, box in enumerate(golds)
    ]


def detecting(rng: random.Random, count: int, n_gold: int, n_pred: int) -> list[Job]:
    """`n_gold` boxes under three labels, and `n_pred` answered in a fence, near them."""
    jobs = []
    for i in range(count):
        gold = [{"bbox_2d": random_box(rng), "label": ["cat", "dog", "cup"][k % 3]} for k in range(n_gold)]
        near = [gold[k % n_gold] for k in range(n_pred)]
        found = [{"bbox_2d": shaken(rng, one["bbox_2d"]), "label": one["label"]} for one in near]
        jobs.append((reply(f"```json\n{json.dumps(found)}\n```"), Sample(f"{i}", (), "?", gold, "detect")))
    return jobs


def short(answers: Sequence[str], gold: Any, count: int, task: str) -> list[Job]:
    return [(reply(answers[i % len(answers)]), Sample(f"{i}", (), "?", gold, task)) for i in range(count)]


# ------------------------------------------------------------------------------------------------------------ the peer


def coco_map(completion: Completion, sample: Sample) -> float:
    """mAP of one reply by a fresh COCO evaluation of one image, as VLM-R1's rewards do for every completion."""
    gold, found = sample.answer, _fenced(completion.text)
    labels = {label: i for i, label in enumerate(dict.fromkeys(item["label"] for item in gold), 1)}
    if not gold or not found:
        return float(not gold and not found)
    known = [item for item in found if item.get("label") in labels]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": 1, "width": 2048, "height": 2048}],
            "categories": [{"id": i, "name": label} for label, i in labels.items()],
            "annotations": [_annotation(item, labels) | {"id": i, "iscrowd": 0} for i, item in enumerate(gold, 1)],
        }
        truth.createIndex()
        if not known:
            return 0.0
        run = COCOeval(truth, truth.loadRes([_annotation(item, labels) | {"score": 1.0} for item in known]), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return float(run.stats[0])


def coco_od_length(completion: Completion, sample: Sample) -> float:
    found = len(_fenced(completion.text))
    return coco_map(completion, sample) * (1.0 if len(sample.answer) >= found else len(sample.answer) / found)


def _fenced(text: str) -> list[dict[str, Any]]:
    inside = text.rsplit("```json", 1)[-1].split("```", 1)[0]
    try:
        return json.loads(inside)
    except ValueError:
        return []


def _annotation(item: dict[str, Any], labels: dict[str, int]) -> dict[str, Any]:
    x1, y1, x2, y2 = item["bbox_2d"]
    box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
    return {"image_id": 1, "category_id": labels[item["label"]], **box}


def compat(name: str) -> Callable[[Completion, Sample], float]:
    reward = bind(f"vlm_r1/{name}", {})
    return lambda completion, sample: reward(completion, sample).value


# ------------------------------------------------------------------------------------------------------------ the rows


def kinds(count: int) -> list[Kind]:
    rng = random.Random(0)
    ten, many = detecting(rng, count, 10, 10), detecting(rng, max(count // 8, 1), 20, 100)
    words = short(["No Defect.", "Navigation Logic Error"], "no defect", count, "gui_defect")
    numbers = short(["12 cm", "The answer is 13.", r"\frac{24}{2}", "1,200"], "12", count, "count")
    algebra = short([r"\frac{\sqrt{3}}{2}", r"\frac{3}{2\sqrt{3}}", "0.5"], r"\frac{\sqrt{3}}{2}", count, "free_form")
    return [
        Kind("format", words, "format", {}, compat("format")),
        Kind("referring expression", referring(rng, count), "rec_iou", {}, compat("iou")),
        Kind("mAP, 10 of 10 boxes", ten, "detection_map", {}, coco_map),
        Kind("odLength, 10 of 10 boxes", ten, "detection_od_length", {}, coco_od_length),
        Kind("odLength, 100 boxes for 20", many, "detection_od_length", {}, coco_od_length),
        Kind("weighted_sum, 10 of 10 boxes", ten, "detection_weighted_sum", {}, compat("weighted_sum")),
        Kind("F1, 10 of 10 boxes", ten, "detection_f1", {}),
        Kind("text", words, "exact_text", {}, compat("all_match")),
        Kind("letters of a text", words, "char_similarity", {}, compat("levenshtein")),
        Kind("choice", short(["B", "(C)", "The answer is B."], "B", count, "choice"), "choice", {}),
        Kind("yes or no", short(["yes", "No, it is not."], "yes", count, "yes_no"), "yes_no", {}, compat("yes_no")),
        Kind("number", numbers, "number", {}),
        Kind("mathematics", algebra, "math", {}),
        Kind("repetition", words, "repetition", {}, compat("repetition")),
        Kind("repetition of boxes", ten, "box_repetition", {}, compat("repetition")),
    ]


def rows_of(kind: Kind, repeats: int) -> list[Row]:
    ours, peer = bind(kind.reward, kind.options), kind.peer
    works: dict[str, Callable[[], object]] = {OURS: lambda: [ours(*job) for job in kind.jobs]}
    if peer is not None:
        works[THEIRS] = lambda: [peer(*job) for job in kind.jobs]
    costs = alternate(works, repeats)
    against = costs.get(THEIRS, costs[OURS])
    path = {OURS: kind.reward, THEIRS: "pycocotools" if peer in (coco_map, coco_od_length) else "the same in Python"}
    return [row(kind.name, arm, costs[arm], against, path[arm], **_speed(kind, costs[arm])) for arm in works]


def _speed(kind: Kind, cost: Cost) -> dict[str, Any]:
    return {"items": len(kind.jobs), "items_per_s": round(len(kind.jobs) / max(cost.cpu_seconds, 1e-9))}


def agreement(jobs: Sequence[Job]) -> float:
    """The largest difference between our odLength and that of the peer, which must not be one of speed alone."""
    ours = bind("vlm_r1/odLength", {})
    original = Frame("pixels_original", FRAME.size_original, FRAME.size_input)
    same = [(Completion(c.text, c.token_ids, frames=(original,)), sample) for c, sample in jobs]
    return max(abs(ours(*job).value - coco_od_length(*job)) for job in same)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(options(__doc__ or ""), argv)
    count = QUICK_COUNT if args.quick else COUNT
    rows = [one for kind in kinds(count) for one in rows_of(kind, args.repeats)]
    apart = agreement(detecting(random.Random(1), min(count, 64), 10, 15))
    if apart > 1e-6:
        raise ValueError(f"our odLength and that of pycocotools differ by {apart:g}; the speeds compare nothing")
    notes = [
        "ratio: CPU of VLM-R1's formula / own, and 1 where there is none. items_per_s: replies per second of CPU.",
        "mathematics: algebra runs in processes of its own, whose CPU is not counted here, once for each pair.",
        f"odLength of both arms on 64 replies: at most {apart:.1g} apart.",
    ]
    finish("rewards", args, rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The data of the group browser: whole groups of sibling rollouts, chosen so that the page stays under its size."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Any

from saccade.evaluation.boxes import gold_boxes
from saccade.grading.choice import letters_for
from saccade.report.pictures import Pictures, boxes_of
from saccade.runs.files import JsonRow, RunFiles

BUDGET = 6_000_000
"""Bytes of groups with their images, of the 10 MB of a page."""
WORSE = 0.1
"""Fall of the mean reward at a later step by which a prompt got worse."""
EACH = 4
"""Groups of each kind that are chosen first, from every stage."""


@dataclass(slots=True)
class Summary:
    """A group in numbers, from a first pass over the file."""

    id: str
    step: int
    stage: str
    sample: str
    image: bool
    rewards: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float:
        return fmean(self.rewards) if self.rewards else 0.0

    @property
    def spread(self) -> float:
        return pstdev(self.rewards) if self.rewards else 0.0


@dataclass(frozen=True, slots=True)
class Groups:
    """What the page's script shows, and how it was chosen in words."""

    data: list[JsonRow]
    choice: str
    without_image: int = 0


def group_data(run: RunFiles, pictures: Pictures, budget: int = BUDGET) -> Groups:
    """The groups of a run, all of them if `budget` (bytes) allows."""
    found = _summaries(run)
    if not found:
        return Groups([], "")
    later = _later_means(found)
    questions = {str(row["group_id"]): row for row in run.groups()}
    order = list(_by_worth(list(found.values())))
    size = (run.path / "rollouts.jsonl").stat().st_size / len(found)
    order = order[: math.ceil(2 * budget / size) + EACH]  # no page holds more of them
    rows = _rows_of(run, {one.id for one in order})
    spent, kept, start = 0, list[JsonRow](), pictures.bytes
    for one in order:
        group = _group(run, one, rows[one.id], questions.get(one.id, {}), pictures)
        group["worse"] = any(step > one.step and mean < one.mean - WORSE for step, mean in later[one.sample])
        spent += len(json.dumps(group))
        kept.append(group)
        if spent + pictures.bytes - start > budget:
            break
    kept.sort(key=lambda group: (group["step"], group["id"]))
    total = len(found)
    choice = f"All {total:,} groups of the run." if len(kept) == total else (
        f"{len(kept):,} of {total:,} groups: the first, last, best, worst and most disagreeing of every stage, the "
        "rest evenly spread over the steps; groups whose image was saved come first."
    )  # fmt: skip
    return Groups(kept, choice, sum(not group["img"] for group in kept))


def _summaries(run: RunFiles) -> dict[str, Summary]:
    found: dict[str, Summary] = {}
    for row in run.rollouts():
        name = str(row["group_id"])
        if name not in found:
            image = bool(run.images(row.get("image_sha")))
            found[name] = Summary(name, row["step"], str(row.get("stage", "")), row["sample_id"], image)
        if not row.get("masked"):
            found[name].rewards.append(float(row["reward"] or 0.0))
    return found


def _later_means(found: Mapping[str, Summary]) -> dict[str, list[tuple[int, float]]]:
    """Sample id -> (step, mean reward) of its groups."""
    means: dict[str, list[tuple[int, float]]] = {}
    for one in found.values():
        means.setdefault(one.sample, []).append((one.step, one.mean))
    return means


def _by_worth(groups: Sequence[Summary]) -> Iterator[Summary]:
    """Every group once: those with images before the others; in each part first the extremes of every stage, then the
    steps evenly, ever more finely."""
    for image in (True, False):
        some = [one for one in groups if one.image is image]
        if not some:
            continue
        taken: dict[str, Summary] = {}
        for stage in dict.fromkeys(one.stage for one in some):
            of_stage = sorted((one for one in some if one.stage == stage), key=lambda one: one.step)
            taken |= {one.id: one for one in [*of_stage[:EACH], *of_stage[-EACH:]]}
            for key in (lambda one: -one.mean, lambda one: one.mean, lambda one: -one.spread):
                taken |= {one.id: one for one in sorted(of_stage, key=key)[:EACH]}
        yield from taken.values()
        rest = [one for one in sorted(some, key=lambda one: one.step) if one.id not in taken]
        bits = max(1, (len(rest) - 1).bit_length())
        yield from (rest[i] for i in sorted(range(len(rest)), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2)))


def _rows_of(run: RunFiles, ids: set[str]) -> dict[str, list[JsonRow]]:
    found: dict[str, list[JsonRow]] = {name: [] for name in ids}
    for row in run.rollouts():
        if (name := str(row["group_id"])) in found:
            found[name].append(row)
    return found


def _group(run: RunFiles, one: Summary, rows: Sequence[JsonRow], group: JsonRow, pictures: Pictures) -> JsonRow:
    meta = group.get("meta", {})
    image = int(meta.get("image_index") or 0)
    rewards = [float(row["reward"] or 0.0) for row in rows if not row.get("masked")]
    return {
        "id": one.id,
        "step": one.step,
        "stage": one.stage,
        "task": rows[0]["task"],
        "sample": one.sample,
        **question(group.get("question") or f"sample {one.sample} (its question is not in groups.jsonl)"),
        "gold": text_of(group.get("answer")),
        "options": options_of(meta.get("options", ())),
        "img": pictures.keys(run, rows[0].get("image_sha")),
        "bi": image,
        "gb": rounded(gold_boxes(group.get("answer"))),
        "dis": bool(rewards) and max(rewards) - min(rewards) > 1e-9,
        "r": [_rollout(row, image) for row in sorted(rows, key=lambda row: (-(row["reward"] or 0.0), row["index"]))],
    }


def _rollout(row: JsonRow, image: int) -> JsonRow:
    found: JsonRow = {
        "i": int(row["index"]) + 1,
        "t": row["text"],
        "p": row.get("reward"),
        "a": round(float(row["advantage"]), 3),
        "parts": {name: round(value, 4) for name, value in (row.get("parts") or {}).items()},
        "why": {name: str(reason) for name, reason in (row.get("reasons") or {}).items() if reason},
        "n": row.get("tokens", len(row.get("token_ids") or ())),
        "f": str(row.get("finish_reason") or "stop"),
        "m": row.get("masked"),
        "b": rounded(boxes_of(row, image)),
    }
    if cause := row.get("sampler_cause"):
        found["sc"] = cause
    ends, logprobs = row.get("token_ends"), row.get("logprobs")
    if ends and logprobs and len(ends) == len(logprobs):
        found["e"] = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        found["lp"] = [round(-10 * value) for value in logprobs]
    return found


def question(text: str) -> JsonRow:
    return {"q": " ".join(text.replace("<image>", " ").split())}


def text_of(value: Any) -> str:
    return "" if value is None else str(value)


def options_of(texts: Sequence[str]) -> list[list[str]]:
    """[letter, text] of every option of a choice question."""
    return [[letter, str(text)] for letter, text in zip(letters_for(texts), texts, strict=False)]


def rounded(boxes: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[round(value, 1) for value in box] for box in boxes]

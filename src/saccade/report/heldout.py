"""The data of the list of held-out questions: replies to the same question side by side, over the evaluations of a run,
by the models of a demo, or from several runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saccade.report.browser import options_of, question, rounded, text_of
from saccade.report.pictures import Pictures
from saccade.runs.files import BLIND_ITEMS, JsonRow, RunFiles, file_inside

BUDGET, MOST_COLUMNS = 2_500_000, 8
"""Bytes of questions with their images, and evaluations of each question, that a page shows: of the latter the first,
the last, and some evenly between."""
Column = tuple[str, Sequence[JsonRow]]
"""(who answered, items)."""


@dataclass(frozen=True, slots=True)
class Items:
    """What the page's script shows."""

    data: list[JsonRow]
    total: int
    """Questions of the run."""


def run_items(run: RunFiles, pictures: Pictures) -> Items:
    """The items of an evaluation, or of a training run's evaluations over its steps."""
    steps = run.evaluations()
    if not steps:
        columns: dict[str, list[JsonRow]] = {}
        for row in run.items():
            columns.setdefault(f"{row['model']}, {row['decoding']}", []).append(row)
        return item_data([(who, run, rows) for who, rows in columns.items()], pictures)
    chosen = _spread(steps)
    blind = dict(run.evaluations(BLIND_ITEMS))
    replies = [(f"step {step}", run, rows) for step, rows in chosen]
    replies += [(f"step {step}, {_control(rows)}", run, rows) for step, _ in chosen[-1:] if (rows := blind.get(step))]
    return item_data(replies, pictures)


def _control(rows: Sequence[JsonRow]) -> str:
    return str(rows[0].get("control") or "blind")


def _spread(steps: Sequence[tuple[int, list[JsonRow]]]) -> list[tuple[int, list[JsonRow]]]:
    last = len(steps) - 1
    places = {round(i * last / (MOST_COLUMNS - 1)) for i in range(MOST_COLUMNS)} if last else {0}
    return [steps[i] for i in sorted(places)]


def item_data(
    columns: Sequence[tuple[str, RunFiles, Sequence[JsonRow]]], pictures: Pictures, budget: int = BUDGET
) -> Items:
    """One entry per question, its replies in the order of the columns; questions with images first when there are too
    many for `budget` (bytes)."""
    found: dict[tuple[str, str], JsonRow] = {}
    sources: dict[tuple[str, str], tuple[RunFiles, JsonRow]] = {}
    for who, run, rows in columns:
        for row in rows:
            key = (row["split"], row["sample_id"])
            if key not in found:
                found[key], sources[key] = _entry(row), (run, row)
            elif sources[key][0] is not run and not sources[key][0].images(sources[key][1]["image_shas"]):
                sources[key] = (run, row)
            found[key]["r"].append(_reply(who, row))
    kept, spent, start = list[JsonRow](), 0, pictures.bytes
    for key in sorted(found, key=lambda key: not sources[key][0].images(sources[key][1]["image_shas"])):
        run, row = sources[key]
        found[key]["img"] = pictures.keys(run, row["image_shas"])
        kept.append(found[key])
        spent += len(json.dumps(found[key]))
        if spent + pictures.bytes - start > budget:
            break
    return Items(kept, len(found))


def _entry(row: JsonRow) -> JsonRow:
    return {
        "id": row["sample_id"],
        "task": row["task"],
        "split": row["split"],
        **question(row["question"]),
        "gold": text_of(row["gold"]),
        "options": options_of(row["options"]),
        "bi": row["box_image"],
        "gb": rounded(row["gold_boxes"]),
        "r": [],
    }


def _reply(who: str, row: JsonRow) -> JsonRow:
    verdicts = row["verdicts"]
    right = None if None in verdicts else sum(verdicts) * 2 > len(verdicts)
    reply: JsonRow = {"who": who, "t": row["text"], "right": right, "n": row["tokens"][0], "b": rounded(row["boxes"])}
    if row.get("control") and str(row["control"]).startswith("image "):
        reply["blind"] = True
    return reply


def sample_items(samples: Sequence[Mapping], folder: Path, pictures: Pictures, warnings: list[str]) -> list[JsonRow]:
    """The entries of a demo's samples.json: its models answer the same questions."""
    entries = []
    for row in samples:
        path = file_inside(folder, row.get("image"))
        key = pictures.add(path) if path else ""
        if not key:
            warnings.append(f"the image of sample {row['sample_id']} is missing: {row.get('image')}")
        boxes = {who: [reply["box"]] if reply.get("box") else [] for who, reply in row["replies"].items()}
        entries.append(
            {
                "id": row["sample_id"],
                "task": row["task"],
                "split": row["split"],
                **question(row["question"]),
                "gold": text_of(row.get("gold")),
                "options": [],
                "bi": 0,
                "gb": rounded([row["gold_box"]]) if row.get("gold_box") else [],
                "img": [key] if key else [],
                "r": [
                    {"who": who, "t": reply["text"], "right": reply.get("right"), "b": rounded(boxes[who])}
                    for who, reply in row["replies"].items()
                ],
            }
        )
    return entries

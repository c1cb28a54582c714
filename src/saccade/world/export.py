"""Exports the world in formats of other trainers: VLM-R1 JSONL, Parquet, COCO, with statistics and a contact sheet."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from saccade.disk import partial_folder, writing
from saccade.tasks.templates import IMAGE, write_options
from saccade.types import Sample
from saccade.world.generator import World, WorldItem
from saccade.world.sheet import contact_sheet
from saccade.world.splits import find_split
from saccade.world.summary import summarize

METHODS = {"choice": "mcq", "yes_no": "yes_no", "detect": "odLength"}
"""Task -> VLM-R1's `accu_reward_method`; other tasks use its default."""
_SHEET_PER_TASK = 6


def write_dataset(
    world: World, out: str | Path, n_per_task: int, seed: int, split: str = "train", tasks: Sequence[str] | None = None
) -> Path:
    """Write `n_per_task` items of each task into a new folder and return it.

    The folder contains images/, <split>.jsonl, <split>.parquet, coco.json (if detect is among the tasks),
    statistics.json and sheet.png. It is written atomically. ValueError for a folder that is not empty, an unknown task
    or split, and a full disk.
    """
    target, names = Path(out), tuple(tasks or find_split(split).tasks)
    if n_per_task < 1:
        raise ValueError(f"n_per_task must be at least 1; got {n_per_task}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not an empty folder; use a new one or remove it")
    items = [world.item(seed, index, task, split) for task in names for index in range(n_per_task)]
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_folder(target)
    with writing(target.absolute().parent, f"{target} was not written; free some space, or lower n_per_task"):
        try:
            _write(items, partial, split)
            partial.replace(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def _write(items: Sequence[WorldItem], folder: Path, split: str) -> None:
    samples = [item.sample for item in items]
    (folder / "images").mkdir()
    for sample in samples:
        for name, image in zip(image_names(sample), sample.images, strict=True):
            (folder / "images" / name).write_bytes(_png(image))
    rows = [vlm_r1_row(sample) for sample in samples]
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(_table(samples), folder / f"{split}.parquet")
    if any(sample.task == "detect" for sample in samples):
        _write_json(folder / "coco.json", coco(samples))
    _write_json(folder / "statistics.json", summarize(items))
    by_task = {task: [i for i in items if i.sample.task == task] for task in dict.fromkeys(s.task for s in samples)}
    contact_sheet([i for own in by_task.values() for i in own[:_SHEET_PER_TASK]]).save(folder / "sheet.png")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def _png(image: Any) -> bytes:
    assert isinstance(image, Image.Image)  # the world decodes its images
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def image_names(sample: Sample) -> list[str]:
    """File names of a sample's images: '<task>-<index>.png', with '-1' and '-2' for a pair."""
    stem = f"{sample.task}-{sample.meta['index']:06d}"
    if len(sample.images) == 1:
        return [f"{stem}.png"]
    return [f"{stem}-{k}.png" for k in range(1, len(sample.images) + 1)]


def vlm_r1_row(sample: Sample) -> dict[str, Any]:
    """A row in VLM-R1's format. `image` is relative to the folder of the file.

    Other trainers do not read options, so the question contains them; `meta.options` are then only the letters.
    """
    names = [f"images/{name}" for name in image_names(sample)]
    meta = dict(sample.meta)
    if "options" in meta:
        meta["option_texts"] = meta["options"]
        meta["options"] = [chr(ord("A") + k) for k in range(len(meta["options"]))]
    question = IMAGE * len(names) + sample.question + write_options(sample.meta.get("options") or ())
    row = {
        "id": sample.id,
        "image": names[0] if len(names) == 1 else names,
        "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": _vlm_r1_answer(sample)}],
        "task": sample.task,
        "answer": sample.answer,
        "meta": meta,
    }
    if sample.task in METHODS:
        row["accu_reward_method"] = METHODS[sample.task]
    return row


def _vlm_r1_answer(sample: Sample) -> Any:
    """The answer as VLM-R1 expects it: a fenced list or 'None' for detection, four numbers for a box, else text."""
    if sample.task == "detect":
        return f"```json\n{json.dumps(sample.answer)}\n```" if sample.answer else "None"
    return sample.answer


def _table(samples: Sequence[Sample]) -> pa.Table:
    """One row per sample; images as the struct {bytes, path} that Hugging Face `datasets` decodes as images."""
    images = [
        [{"bytes": _png(image), "path": name} for name, image in zip(image_names(s), s.images, strict=True)]
        for s in samples
    ]
    columns = {
        "id": [s.id for s in samples],
        "task": [s.task for s in samples],
        "question": [s.question for s in samples],
        "answer": [s.answer if isinstance(s.answer, str) else json.dumps(s.answer) for s in samples],
        "options": pa.array([list(s.meta.get("options") or ()) for s in samples], type=pa.list_(pa.string())),
        "images": images,
        "meta": [json.dumps(dict(s.meta)) for s in samples],
    }
    return pa.table(columns)


def coco(samples: Sequence[Sample]) -> dict[str, Any]:
    """COCO instances of the detection samples: a category per label, boxes as x, y, width, height."""
    chosen = [sample for sample in samples if sample.task == "detect"]
    labels = sorted({label for sample in chosen for label in sample.meta["labels"]})
    numbers = {label: k for k, label in enumerate(labels, 1)}
    images, annotations = [], []
    for number, sample in enumerate(chosen, 1):
        picture = sample.images[0]
        assert isinstance(picture, Image.Image)  # the world decodes its images
        width, height = picture.size
        images.append({"id": number, "file_name": image_names(sample)[0], "width": width, "height": height})
        for entry in sample.answer:
            x1, y1, x2, y2 = entry["bbox_2d"]
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            place = {"id": len(annotations) + 1, "image_id": number, "category_id": numbers[entry["label"]]}
            annotations.append({**place, **box})
    categories = [{"id": number, "name": label} for label, number in numbers.items()]
    return {"images": images, "annotations": annotations, "categories": categories}

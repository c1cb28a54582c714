"""Small benchmarks in their official layouts, written by hand, and a model under test with given replies."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from saccade.data.images import image_size
from saccade.evaluation.answerers import Answers, EvalQuestion, Failed
from saccade.evaluation.config import Decoding
from saccade.types import Completion, Frame, FrameName, Sample

SIZE = (200, 100)


def details_of(*verdicts: bool | None, split: str = "test", group: str = "g") -> dict[str, Any]:
    """`ItemResult.details` as an evaluation writes them."""
    attempt = {"text": "1", "finish_reason": "stop", "tries": 1, "read": "whole reply", "value": 0.5}
    attempt |= {"route": "number", "extracted": "1", "detail": "", "needs_judge": False, "judged": []}
    return {
        "slices": {"split": split},
        "group": group,
        "prompt_id": "task",
        "mode": "strict",
        "judge": None,
        "frames": [["raw", [200, 100], [200, 100]]],
        "crowds": [{"bbox_2d": [1, 2, 3, 4], "label": "cat"}],
        "boxes": [[[1.0, 2.0, 3.0, 4.0], "cat"]],
        "attempts": [attempt | {"right": right, "first_right": right} for right in verdicts],
    }


class Canned:
    """Answers with `say(sample)`: a text, a list of texts (one per attempt), or a `Failed`."""

    whole_batches = False
    lanes = 1

    def __init__(self, say: Callable[[Sample], Any], frame: FrameName = "pixels_original") -> None:
        self.say, self.frame, self.asked = say, frame, list[str]()

    def answer(self, questions: Sequence[EvalQuestion], decoding: Decoding, n: int) -> list[Answers]:
        return [self._one(question, n) for question in questions]

    def _one(self, question: EvalQuestion, n: int) -> Answers:
        self.asked.append(question.sample.id)
        reply = self.say(question.sample)
        if isinstance(reply, Failed):
            return reply
        texts = reply if isinstance(reply, list) else [reply] * n
        frames = frames_of(question.sample, self.frame)
        return [Completion(text, (1,) * len(text.split()), frames=frames) for text in texts]


def frames_of(sample: Sample, frame: FrameName = "pixels_original") -> tuple[Frame, ...]:
    sizes = [image_size(source) for source in sample.images]
    return tuple(Frame(frame, size, size) for size in sizes)


def picture(path: Path, color: tuple[int, int, int] = (200, 30, 30)) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, color).save(path)
    return path.name


def png() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(SIZE, 60).convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_tsv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return path


# ------------------------------------------------------------------------------------------------------ the layouts


def mathvista(folder: Path) -> Path:
    picture(folder / "images" / "1.png")
    shared = {"image": "images/1.png", "unit": None, "query": None}
    meta = {"split": "testmini", "task": "geometry", "skills": ["arithmetic", "geometry"], "language": "english"}
    rows = [
        {"question": "How wide?", "choices": ["3 cm", "4 cm"], "answer": "4 cm", "question_type": "multi_choice"},
        {"question": "How many?", "choices": None, "answer": "7", "question_type": "free_form"},
        {"question": "What share?", "choices": None, "answer": "1.2", "question_type": "free_form"},
        {"question": "Which years?", "choices": None, "answer": "[2001, 2004]", "question_type": "free_form"},
    ]
    kinds = [("text", None), ("integer", None), ("float", 1.0), ("list", None)]
    held = {}
    for number, (row, (kind, precision)) in enumerate(zip(rows, kinds, strict=True), 1):
        held[str(number)] = (
            shared | row | {"pid": str(number), "answer_type": kind, "precision": precision} | {"metadata": meta}
        )
    (folder / "testmini.json").write_text(json.dumps(held), encoding="utf-8")
    return folder


def mathverse(folder: Path) -> Path:
    picture(folder / "images" / "a.png")
    rows = []
    for problem, (kind, answer) in enumerate((("multi-choice", "B"), ("free-form", "12"))):
        for number, version in enumerate(
            ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")
        ):
            rows.append(
                {
                    "sample_index": str(problem * 5 + number),
                    "problem_index": str(problem),
                    "problem_version": version,
                    "question": "" if version == "Vision Only" else "Find x.",
                    "image": "images/a.png",
                    "answer": answer,
                    "question_type": kind,
                    "metadata": {"subject": "Plane Geometry", "subfield": "Length"},
                    "query_wo": "Find x. Answer directly.",
                    "query_cot": "Find x. Reason.",
                    "question_for_eval": "Find x.",
                }
            )
    (folder / "testmini.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def mm_math(folder: Path) -> Path:
    picture(folder / "Image" / "t.png")
    row = {"question": "Find BC.", "file_name": "t.png", "year": 8, "difficult": "easy"}
    golds = ["so \\boxed{6\\sqrt{2}}", "two values, \\boxed{3} and \\boxed{-2}"]
    write_jsonl(folder / "MM_Math.jsonl", [row | {"solution": gold} for gold in golds])
    return folder


def math_vision(folder: Path) -> Path:
    picture(folder / "images" / "9.png")
    row = {"image": "images/9.png", "level": 2, "solution": None}
    rows = [
        {"id": "1", "question": "Which?\n<image1>", "options": ["2", "5", "9"], "answer": "B", "subject": "logic"},
        {"id": "2", "question": "How much?\n<image1>", "options": [], "answer": "12.5", "subject": "algebra"},
    ]
    write_jsonl(folder / "testmini.jsonl", [row | one for one in rows])
    return folder


def dynamath(folder: Path) -> Path:
    image = base64.b64encode(png()).decode()
    kinds = [("float", "1.5"), ("multiple choice", "C"), ("text", "even")]
    rows = [
        {
            "index": seed * 10 + variant,
            "image": image if variant == 0 else str(seed * 10),
            "qid": seed,
            "varid": variant,
            "question": f"Question {seed}, variant {variant}",
            "answer": answer,
            "answer_type": kind,
            "subject": "algebra",
            "knowledge_level": "high school",
        }
        for seed, (kind, answer) in enumerate(kinds)
        for variant in range(10)
    ]
    write_tsv(folder / "DynaMath.tsv", rows)
    return folder


def mmstar(folder: Path) -> Path:
    categories = ["math", "logical reasoning", "coarse perception"]
    rows = [
        {
            "index": i,
            "question": "What colour is it? Options: A: red, B: blue, C: green, D: black",
            "image": picture(folder / f"{i}.png"),
            "answer": "ABCD"[i % 4],
            "category": categories[i % 3],
            "l2_category": f"axis {i % 2}",
        }
        for i in range(6)
    ]
    write_jsonl(folder / "val.jsonl", rows)
    return folder


def chartqa(folder: Path) -> Path:
    picture(folder / "png" / "c.png")
    for split, answers in (("human", ["14", "Blue"]), ("augmented", ["0.5", "0"])):
        rows = [{"imgname": "c.png", "query": "What is it?", "label": answer} for answer in answers]
        (folder / f"test_{split}.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def mme(folder: Path) -> Path:
    rows = []
    for category in ("existence", "count", "code_reasoning"):
        for number in range(2):
            for answer in ("Yes", "No"):
                image = picture(folder / f"{category}{number}.png")
                row = {"question_id": f"{category}/{number}", "image": image, "category": category}
                rows.append(row | {"question": "Is there a red cup?", "answer": answer})
    write_jsonl(folder / "test.jsonl", rows)
    return folder


def rec(folder: Path, names: Sequence[str] = ("refcoco_val",)) -> Path:
    picture(folder / "images" / "r.png")
    for name in names:
        rows = [
            {"image": "images/r.png", "problem": f"Where is cup {i}?", "solution": [10 * i, 10, 10 * i + 60, 70]}
            for i in range(4)
        ]
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def coco(folder: Path) -> Path:
    """Image 1: a cup and eleven birds. Image 2: two cups. Image 3: birds alone, too many, and so not asked."""
    boxes = [(1, 1, [10, 10, 40, 40]), (2, 1, [0, 0, 30, 30]), (2, 1, [100, 50, 50, 40])]
    boxes += [(image, 2, [5 * i, 50, 20, 20]) for i in range(11) for image in (1, 3)]
    content = {
        "images": [{"id": i, "file_name": picture(folder / "val2017" / f"{i}.png")} for i in (1, 2, 3)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3]}
            for n, (i, c, b) in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "bird"}],
    }
    (folder / "instances_val2017.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def ovdeval(folder: Path, tasks: Sequence[str] = ("celebrity", "logo", "color", "position")) -> Path:
    (folder / "annotations").mkdir(parents=True)
    for task in tasks:
        content = {
            "images": [
                {
                    "id": 1,
                    "file_name": picture(folder / "images" / f"{task}.png"),
                    "text": ["red cup"],
                    "neg_text": ["blue cup"],
                }
            ],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [20, 20, 60, 60], "area": 3600}],
            "categories": [{"id": 1, "name": "red cup"}, {"id": 2, "name": "blue cup"}],
        }
        (folder / "annotations" / f"{task}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def geometry3k(folder: Path) -> Path:
    for number, letter in ((1, "B"), (2, "D")):
        picture(folder / str(number) / "img_diagram.png")
        row = {
            "compact_text": "Find x.",
            "compact_choices": ["3", "4", "2 \\sqrt { 5 }", "60"],
            "answer": letter,
            "precise_value": [3.0, 4.0, 4.472, 60.0],
        }
        (folder / str(number) / "data.json").write_text(json.dumps(row), encoding="utf-8")
    return folder


def rows(folder: Path) -> Path:
    picture(folder / "q.png")
    turns = [{"from": "human", "value": "<image>How many?"}, {"from": "gpt", "value": "3"}]
    write_jsonl(
        folder / "rows.jsonl", [{"id": i, "image": "q.png", "conversations": turns, "task": "count"} for i in (1, 2)]
    )
    return folder / "rows.jsonl"


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "mathvista": mathvista,
    "mathverse": mathverse,
    "mm_math": mm_math,
    "math_vision": math_vision,
    "dynamath": dynamath,
    "mmstar": mmstar,
    "chartqa": chartqa,
    "mme": mme,
    "refcoco": rec,
    "refcoco_plus": lambda folder: rec(folder, ("refcocop_val",)),
    "refcocog": lambda folder: rec(folder, ("refcocog_val",)),
    "refcoco_all": lambda folder: rec(folder, ("refcoco_val", "refcocop_val", "refcocog_val")),
    "lisa_grounding": lambda folder: rec(folder, ("lisa_test",)),
    "coco_filtered": coco,
    "ovdeval": ovdeval,
    "geometry3k": geometry3k,
    "jsonl": rows,
}
"""Benchmark -> what writes its layout into a folder and gives what `--data` names."""

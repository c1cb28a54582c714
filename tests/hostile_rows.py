"""Rows that cannot be used, for several tests: one file of data with all of them among good ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from saccade.base.tiny import write_checkpoint


def turns(question: str, answer: Any) -> list[dict[str, Any]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def make_images(folder: Path) -> None:
    """ok.png, and images that are thin, cut off, huge, no file at all, or no image."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (56, 56), "red").save(folder / "ok.png")
    Image.new("RGB", (300, 1)).save(folder / "thin.png")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "whole.jpg", quality=95)
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:900])
    Image.new("1", (6000, 6000)).save(folder / "huge.png")
    Image.new("RGB", (8, 8)).save(folder / "drawing.eps")
    Image.new("F", (56, 56)).save(folder / "float.tif")
    Image.fromarray(np.full((56, 56), 1 << 20, dtype=np.int32)).save(folder / "deep.tif")
    os.mkfifo(folder / "pipe.png")
    (folder / "padded.png").write_bytes((folder / "ok.png").read_bytes())
    os.truncate(folder / "padded.png", 1 << 30)  # takes no space


KNOWN_BEFORE: dict[str, dict[str, Any]] = {
    "thin": {"image": "thin.png"},
    "huge": {"image": "huge.png"},
    "a pipe": {"image": "pipe.png"},
    "a gigabyte of nothing behind an image": {"image": "padded.png"},
    "a name with a null byte": {"image": "ok\0.png"},
    "a device outside": {"image": "/dev/tty"},
    "a folder": {"image": "."},
    "a program for Ghostscript": {"image": "drawing.eps"},
    "missing": {"image": "gone.png"},
    "outside": {"image": "../outside.png"},
    "an absolute name": {"image": "/etc/hostname"},
    "a data URI": {"image": "data:image/png;base64," + "A" * 5000},
    "an address": {"image": "http://example.com/a.png"},
    "a surrogate in the question": {"conversations": turns("<image>How \ud800?", "1")},
    "a surrogate in the id": {"id": "x\udfff"},
    "a surrogate in meta": {"meta": {"k": ["\ud800"]}},
    "a surrogate in the image's name": {"image": "\ud800.png"},
    "a giant integer in a box": {"conversations": turns("Where?", [0, 0, 10**400, 5]), "task": "refer"},
    "NaN in a box": {"conversations": turns("Where?", [0, 0, float("nan"), 5]), "task": "refer"},
    "a key twice in a gold that is text": {
        "conversations": turns("Where?", '{"bbox_2d": [1, 1, 5, 5], "bbox_2d": [2, 2, 6, 6]}'),
        "task": "refer",
    },
    "an infinite number": {"conversations": turns("How many?", float("inf"))},
    "options that are no list": {"task": "choice", "meta": {"options": 5}},
    "meta that is no object": {"meta": [1]},
    "turns that are no turns": {"conversations": [5, None]},
    "an unknown task": {"task": "fly"},
    "an unknown reward": {"meta": {"reward": "gold_medal"}},
    "nested too deeply": {"meta": {"k": json.loads("[" * 300 + "]" * 300)}},
    "a size of the annotation that is none": {"meta": {"annotated_size": 5}},
    "an image index that is none": {"meta": {"image_index": "first"}},
    "an image index beyond the images": {"meta": {"image_index": 1}},
    "later turns that are none": {"meta": {"turns": 5}},
    "a later turn without a role": {"meta": {"turns": [{"role": "x", "content": "y"}]}},
    "a system turn that is no text": {"meta": {"system": 5}},
    "an empty option before another": {"task": "choice", "options": ["a", None, "c"]},
    "an option that is an object": {"task": "choice", "options": [{"a": 1}, "b"]},
    "a part of a turn without its text": {
        "conversations": [
            {"role": "user", "content": [{"type": "text", "text": None}]},
            {"role": "assistant", "content": "1"},
        ]
    },
    "a gold that is an empty list": {"answer": []},
    "a gold that is an object": {"answer": {"a": 1}},
    "numbers of floating point as pixels": {"image": "float.tif"},
    "a reserved token": {"conversations": turns("<image>How many <|image_pad|>?", "1")},
    "over the budget": {"conversations": turns("<image>How many " + "very " * 20_000 + "?", "1")},
}
"""What is wrong -> what a good row has instead. All of it shows in headers and texts, before the first step."""
LINES = {
    "an integer of 5,000 digits": '{"id": ' + "9" * 5000 + "}",
    "no JSON": '{"id": ',
    "a list": "[1]",
    "bytes of another encoding": '{"id": "\udce9"}',
    "a key twice": '{"id": "a", "image": "ok.png", "task": "count", "answer": "1", "answer": "2", "conversations": []}',
    "a key twice within": '{"id": "a", "image": [], "conversations": [{"from": "human", "value": "a", "value": "b"}]}',
}
"""Lines that no row can be read from."""
AT_ITS_TURN: dict[str, dict[str, Any]] = {"cut off": {"image": "cut.jpg"}, "32 bits of gray": {"image": "deep.tif"}}
"""What shows only when the pixels are read."""


def good(number: int) -> dict[str, Any]:
    return {"id": f"good{number}", "image": "ok.png", "conversations": turns(f"<image>How many? {number}", str(number))}


def write_rows(folder: Path, bad: list[str], rows: int = 6) -> Path:
    """`rows` good rows with bad ones, by their names, between them; a tiny checkpoint is beside the file."""
    make_images(folder / "data")
    Image.new("RGB", (56, 56)).save(folder / "outside.png")
    lines = [json.dumps(good(i) | {"task": "count"}) for i in range(rows)]
    for place, name in enumerate(bad):
        row = LINES[name] if name in LINES else json.dumps(good(100 + place) | (KNOWN_BEFORE | AT_ITS_TURN)[name])
        lines.insert(1 + 2 * place, row)
    path = folder / "data" / "train.jsonl"
    path.write_bytes(("\n".join(lines) + "\n").encode(errors="surrogateescape"))
    return path


def write_model(folder: Path) -> Path:
    write_checkpoint(folder / "model", "S")
    return folder / "model"

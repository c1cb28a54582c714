"""`saccade ap`: the figures of two COCO files, and one clear line for an invalid file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saccade import cli

TRUTH = {
    "images": [{"id": 1}, {"id": 2}],
    "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 8, "bbox": [5, 5, 50, 50], "area": 2500, "iscrowd": 0},
    ],
}
FOUND = [
    {"image_id": 1, "category_id": 7, "bbox": [0, 0, 10, 10], "score": 0.9},
    {"image_id": 2, "category_id": 7, "bbox": [5, 5, 50, 50], "score": 0.8},
]


def run(capsys, tmp_path: Path, found: Any, truth: Any, *more: str) -> tuple[int, str, str]:
    for name, content in (("found.json", found), ("truth.json", truth)):
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(SystemExit) as ended:
        cli.main(["ap", str(tmp_path / "found.json"), str(tmp_path / "truth.json"), *more])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_all_figures_are_printed(capsys, tmp_path: Path):
    status, out, _ = run(capsys, tmp_path, FOUND, TRUTH, "--json")
    figures = json.loads(out)
    assert status == 0
    assert (figures["images"], figures["gold"], figures["detections"]) == (2, 2, 2)
    assert figures["AP"] == pytest.approx(0.5) and figures["APs"] == pytest.approx(1.0) and figures["APl"] == -1.0
    assert (figures["greedy_precision"], figures["greedy_recall"]) == (0.5, 0.5)
    assert figures["NMS-AP"] == pytest.approx(0.5)
    assert len(figures) == 3 + 12 + 3
    status, out, _ = run(capsys, tmp_path, FOUND, TRUTH)
    assert "AP                0.5000\n" in out and "2 images, 2 gold, 2 detections" in out


BAD = [
    (FOUND, "{", "truth.json:1: not JSON"),
    (FOUND, [], "got a list, expected COCO annotations"),
    ({}, TRUTH, "found.json: got an object, expected COCO results"),
    ([{**FOUND[0], "image_id": 9}], TRUTH, "found.json: entry 0: image 9 is not among the 2 images"),
    ([FOUND[0], {"image_id": 1}], TRUTH, "entry 1: field 'category_id' is missing"),
    ([{**FOUND[0], "bbox": [0, 0, -4, 4]}], TRUTH, "a negative side; expected [x, y, width, height], not xyxy"),
    ([{**FOUND[0], "bbox": [0, 0, 4]}], TRUTH, "entry 0: got bbox [0, 0, 4]"),
    ([{**FOUND[0], "score": None}], TRUTH, "entry 0: got score None"),
    ([{**FOUND[0], "score": 10**400}], TRUTH, "entry 0: got score 1000"),
    (FOUND, TRUTH | {"images": [{"id": [1]}]}, "images[0] has no 'id', a whole number or a text"),
    (FOUND, TRUTH | {"annotations": 5}, "got a number as 'annotations', expected a list"),
    (FOUND[:1] * 2001, TRUTH, "found.json: got 2,001 boxes on image 1, expected 2,000 at most"),
]


@pytest.mark.parametrize(("found", "truth", "words"), BAD, ids=[words for _, _, words in BAD])
def test_an_invalid_file_is_one_line_with_its_place(capsys, tmp_path: Path, found, truth, words: str):
    status, out, err = run(capsys, tmp_path, found, truth)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1 and words in err


def test_a_file_that_is_not_there(capsys, tmp_path: Path):
    with pytest.raises(SystemExit) as ended:
        cli.main(["ap", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert ended.value.code == 2
    assert "b.json: there is no such file" in capsys.readouterr().err

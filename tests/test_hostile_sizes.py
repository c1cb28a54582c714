"""Files and rows that are small on disk and large to work on: holes, and more gold boxes than can be compared."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from PIL import Image

from saccade.data import DataConfig
from saccade.data.files import count_rows
from saccade.data.json_stream import elements
from saccade.data.records import MOST_ANSWERS
from saccade.data.sources import items
from saccade.grading.detection import f1, match
from saccade.models.adapter import Adapter
from saccade.parsing import LabelledBox
from saccade.runs.files import rows_of
from saccade.runs.streams import end_of_step
from saccade.training.config import RLRecipe
from saccade.training.screening import room_in

ROW = {"id": "a", "image": "ok.png", "question": "Which?", "answer": [], "task": "detect", "meta": {}}


@pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="files have no holes here")
def test_a_file_of_terabytes_of_holes_is_read_at_once(tmp_path: Path) -> None:
    Image.new("RGB", (56, 56)).save(tmp_path / "ok.png")
    path, row = tmp_path / "d.jsonl", json.dumps(ROW | {"step": 1}) + "\n"
    path.write_text(row)
    os.truncate(path, 1 << 40)
    with path.open("ab") as file:
        file.write(f"\n{row}".encode())
    start, warnings = time.process_time(), list[str]()
    entry = DataConfig(source="saccade", path=path)
    found = [item for _, item in items(entry)]
    assert [isinstance(item, ValueError) for item in found] == [False, True, False]
    assert count_rows(path) == 3
    assert [one["step"] for one in rows_of(path, warnings)] == [1, 1] and "are not JSON objects" in warnings[0]
    assert end_of_step(path, 1) == len(row)
    assert time.process_time() - start < 20


def test_a_gold_list_is_as_long_as_can_be_compared(tmp_path: Path) -> None:
    Image.new("RGB", (56, 56)).save(tmp_path / "ok.png")
    box = {"bbox_2d": [0, 0, 5, 5], "label": "x"}
    rows = [ROW | {"answer": [box] * count} for count in (MOST_ANSWERS, MOST_ANSWERS + 1)]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    whole, refused = (item for _, item in items(DataConfig(source="saccade", path=tmp_path / "d.jsonl")))
    assert not isinstance(whole, ValueError) and "2,001 entries, expected 2,000 at most" in str(refused)
    same = [LabelledBox((0.0, 0.0, 5.0, 5.0), "x")] * 700
    start = time.process_time()
    assert f1(same, same) == 1.0 and time.process_time() - start < 5


def test_equal_boxes_pair_in_their_order_and_labels_apart() -> None:
    box = (0.0, 0.0, 5.0, 5.0)
    pred = [LabelledBox(box, label) for label in "abca"]
    gold = [LabelledBox(box, label) for label in "aab"]
    assert [(one.pred, one.gold) for one in match(pred, gold)] == [(0, 0), (1, 2), (3, 1)]
    assert match(pred, [LabelledBox(box, "d")], threshold=0.0) == []


def test_a_json_list_of_elements_that_are_not_json_takes_linear_time(tmp_path: Path) -> None:
    seconds = []
    for count in (20_000, 80_000):
        (tmp_path / "a.json").write_text(f"[{'oops,' * count}1]")
        start = time.process_time()
        assert sum(isinstance(value, ValueError) for _, _, value in elements(tmp_path / "a.json")) == count
        seconds.append(time.process_time() - start)
    assert seconds[1] < 7 * seconds[0], "16 times where it is quadratic"


def test_replies_that_fill_the_context_are_a_mistake_of_the_recipe_and_not_of_its_first_row() -> None:
    stages = [{"max_new_tokens": 99, "group_size": 2}]
    recipe = RLRecipe.model_validate(
        {"model": {"path": "base"}, "data": [{"source": "world", "task": "count"}], "stages": stages, "num_steps": 1}
        | {"optim": {"lr": 1e-3}}
    )
    assert room_in(recipe, cast(Adapter, SimpleNamespace(context_length=100))) == 1
    with pytest.raises(ValueError, match="max_new_tokens is 99, the model's context holds 99 tokens"):
        room_in(recipe, cast(Adapter, SimpleNamespace(context_length=99)))

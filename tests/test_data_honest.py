"""Data as other programs leave it: what is meant is plain, so it is read."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saccade.data import DataConfig, open_source
from saccade.data.images import image_size, load_image
from saccade.data.sources import items
from saccade.training.examples import ExampleConfig, read_examples
from saccade.types import Sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (60, 56), "red").save(tmp_path / name)
    return tmp_path


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_bytes_behind_the_end_of_an_image_are_no_part_of_it(folder: Path, kind: str) -> None:
    """Editors that cut a picture left the end of the larger file, and servers add a comment."""
    file = io.BytesIO()
    Image.effect_noise((60, 56), 50).convert("RGB").save(file, kind)
    (folder / "plain").write_bytes(file.getvalue())
    chance = random.Random(5)
    for behind in (b"<!-- from a cache -->", b"\xff" * 5_000, chance.randbytes(100_000), file.getvalue()):
        (folder / "more").write_bytes(file.getvalue() + behind)
        assert image_size(str(folder / "more")) == (60, 56)
        pixels = [np.asarray(load_image(str(folder / name))) for name in ("plain", "more")]
        assert np.array_equal(*pixels)


def test_a_row_with_one_image_in_one_column_and_all_in_another_has_all(folder: Path) -> None:
    asked = {"question": "?", "answer": "1"}
    both = [{"image": "a.png", "images": ["a.png", "b.png"]}, {"image": "a.png", "images": ["b.png"]}]
    odd = {"image": "a.png", "images": ["b.png", "b.png"]}
    path = jsonl(folder / "t.jsonl", *(asked | row for row in [*both, odd]))
    first, second, third = (item for _, item in items(DataConfig(source="table", path=path)))
    assert isinstance(first, Sample) and [Path(str(one)).name for one in first.images] == ["a.png", "b.png"]
    assert isinstance(second, Sample) and [Path(str(one)).name for one in second.images] == ["a.png"]
    assert "column 'image' holds one image and 'images' others" in str(third)


def test_replies_without_an_image_or_with_its_bytes_are_read(folder: Path) -> None:
    reply = {"prompt": "Say it.", "response": "It."}
    path = jsonl(folder / "t.jsonl", reply | {"image": None}, reply | {"images": None}, reply | {"image": "a.png"})
    found = read_examples(ExampleConfig(source="replies", path=path))
    assert [len(one.images) for one in found] == [0, 0, 1]
    path = jsonl(folder / "t.jsonl", reply | {"image": 0})
    with pytest.raises(ValueError, match=r"t\.jsonl:1: field 'image': got 0, expected str or list"):
        read_examples(ExampleConfig(source="replies", path=path))


def test_classes_of_yolo_may_be_written_as_numpy_writes_them(folder: Path) -> None:
    for name in ("images", "labels"):
        (folder / name).mkdir()
    (folder / "a.png").rename(folder / "images/a.png")
    (folder / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")
    (folder / "labels/a.txt").write_text("1.000000 0.5 0.5 0.2 0.2\n")
    (sample,) = open_source(DataConfig(source="yolo", path=folder, task="detect"))
    assert [one["label"] for one in sample.answer] == ["dog"]
    for wrong in ("1.5", "2.0", "-0.0", "1e0", "."):
        (folder / "labels/a.txt").write_text(f"{wrong} 0.5 0.5 0.2 0.2\n")
        ((_, error),) = items(DataConfig(source="yolo", path=folder, task="detect"))
        assert f"got the class '{wrong}', expected a number from 0 to 1" in str(error)

from __future__ import annotations

import errno
import json
from io import BytesIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools.coco import COCO

from saccade.data import DataConfig, open_source
from saccade.disk import DiskError
from saccade.tasks import TASKS
from saccade.world import World, export
from saccade.world.sheet import contact_sheet
from saccade.world.splits import ALL_TASKS

WORLD = World()
N = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return export.write_dataset(WORLD, tmp_path_factory.mktemp("made") / "set", N, 0, "test")


def test_the_jsonl_round_trips(folder: Path) -> None:
    rows = list(open_source(DataConfig(source="vlm_r1", path=folder / "test.jsonl")))
    assert len(rows) == N * len(ALL_TASKS)
    for row in rows:
        sample = WORLD.item(0, row.meta["index"], row.task, "test").sample
        assert row.id == sample.id
        assert TASKS[row.task].prompt(row) == TASKS[row.task].prompt(sample)
        assert _plain(row.answer) == _plain(sample.answer)
        with Image.open(row.images[-1]) as image:
            assert image.convert("RGB").tobytes() == sample.images[-1].tobytes()


def _plain(answer: object) -> object:
    """Ignores int versus float and list versus tuple."""
    return json.loads(json.dumps(answer), parse_int=float)


def test_rows_have_the_turns_and_methods_of_vlm_r1(folder: Path) -> None:
    for line in (folder / "test.jsonl").read_text().splitlines():
        row = json.loads(line)
        human, gpt = row["conversations"]
        names = row["image"] if isinstance(row["image"], list) else [row["image"]]
        assert human["value"].startswith("<image>" * len(names)) and human["from"] == "human" and gpt["from"] == "gpt"
        assert row.get("accu_reward_method") == export.METHODS.get(row["task"])
        if row["task"] == "detect":
            assert gpt["value"] == "None" or json.loads(gpt["value"].split("```")[1][5:]) == row["answer"]


def test_the_parquet_contains_pictures_and_answers(folder: Path) -> None:
    rows = pq.read_table(folder / "test.parquet").to_pylist()
    assert len(rows) == N * len(ALL_TASKS)
    for row in rows:
        sample = WORLD.item(0, json.loads(row["meta"])["index"], row["task"], "test").sample
        with Image.open(BytesIO(row["images"][0]["bytes"])) as image:
            assert image.convert("RGB").tobytes() == sample.images[0].tobytes()
        assert row["options"] == list(sample.meta.get("options") or [])


def test_pycocotools_reads_the_detections(folder: Path) -> None:
    coco = COCO(str(folder / "coco.json"))
    gold = [WORLD.item(0, k, "detect", "test").sample.answer for k in range(N)]
    assert [len(coco.getAnnIds(imgIds=[k + 1])) for k in range(N)] == [len(answer) for answer in gold]
    for annotation in coco.loadAnns(coco.getAnnIds()):
        x, y, width, height = annotation["bbox"]
        label = coco.loadCats([annotation["category_id"]])[0]["name"]
        assert {"bbox_2d": [x, y, x + width, y + height], "label": label} in gold[annotation["image_id"] - 1]


def test_statistics_and_sheet_are_written(folder: Path) -> None:
    statistics = json.loads((folder / "statistics.json").read_text())
    assert set(statistics["test"]["tasks"]) == set(ALL_TASKS)
    assert statistics["test"]["tasks"]["count"]["n"] == N
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.size[0] > 1000


def test_a_non_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    with pytest.raises(ValueError, match="not an empty folder"):
        export.write_dataset(WORLD, tmp_path, 1, 0, "test", ["count"])
    assert [p.name for p in tmp_path.iterdir()] == ["note"]


def test_a_full_disk_is_reported_and_leaves_nothing_behind(tmp_path: Path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskError, match=r"cannot be written .No space left on device; .* was not written"):
        export.write_dataset(WORLD, tmp_path / "set", 1, 0, "test", ["count"])
    assert list(tmp_path.iterdir()) == []


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="n_per_task"):
        export.write_dataset(WORLD, tmp_path / "set", 0, 0)
    with pytest.raises(ValueError, match="at least one item"):
        contact_sheet([])


def test_the_gold_box_is_drawn_at_its_position() -> None:
    item = WORLD.item(0, 0, "refer")
    pixels = contact_sheet([item]).load()
    x1, y1, _, _ = (2 * v for v in item.sample.answer)
    assert pixels[x1, y1] == (255, 0, 200)

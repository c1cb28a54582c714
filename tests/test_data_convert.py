"""Converting: round trips are lossless, and a folder is written atomically."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from saccade.data import DataConfig, open_source
from saccade.data.convert import convert
from saccade.data.images import ImageError, image_sha
from saccade.data.storage import SampleWriter
from saccade.disk import DiskError
from saccade.types import Sample


def png(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), color).save(buffer, "PNG")
    return buffer.getvalue()


def turns(*said: Any) -> list[dict[str, Any]]:
    return [{"from": who, "value": text} for who, text in zip(["human", "gpt"], said, strict=True)]


ROWS: dict[str, list[dict[str, Any]]] = {
    "vlm_r1": [
        {"id": 1, "image": "a.png", "conversations": turns("<image>Where?", [1, 2, 30, 40])},
        {"id": 2, "image": ["a.png", "b.png"], "conversations": turns("<image> or <image>?", "é x")},
        {"id": 3, "image": "b.png", "conversations": turns("Find all.", "None"), "accu_reward_method": "odLength"},
        {"id": 4, "image": [], "conversations": turns("2 + 2?", 4)},
    ],
    "llava": [
        {"id": "c/1", "image": "a.png", "conversations": turns("<image>Which? A. 1 B. 2", "<answer>B</answer>")},
        {"images": ["b.png"], "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Yes"}]},
    ],
    "easy_r1": [{"images": ["a.png"], "problem": "<image>Find x.", "answer": "\\frac{1}{2}"}],
    "math_vision": [{"id": "1", "question": "?<image1>", "options": ["1", "2"], "answer": "A", "image": "a.png"}],
    "refcoco": [{"image": "a.png", "sent": "red cup", "bbox": [1, 2, 30, 40]}],
}
COCO = {
    "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
    "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 20]}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, color in (("a.png", "white"), ("b.png", "red")):
        (tmp_path / name).write_bytes(png(color))
    return tmp_path


def entry(folder: Path, source: str) -> DataConfig:
    if source == "coco":
        (folder / "rows.json").write_text(json.dumps(COCO))
        return DataConfig(source=source, path=folder / "rows.json")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[source]))
    return DataConfig(source=source, path=folder / "rows.jsonl")


def plain(sample: Sample) -> Any:
    """All fields of a sample, with images by their pixels, without the source name."""
    meta = {key: value for key, value in sample.meta.items() if key != "source"}
    images = [image_sha(source) for source in sample.images]
    return json.loads(json.dumps([sample.id, sample.task, sample.question, sample.answer, meta, images]))


@pytest.mark.parametrize("source", [*ROWS, "coco"])
@pytest.mark.parametrize(
    ("kind", "keep"),
    [("parquet", "as_is"), ("parquet", "bytes"), ("parquet", "hash"), ("jsonl", "path"), ("jsonl", "hash")],
)
def test_a_round_trip_is_lossless(folder: Path, source: str, kind: Any, keep: Any) -> None:
    before = entry(folder, source)
    summary = convert([before], folder / "out", kind, keep)
    expected = [plain(sample) for sample in open_source(before)]
    found = open_source(DataConfig(source="saccade", path=folder / "out"))
    assert [plain(sample) for sample in found] == expected
    assert (summary.rows, summary.skipped) == (len(expected), 0)
    assert [type(s.answer) for s in found] == [type(s.answer) for s in open_source(before)]
    assert [plain(s) for s in open_source(DataConfig(source="saccade", path=folder / f"out/data.{kind}"))] == expected


def test_geometry3k_and_math_vision_round_trip(real_data: Path, tmp_path: Path) -> None:
    for source, path in (("geometry3k", "geometry3k"), ("math_vision", "math_vision/testmini.jsonl")):
        before = DataConfig(source=source, path=real_data / path, limit=40)
        convert([before], tmp_path / source, keep="hash")
        after = open_source(DataConfig(source="saccade", path=tmp_path / source))
        assert [plain(sample) for sample in after] == [plain(sample) for sample in open_source(before)]


def test_images_kept_by_hash_do_not_need_the_originals_and_are_stored_once(folder: Path) -> None:
    (folder / "copy.png").write_bytes(png("white"))
    rows = [
        {"id": str(k), "image": name, "problem": "?", "answer": "1"} for k, name in enumerate(["a.png", "copy.png"])
    ]
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    convert([DataConfig(source="easy_r1", path=folder / "t.jsonl")], folder / "out", keep="hash")
    for name in ("a.png", "copy.png"):
        (folder / name).unlink()
    (folder / "out").rename(folder / "moved")
    samples = list(open_source(DataConfig(source="saccade", path=folder / "moved")))
    assert len({s.images for s in samples}) == 1
    assert image_sha(samples[0].images[0]) == image_sha(png("white"))


def test_bytes_cannot_be_kept_by_path(folder: Path) -> None:
    row = {"images": [{"bytes": png("blue"), "path": "x.png"}], "problem": "?", "answer": "1"}
    pq.write_table(pa.Table.from_pylist([row]), folder / "t.parquet")
    before = DataConfig(source="easy_r1", path=folder / "t.parquet")
    with pytest.raises(
        ValueError, match=r"no usable row \(1 skipped, the first: t\.parquet:1: image of .* has no path"
    ):
        convert([before], folder / "out", keep="path")
    with pytest.raises(ValueError, match="JSONL cannot store bytes"):
        convert([before], folder / "out", "jsonl", "bytes")
    convert([before], folder / "out")
    (sample,) = open_source(DataConfig(source="saccade", path=folder / "out"))
    assert sample.images == (png("blue"),)


def test_skipped_rows_are_listed_with_their_lines_and_kinds(folder: Path) -> None:
    bad = [
        "{",
        {"id": 2, "image": "gone.png", "conversations": turns("?", "x")},
        {"id": 3, "image": "a.png", "conversations": turns("?", [30, 2, 1, 40])},
        {"id": 4, "image": "a.png", "video": "v.mp4", "conversations": turns("?", "x")},
    ]
    rows = [ROWS["vlm_r1"][0], *bad]
    path = folder / "t.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    before = DataConfig(source="vlm_r1", path=path)
    summary = convert([before], folder / "out")
    assert (summary.rows, summary.reasons) == (1, {"row": 2, "image": 1, "box": 1})
    listed = [json.loads(line) for line in (folder / "out/skipped.jsonl").read_text().splitlines()]
    assert [row["place"] for row in listed] == [f"t.jsonl:{line}" for line in (2, 3, 4, 5)]
    assert "not JSON" in listed[0]["reason"]
    assert json.loads((folder / "out/summary.json").read_text())["skipped"] == 4
    with pytest.raises(ValueError, match=r"^t\.jsonl:2: not JSON"):
        convert([before], folder / "strict", strict=True)
    assert not (folder / "strict").exists()


def test_half_of_a_surrogate_pair_is_no_text_and_its_row_is_skipped_by_name(folder: Path) -> None:
    rows = [{"id": str(k), "image": "a.png", "problem": text, "answer": "1"} for k, text in enumerate(["?", "\ud800"])]
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (first,) = convert([DataConfig(source="easy_r1", path=folder / "t.jsonl")], folder / "out").first
    assert first.startswith("t.jsonl:2: not UTF-8 text")


def test_an_error_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = entry(folder, "vlm_r1")
    there = sorted(folder.iterdir())

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("saccade.data.storage.SampleWriter.write", full)
    with pytest.raises(DiskError, match=r"cannot be written .No space left on device; .* was not written"):
        convert([before], folder / "out")
    assert sorted(folder.iterdir()) == there
    (folder / "taken").mkdir()
    (folder / "taken/x").write_text("mine")
    with pytest.raises(ValueError, match="is not an empty folder"):
        convert([before], folder / "taken")


def test_a_kill_leaves_no_folder_and_the_next_run_clears_the_remains(folder: Path) -> None:
    entry(folder, "vlm_r1")
    program = f"""
import time
from pathlib import Path
from saccade.data import DataConfig
from saccade.data.convert import convert
convert([DataConfig(source="vlm_r1", path=Path({str(folder / "rows.jsonl")!r}))], Path({str(folder / "out")!r}),
        progress=lambda: time.sleep(60))
"""
    child = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "OMP_NUM_THREADS": "1"})
    until = time.monotonic() + 60
    while not (left := list(folder.glob(".out.*.partial/data.parquet"))) and time.monotonic() < until:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert left
    assert not (folder / "out").exists()
    convert([entry(folder, "vlm_r1")], folder / "out")
    assert list(folder.glob(".out.*")) == []


def test_several_inputs_become_one_data_set(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    (other / "a.png").write_bytes(png("blue"))
    first = entry(folder, "vlm_r1")
    convert([first, first.model_copy(update={"image_folder": other, "limit": 1})], folder / "out")
    samples = list(open_source(DataConfig(source="saccade", path=folder / "out")))
    assert len(samples) == len(ROWS["vlm_r1"]) + 1
    assert image_sha(samples[-1].images[0]) == image_sha(png("blue"))


def test_an_invalid_row_of_the_storage_is_named(folder: Path) -> None:
    convert([entry(folder, "easy_r1")], folder / "out")
    rows = pq.read_table(folder / "out/data.parquet").to_pylist()
    pq.write_table(pa.Table.from_pylist([rows[0] | {"answer": "{"}]), folder / "bad.parquet")
    with pytest.raises(ValueError, match=r"^bad\.parquet:1: field 'answer': got '{', expected JSON"):
        open_source(DataConfig(source="saccade", path=folder / "bad.parquet"))
    (folder / "cut.parquet").write_bytes((folder / "out/data.parquet").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"^cut\.parquet:1: not a Parquet file that can be read"):
        open_source(DataConfig(source="saccade", path=folder / "cut.parquet"))


def test_images_too_large_for_a_row_are_not_stored_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row could not be read again, and a table of such rows takes ten times their bytes while it is written."""
    buffer = io.BytesIO()
    Image.effect_noise((30, 30), 80).save(buffer, "PNG")
    content = buffer.getvalue()
    monkeypatch.setattr("saccade.data.storage.LARGEST_STORED", 2 * len(content) - 1)
    (tmp_path / "a.png").write_bytes(content)
    name = str(tmp_path / "a.png")
    for images in ((name, name), (content, content), (content, name)):
        with SampleWriter(tmp_path, "parquet", "bytes") as writer:
            writer.write(Sample("one", images[:1], "?", "1", "count", {}))
            with pytest.raises(ImageError, match=r"its row can store [0-9,]+ more; keep images by hash"):
                writer.write(Sample("two", images, "?", "1", "count", {}))
        assert pq.read_table(tmp_path / "data.parquet").num_rows == 1

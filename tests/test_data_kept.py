"""What the rows of sources take in memory while they are kept: in proportion to their files."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from saccade.data import DataConfig, kept, open_source, open_sources
from saccade.data.files import table_rows
from saccade.data.records import Reading
from saccade.data.sources import items
from saccade.tasks.conversation import History
from saccade.training.config import ExampleConfig
from saccade.training.examples import read_examples
from saccade.types import Sample, Turn


def expressions(folder: Path, labels: int = 3_000, pictures: int = 4) -> DataConfig:
    """6 bytes for each sample."""
    (folder / "r.json").write_text(json.dumps([{"image": "ok.png", "text": ["a", "b"] * 500}]))
    text = json.dumps([chr(0x4E00 + i) for i in range(labels)], ensure_ascii=False, separators=(",", ":"))
    images = ",".join(f'{{"id":{i},"file_name":"ok.png","text":{text}}}' for i in range(pictures))
    boxes = '[{"image_id":0,"category_id":0,"bbox":[1,1,5,5]}]'
    (folder / "c.json").write_text(
        f'{{"images":[{images}],"annotations":{boxes},"categories":[{{"id":0,"name":"a"}}]}}'
    )
    return DataConfig(source="coco", path=folder / "c.json", task="count", on_bad="skip")


def nested(folder: Path) -> DataConfig:
    """Parquet that unpacks to less than 200 times its size."""
    value = "{" + ",".join(f'"{i}":{"[" * 20}{"]" * 20}' for i in range(60)) + "}"
    row = {"image": "ok.png", "question": "?", "answer": "1", "task": "count", "meta": value}
    pq.write_table(
        pa.Table.from_pylist([{"id": str(i), **row} for i in range(200)]), folder / "n.parquet", compression="zstd"
    )
    return DataConfig(source="saccade", path=folder / "n.parquet", on_bad="skip")


@pytest.mark.parametrize("made", [expressions, nested])
def test_rows_that_are_kept_take_memory_in_proportion_to_their_files(
    tmp_path: Path, monkeypatch: Any, made: Callable[[Path], DataConfig]
) -> None:
    monkeypatch.setattr(kept, "MOST", 1 << 20)
    Image.new("RGB", (56, 56)).save(tmp_path / "ok.png")
    config = made(tmp_path)
    opened, all_of_it = open_source(config), sum(isinstance(item, Sample) for _, item in items(config))
    assert opened.skipped == 1 and re.search(r"rows up to here .* 32 times .*'saccade convert'", opened.first_skipped)
    assert 0 < len(opened) < 0.8 * all_of_it
    with pytest.raises(ValueError, match=r"(c\.json|n\.parquet).*: the rows up to here take"):
        open_source(config.model_copy(update={"on_bad": "error"}))


def test_images_that_rows_share_are_held_and_counted_once(monkeypatch: Any) -> None:
    monkeypatch.setattr(kept, "MOST", 1 << 20)
    image = bytes(1 << 19)
    rows = [("r", Sample(str(i), (bytes(bytearray(image)), "a.png"), "?", "1", "count")) for i in range(200)]
    found = list(kept.Kept().of(iter(rows), lambda: 0))
    assert found == rows and len({id(one.images[0]) for _, one in found if isinstance(one, Sample)}) == 1
    *_, (_, error) = kept.Kept().of([("r", image[:i]) for i in range(-3, 0)], lambda: 0)
    assert "take 1 MB" in str(error)


@pytest.mark.parametrize("columns", ["question,answer", "question,answer,options"])
def test_short_rows_are_kept_whole(tmp_path: Path, monkeypatch: Any, columns: str) -> None:
    monkeypatch.setattr(kept, "MOST", 1 << 20)
    for i in range(50):
        Image.new("RGB", (56, 56)).save(tmp_path / f"{i:04}.png")
    ends = ["Any red?,yes", "Any blue?,no"] if columns == "question,answer" else ["How many?,A,1|2|3|4"]
    rows = "".join(f"{i % 50:04}.png,{ends[i % len(ends)]}\n" for i in range(6_000))
    (tmp_path / "t.csv").write_text(f"image,{columns}\n{rows}")
    source = open_source(DataConfig(source="table", path=tmp_path / "t.csv"))
    assert len(source) == 6_000
    assert len({id(sample.question) for sample in source}) == len(ends)


def test_a_text_at_the_place_of_one_that_is_gone_counts_again(monkeypatch: Any) -> None:
    monkeypatch.setattr(kept, "MOST", 8 << 20)
    found = kept.Kept().of((("r", "a" * (1 << 20)) for _ in range(50)), lambda: 0)
    assert sum(isinstance(one, str) for _, one in found) == 7
    text = "a" * (1 << 20)
    assert sum(isinstance(one, str) for _, one in kept.Kept().of([("r", text)] * 50, lambda: 0)) == 50


def test_odd_sources_of_a_recipe_share_the_memory_that_they_may_take(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(kept, "MOST", 1 << 20)
    Image.new("RGB", (56, 56)).save(tmp_path / "ok.png")
    odd = expressions(tmp_path, labels=1_000, pictures=1)
    row = {"question": "?" * 900, "answer": "1", "task": "count", "image": "ok.png", "meta": {}}
    lines = (json.dumps({"id": str(i), **row}) for i in range(2_000))
    (tmp_path / "plain.jsonl").write_text("\n".join(lines))
    plain = DataConfig(source="saccade", path=tmp_path / "plain.jsonl")
    found = open_sources([plain, odd, plain, odd, plain])
    assert [len(one) for one in found if one.name == "plain"] == [2_000] * 3
    assert [one.skipped for one in found[:4]] == [0, 0, 0, 1] and len(found[1]) == 1_001 > len(found[3]) > 9


def test_errors_of_annotations_are_not_held(tmp_path: Path) -> None:
    """Of each the frames, its place and its reason would take 500 bytes and more."""
    Image.new("RGB", (56, 56)).save(tmp_path / "ok.png")
    box = '{"image_id":0,"category_id":0,"bbox":[1,1,5,5]}'
    content = '{"images":[{"id":0,"file_name":"ok.png"}],"annotations":[%s],"categories":[{"id":0,"name":"a"}]}'
    (tmp_path / "c.json").write_text(content % ",".join([box, *["1"] * 12_000]))
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "ImageSets/Main/train.txt").write_text("".join(f"{i}\n" for i in range(4_000)))
    for config, bad in (("coco", tmp_path / "c.json"), 12_000), (("voc", tmp_path), 4_000):
        peaks = list[int]()
        for _ in range(2):  # the table of the interpreter's shared texts, such as names of paths, may grow in the first
            tracemalloc.start()
            count, last = 0, None
            for _, last in items(DataConfig(source=config[0], path=config[1])):
                count += isinstance(last, ValueError)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert count == bad and isinstance(last, Sample if config[0] == "coco" else ValueError)
        assert min(peaks) < 3 << 20, (config, peaks)


def test_the_turns_of_a_conversation_are_held_once(tmp_path: Path) -> None:
    Image.new("RGB", (56, 56)).save(tmp_path / "ok.png")
    turns = [{"from": who, "value": "a"} for _ in range(400) for who in ("human", "gpt")]
    turns[0] = {"from": "human", "value": "<image>a"}
    (tmp_path / "d.jsonl").write_text(json.dumps({"id": "0", "image": "ok.png", "conversations": turns}))
    tracemalloc.start()
    found = read_examples(ExampleConfig(source="llava", path=tmp_path / "d.jsonl"))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(found) == 400 and [len(one.before) for one in found] == list(range(0, 800, 2))
    assert held < 600_000, "1.7 MB when each holds all turns before it"


def test_a_history_is_equal_to_its_turns() -> None:
    turns = [Turn(role, str(i)) for i, role in enumerate(["user", "assistant"] * 3)]
    for stop in range(7):
        history, same = History(turns, stop), tuple(turns[:stop])
        assert (
            history == same and same == history and hash(history) == hash(same) and history == History([*turns], stop)
        )
        assert [*history] == [*same] and history[1:3] == same[1:3] and history[-2:] == same[-2:]
        assert stop == 0 or (history[-1] == same[-1] and history[0] == turns[0])
        assert history != History(turns, stop + 1 if stop < 6 else 0) and not (stop and history == same[1:])
        with pytest.raises(IndexError):
            history[stop]


def test_the_labels_beside_a_file_that_describes_them_count_as_its_size(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(kept, "MOST", 1 << 17)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for i in range(300):
        Image.new("RGB", (56, 56)).save(tmp_path / f"images/{i}.png")
        (tmp_path / f"labels/{i}.txt").write_text("0 .5 .5 .1 .1\n")
    (tmp_path / "elsewhere").mkdir()
    for place, root in ((tmp_path, "."), (tmp_path / "elsewhere", ".."), (tmp_path / "elsewhere", str(tmp_path))):
        (place / "data.yaml").write_text(f"path: {root}\ntrain: images\nnames: [a]\n")
        config = DataConfig(source="yolo", path=place / "data.yaml", data_root=tmp_path)
        assert len(open_source(config)) == 300


def test_a_value_is_counted_however_deep_it_is() -> None:
    deep: Any = []
    for _ in range(5_000):
        deep = [deep]
    ((_, found),) = kept.Kept().of([("r", {"a": deep})], lambda: 0)
    assert isinstance(found, dict)


def test_of_rows_that_are_skipped_the_first_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    turns = [{"from": "human", "value": "<image>a"}, {"from": "gpt", "value": "b"}]
    Image.new("RGB", (56, 56)).save(tmp_path / "ok.png")
    row = json.dumps({"id": "0", "image": "ok.png", "conversations": turns})
    (tmp_path / "d.jsonl").write_text(row + "\n1" * 20_000)
    tracemalloc.start()
    read_examples(ExampleConfig(source="llava", path=tmp_path / "d.jsonl", on_bad="skip"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "20000 skipped, the first: d.jsonl:2" in caplog.text and peak < 2 << 20


def test_short_rows_of_parquet_are_read_however_small_their_file_is(tmp_path: Path) -> None:
    rows = 250_000
    table = {"image": [f"{i % 50}.png" for i in range(rows)], "question": ["How many?"] * rows, "answer": ["1"] * rows}
    pq.write_table(pa.table(table), tmp_path / "t.parquet", compression="zstd")
    assert (tmp_path / "t.parquet").stat().st_size < rows
    found = table_rows(Reading(tmp_path / "t.parquet", tmp_path))
    assert sum(isinstance(row, dict) for _, row in found) == rows

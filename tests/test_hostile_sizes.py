"""Files and rows that are small on disk and large to work on: holes, and more gold boxes than can be compared."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from saccade.config import yaml_values
from saccade.data import (
    DataConfig,
    annotations,
    files,
    held_images,
    json_stream,
    preflight,
    unpacked,
)
from saccade.data.files import count_rows, table_rows
from saccade.data.json_stream import elements
from saccade.data.order import EpochOrder
from saccade.data.records import Reading
from saccade.data.sources import items
from saccade.data.usable import MOST_ANSWERS
from saccade.grading.detection import f1, match
from saccade.models.adapter import Adapter
from saccade.parsing import LabelledBox
from saccade.runs.files import rows_of
from saccade.runs.shapes import MOST_METRICS, fitted_metrics
from saccade.runs.streams import end_of_step
from saccade.training.config import ExampleConfig, RLRecipe
from saccade.training.examples import example_items
from saccade.training.screening import room_in
from saccade.types import Sample

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


def test_rows_that_name_all_columns_do_not_fill_the_disk(tmp_path: Path) -> None:
    """A file of some kilobytes, whose reasons would take hundreds of megabytes."""
    names = ",".join(f"column_{i}" for i in range(4_000))
    (tmp_path / "t.csv").write_text(names + "\nx" * 300)
    found = [str(item) for _, item in items(DataConfig(source="table", path=tmp_path / "t.csv"))]
    assert len(found) == 300 and "got 1 cells, expected 4000 (column_0, column_1," in found[0]
    rows = [{f"c{i}": 1 for i in range(4_000)}, {"question": "?", "answer": "1", "task": "x" * 9_000}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"y" * 5_000: 1}])))
    for source in ("table", "trl", "vlm_r1", "easy_r1"):
        found += [str(item) for _, item in items(DataConfig(source=source, path=tmp_path / "t.jsonl"))]
    assert max(map(len, found)) < 2_100


def coco(folder: Path, images: list[Any], annotations: list[Any], labels: int, task: str, **more: Any) -> list[Any]:
    Image.new("RGB", (56, 56)).save(folder / "ok.png")
    content = {
        "images": [{"file_name": "ok.png", **one} for one in images],
        "annotations": [{"bbox": [1, 1, 5, 5], **one} for one in annotations],
        "categories": [{"id": i, "name": f"c{i}"} for i in range(labels)],
        **more,
    }
    (folder / "c.json").write_text(json.dumps(content))
    return [item for _, item in items(DataConfig(source="coco", path=folder / "c.json", task=task))]


def test_annotations_of_unknown_categories_take_linear_time(tmp_path: Path) -> None:
    of_one = [{"image_id": 1, "category_id": one} for one in (0, 99)]
    start = time.process_time()
    found = coco(tmp_path, [{"id": 1}, {"id": 2}], of_one * 8_000, 1, "detect")
    assert sum("category_id 99 is not a category" in str(one) for one in found) == 8_000
    assert time.process_time() - start < 3, "6 seconds and more where it is quadratic"


@pytest.mark.parametrize("task", ["more_than", "detect"])
def test_many_images_and_many_labels_take_no_product_of_both(tmp_path: Path, task: str) -> None:
    images = [{"id": i} for i in range(2_000)]
    boxes = [{"image_id": i, "category_id": 0} for i in range(1_000)]
    tracemalloc.start()
    found = coco(tmp_path, images, boxes, 2_000, task)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 2_000 and not any(isinstance(one, ValueError) for one in found)
    assert peak < 40 << 20, "150 MB where each image has a number for each label"


@pytest.mark.parametrize("task", ["more_than", "detect", "count", "refer"])
@pytest.mark.parametrize("odd", [[[1]], [{}], {"a": 1}, 5])
def test_a_list_of_categories_that_is_none_costs_its_image(tmp_path: Path, task: str, odd: Any) -> None:
    boxes = [{"image_id": i, "category_id": 0} for i in (1, 3, 4)]
    for name in ("neg_category_ids", "not_exhaustive_category_ids"):
        found = coco(tmp_path, [{"id": 1, name: odd}, *({"id": i} for i in (2, 3, 4))], boxes, 1, task)
        assert f"field '{name}': got {odd}, expected a list of category ids" in str(found[0])
        assert {one.id.split("/")[0] for one in found if isinstance(one, Sample)} >= {"3", "4"}


def test_the_settings_of_a_data_set_are_as_large_as_settings_are(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (56, 56)).save(tmp_path / "images/ok.png")
    levels = [f"a{i}: &a{i} [{','.join([f'*a{i - 1}' if i else 'x'] * 10)}]" for i in range(12)]
    usual = {"names": "[a]", "train": "images", "path": ".", "kpt_shape": "[2, 3]"}
    for key in usual:
        lines = (f"{one}: {value}" for one, value in (usual | {key: "*a11"}).items())
        (tmp_path / "data.yaml").write_text("\n".join([*levels, *lines]))
        with pytest.raises(ValueError, match=rf"data\.yaml: .*'{key}'.* is \[\[\[.*expected"):
            list(items(DataConfig(source="yolo", path=tmp_path)))
    monkeypatch.setattr(yaml_values, "MOST_NODES", 1_000)
    (tmp_path / "data.yaml").write_text(f"names: [{'a,' * 1_100}]\ntrain: images")
    with pytest.raises(ValueError, match=r"data\.yaml: not YAML \(more than 1,000 keys and values"):
        list(items(DataConfig(source="yolo", path=tmp_path)))
    (tmp_path / "data.yaml").write_text(f"#{'a' * (1 << 20)}\n")
    with pytest.raises(ValueError, match=r"data\.yaml: has 1,048,578 bytes, expected 1,048,576 at most"):
        list(items(DataConfig(source="yolo", path=tmp_path)))


@pytest.mark.parametrize("crowd", ['{"":[]},', "[],", "0,", '"a",'])
@pytest.mark.parametrize("form", ["jsonl", "list", "object", "parquet"])
def test_a_row_has_as_many_elements_as_a_row_has_and_as_long_texts(
    tmp_path: Path, monkeypatch: Any, crowd: str, form: str
) -> None:
    """Values take up to 30 times the bytes of their JSON."""
    monkeypatch.setattr(json_stream, "MOST_ELEMENTS", 500)
    monkeypatch.setattr(json_stream, "WINDOW", 600)
    rows = [ROW | {"id": i, "image": [], "answer": "1", "task": "count", "meta": {"n": i}} for i in "abc"]
    rows[0]["meta"] = {"text": "word, " * 490}
    crowded = f'{{"n": [{crowd * 600}0]}}'
    cells = [{**row, "image": None, "answer": '"1"', "meta": json.dumps(row["meta"])} for row in rows]
    cells[1]["meta"] = crowded
    texts_of = [json.dumps(row).replace('{"n": "b"}', crowded) for row in rows]
    whole = {"jsonl": "\n".join(texts_of), "list": "[" + ",\n".join(texts_of) + "]"}
    whole["object"] = f'{{"data": {whole["list"]}}}'
    path = tmp_path / f"d.{form if form in ('jsonl', 'parquet') else 'json'}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(cells), path)
    else:
        path.write_text(whole[form])
    found = [item for _, item in items(DataConfig(source="saccade", path=path))]
    assert [isinstance(item, Sample) for item in found] == [True, False, True]
    assert "more than 500 brackets and commas in one row" in str(found[1])


def test_a_line_of_csv_has_as_many_cells_as_a_line_has(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(files, "MOST_ELEMENTS", 500)
    path, row = tmp_path / "t.csv", '"How many,\nat all?",3'
    path.write_text(f"question,answer\n{row}\n{'ab,' * 600}\n{row}\n" + 'a,"\n",' * 600 + f"\n{row}\n")
    rows = list(files.table_rows(Reading(path, tmp_path)))
    assert [place for place, one in rows if isinstance(one, dict)][:2] == ["t.csv:3", "t.csv:6"]
    crowded = [place for place, one in rows if "in one row" in str(one)]
    assert crowded[0] == "t.csv:4" and len(crowded) == 2, "also in a row of many lines"
    assert sum(isinstance(one, dict) for _, one in rows) >= 3 and rows[-1][0].endswith(":609")
    path.write_text("ab," * 600 + "\n1,2\n")
    with pytest.raises(ValueError, match=r"t\.csv: the first line is not CSV \(more than"):
        list(files.table_rows(Reading(path, tmp_path)))


def test_the_labels_of_an_image_are_as_large_as_labels_are(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(annotations, "MOST_BOXES", 9)
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    contents = ["<a/>", "<a/>" * (1 << 20), "<object><name>cup</name>" + box + "</object>"]
    for folder in ("Annotations", "images", "labels", "1"):
        (tmp_path / folder).mkdir()
    for i, content in enumerate([*contents, contents[2] * 10]):
        Image.new("RGB", (56, 56)).save(tmp_path / "images" / f"{i}.png")
        head = f"<filename>{i}.png</filename>"
        (tmp_path / "Annotations" / f"{i}.xml").write_text(f"<annotation>{head}{content}</annotation>")
    for i, content in enumerate(["", "0 " + ".5 " * (3 << 19), "0 .5 .5 .2 .2\n", "0 .5 .5 .2 .2\n" * 10]):
        (tmp_path / "labels" / f"{i}.txt").write_text(content)
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cup, pen]")
    for source, keys in {"voc": {"image_folder": tmp_path / "images"}, "yolo": {}}.items():
        found = [item for _, item in items(DataConfig.model_validate({"source": source, "path": tmp_path, **keys}))]
        faults = sorted(str(item) for item in found if isinstance(item, ValueError))
        assert len(faults) == 2 and "bytes, expected 4,194,304 at most" in faults[0] and "than 9 boxes" in faults[1]
        assert any(isinstance(item, Sample) for item in found)
    (tmp_path / "1" / "data.json").write_text(f'{{"a": [{"[]," * (1 << 19)}0]}}')
    (refused,) = (item for _, item in items(DataConfig(source="geometry3k", path=tmp_path)))
    assert "bytes, expected 1,048,576 at most" in str(refused)


def test_rows_that_wait_for_their_pictures_have_a_size_together(monkeypatch: Any) -> None:
    monkeypatch.setattr(preflight, "MOST_HELD", 50_000)
    read = list[int]()

    def entries(meta: Any) -> Any:
        for i in range(100):
            read.append(i)
            yield preflight.PreflightEntry("a:1", Sample(f"{i}", (), "?", "1", "count", meta))

    for meta, most in (({"k": [[]] * 100}, 5), ({"k": "x" * 20_000}, 3), ({}, preflight.PREFETCH + 1)):
        read.clear()
        waiting = [len(read) - i for i, _ in enumerate(preflight.prefetch_fingerprints(entries(meta), cast(Any, None)))]
        assert len(waiting) == 100 and max(waiting) == most


@pytest.mark.parametrize("read", [items, example_items])
def test_the_error_of_a_row_does_not_hold_its_image(tmp_path: Path, read: Callable[..., Any]) -> None:
    """Errors of many rows wait in a list: 36 of 14 MB took half a gigabyte."""
    image = {"bytes": b"\x89PNG" + b"\0" * 100_000, "path": None}
    table = pa.table({"image": pa.array([image] * 4), "question": ["How many?"] * 4, "answer": ["3"] * 4})
    pq.write_table(table, tmp_path / "d.parquet")
    config = {items: DataConfig, example_items: ExampleConfig}[read]
    more = {"reply": "gold"} if config is ExampleConfig else {}
    errors = [found for _, found in read(config(source="table", path=tmp_path / "d.parquet", task="count", **more))]
    assert len(errors) == 4 and all(isinstance(one, ValueError) for one in errors)
    assert not any(one.__traceback__ or one.__context__ or one.__cause__ for one in errors)


@pytest.mark.parametrize("task", ["count", "refer", "detect"])
def test_a_long_name_of_a_label_is_not_repeated_in_all_samples(tmp_path: Path, task: str) -> None:
    label = {"categories": [{"id": 0, "name": "x" * 20_000}, {"id": 1, "name": "y"}]}
    boxes = [{"image_id": i, "category_id": i % 2} for i in range(500)]
    tracemalloc.start()
    found = coco(tmp_path, [{"id": i} for i in range(500)], boxes, 0, task, **label)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "expected a name of 1 to 300 characters" in str(found[0]) and isinstance(found[-1], Sample)
    assert peak < 10 << 20


def test_a_long_id_is_not_repeated_in_all_samples_of_a_row(tmp_path: Path) -> None:
    Image.new("RGB", (56, 56)).save(tmp_path / "ok.png")
    rows = [("x" * 20_000, 900, "has 20,002 characters, expected 300 at most"), ("x", 9_000, "got 9,000 expressions")]
    for name, count, why in rows:
        row = {"question_id": name, "image": "ok.png", "answer": ["a"] * count, "bbox": [20, 20, 9, 9]}
        (tmp_path / "r.jsonl").write_text(json.dumps(row))
        tracemalloc.start()
        (found,) = (one for _, one in items(DataConfig(source="refcoco", path=tmp_path / "r.jsonl")))
        assert tracemalloc.get_traced_memory()[1] < 5 << 20
        tracemalloc.stop()
        assert isinstance(found, ValueError) and why in str(found)


def test_a_text_longer_than_any_context_is_refused(tmp_path: Path) -> None:
    for letter, size in (("x", 4_190_000), ("\x01", 690_000), ("\u4e2d", 690_000)):
        rows = [{"prompt": letter * count, "answer": "1"} for count in (size, size + 10_000)]
        (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
        whole, long = (one for _, one in items(DataConfig(source="trl", path=tmp_path / "r.jsonl")))
        assert isinstance(whole, Sample) and "more than 4 million characters of text" in str(long)


def named(folder: Path, source: str, names: list[str]) -> tuple[DataConfig, list[str]]:
    """A data set of two images whose list has these names; the label files that are read of it."""
    for one in ("images", "labels", "Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / one).mkdir(parents=True)
    box = "<object><name>a</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>"
    for name in ("a", "b"):
        for place in ("images", "JPEGImages"):
            Image.new("RGB", (56, 56)).save(folder / f"{place}/{name}.png")
        (folder / f"labels/{name}.txt").write_text("0 .5 .5 .1 .1\n")
        xml = f"<annotation><filename>{name}.png</filename>{box}</annotation>"
        (folder / f"Annotations/{name}.xml").write_text(xml)
    (folder / "data.yaml").write_text("train: train.txt\nnames: [a, c]\n")
    lines = [("Annotations/" if source == "voc" else "images/") + one for one in names]
    (folder / "train.txt").write_text("".join(f"{one}.png\n" for one in lines))
    (folder / "ImageSets/Main/train.txt").write_text(
        "".join(f"../{one}\n" if ".." in one else f"{one[12:]}\n" for one in lines)
    )
    return DataConfig(source=source, path=folder, task="detect")


@pytest.mark.parametrize("source", ["voc", "yolo"])
def test_a_file_that_a_list_names_again_is_one_row_and_read_so_many_bytes(
    tmp_path: Path, monkeypatch: Any, source: str
) -> None:
    config = named(tmp_path, source, ["a"] * 50 + ["b", "./a"])
    read = list[str]()
    for reader in ("text_in", "lines_in"):
        whole = getattr(annotations, reader)
        monkeypatch.setattr(annotations, reader, lambda file, *most, r=whole: read.append(file.name) or r(file, *most))
    found = [item for _, item in items(config)]
    assert all(isinstance(item, Sample) for item in found) and len(found) == 2
    assert sorted(name for name in read if name[:2] in ("a.", "b.")) == (
        ["a.txt", "b.txt"] if source == "yolo" else ["a.xml", "b.xml"]
    )


@pytest.mark.parametrize("source", ["voc", "yolo"])
def test_files_that_are_links_to_one_are_rows_of_their_own(tmp_path: Path, monkeypatch: Any, source: str) -> None:
    """As stores by content have them."""
    config = named(tmp_path, source, [*"ab", *(f"c{i}" for i in range(20))])
    for i in range(20):
        (tmp_path / f"Annotations/c{i}.xml").symlink_to("a.xml")
        (tmp_path / f"images/c{i}.png").symlink_to("a.png")
        (tmp_path / f"labels/c{i}.txt").symlink_to("b.txt") if i else None
    (tmp_path / "labels/c0.txt").write_text("1 .5 .5 .2 .2\n")
    found = [item for _, item in items(config)]
    assert len(found) == 22 and all(isinstance(item, Sample) for item in found)
    if source == "yolo":
        assert [item.answer[0]["label"] for item in found if isinstance(item, Sample)] == ["a", "a", "c"] + ["a"] * 19
    monkeypatch.setattr(
        annotations,
        "MOST_AGAIN",
        5 * (tmp_path / ("Annotations/a.xml" if source == "voc" else "labels/b.txt")).stat().st_size,
    )
    found = [item for _, item in items(config)]
    assert sum(isinstance(item, Sample) for item in found) == (7 if source == "voc" else 8)
    assert "named again" in str(next(item for item in found if isinstance(item, ValueError)))


def test_a_data_file_that_a_set_names_twice_is_read_once(tmp_path: Path) -> None:
    row = {"id": "a", "image": None, "question": "?", "answer": "1", "task": "count"}
    with pa.ipc.new_stream(tmp_path / "d.arrow", (table := pa.Table.from_pylist([row])).schema) as out:
        out.write_table(table)
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "d.arrow"}] * 1_000}))
    found = []
    with pytest.raises(ValueError, match=r"state\.json: names the data file 'd\.arrow' twice, expected each once"):
        found += (row for _, row in table_rows(Reading(tmp_path, tmp_path)))
    assert len(found) <= 1


def test_rows_that_are_skipped_at_their_turn_take_linear_time() -> None:
    def seconds(rows: int) -> float:
        order, start = EpochOrder(rows, lambda epoch: list(range(rows))), time.process_time()
        for _ in range(rows - 1):
            order.skip(0)
        return time.process_time() - start

    assert min(seconds(32_000) for _ in range(3)) < 16 * min(seconds(4_000) for _ in range(3)), "64 where quadratic"


def ext(kind: Any, values: pa.Array) -> Any:
    return pa.ExtensionArray.from_storage(kind, values)


def test_types_that_are_defined_beside_parquet_count_as_what_they_store(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(unpacked, "MOST_UNPACKED", 8 << 20)
    text = pa.array(["[" + "[]," * 5_000 + "0]"] * 400)
    held: dict[str, Any] = {
        "plain": text,
        "JSON": ext(pa.json_(), text),
        "JSON of views": ext(pa.json_(pa.string_view()), text.cast(pa.string_view())),
        "in lists": pa.ListArray.from_arrays(range(401), ext(pa.json_(), text)),
        "in lists of a fixed size": pa.FixedSizeListArray.from_arrays(ext(pa.json_(), text), 1),
        "in structures": pa.StructArray.from_arrays([ext(pa.json_(), text)], ["a"]),
        "in maps": pa.MapArray.from_arrays(range(401), pa.array(["k"] * 400), ext(pa.json_(), text)),
    }
    counts = {}
    for name, column in held.items():
        pq.write_table(pa.table({"meta": column}), path := tmp_path / "t.parquet", compression="zstd")
        *found, error = (row for _, row in table_rows(Reading(path, tmp_path)))
        assert "unpack from" in str(error), name
        counts[name] = len(found)
    assert max(counts.values()) - min(counts.values()) <= 128 < 300, counts


def test_a_run_has_as_many_metrics_as_a_run_has() -> None:
    rows = [{"step": i, **{f"m{i}_{k}": 1.0 for k in range(100)}, "reward": 0.5} for i in range(100)]
    names, found = set[str](), []
    for row in rows:
        found += fitted_metrics([row], names)
    assert found == list(fitted_metrics(rows)) and len(found) == 100 and [row["step"] for row in found] == [*range(100)]
    assert len({name for row in found for name in row} - {"step"}) <= MOST_METRICS == 2_000
    assert all(row["reward"] == 0.5 for row in found)


def test_a_teacher_s_images_have_room_for_what_is_sent_of_them(tmp_path: Path) -> None:
    noise = Image.effect_noise((90, 90), 80)
    for name in ("a.png", "b.tif", "c.bmp", "d.jpg", "e.png"):
        (noise if name != "b.tif" else noise.convert("1")).save(tmp_path / name)
    with (tmp_path / "e.png").open("ab") as file:
        file.truncate(2 << 20)
    for name in ("a.png", "b.tif", "c.bmp", "d.jpg", "e.png"):
        content = (tmp_path / name).read_bytes()
        assert len(held_images.sendable(content)) <= held_images.most_sendable(tmp_path / name), name
    assert held_images.most_sendable(tmp_path / "none.png") == held_images.most_sendable(tmp_path) == 0
    os.mkfifo(tmp_path / "pipe.png")
    assert held_images.most_sendable(tmp_path / "pipe.png") == 0
    small = [
        held_images.most_sendable(tmp_path / name) - (tmp_path / name).stat().st_size for name in ("a.png", "d.jpg")
    ]
    assert small == [0, 0]

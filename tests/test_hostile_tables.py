"""Tables that other programs wrote badly: what can be read of them is read, the rest costs its rows."""

from __future__ import annotations

import json
import os
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import types

from saccade.data import DataConfig, arrow_rows, images, open_source, parquet, saved_sets, unpacked
from saccade.data.files import count_rows, table_rows
from saccade.data.images import image_size
from saccade.data.records import Reading
from saccade.data.sources import items
from saccade.types import Sample

HEAD = b"image,question,answer\n"
ROWS = b"a.png,one?,1\na.png,two?,2\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.png")
    return tmp_path


def read(path: Path, **keys: Any) -> tuple[list[Sample], int, str]:
    """The samples, the rows that were skipped, and the first of those."""
    source = open_source(DataConfig(source="table", path=path, on_bad="skip", **keys))
    return list(source), source.skipped, source.first_skipped


STRAY = {
    "a quote in a cell": (b'a.png,"ha"ha,9\n', "t.csv:2: not CSV: ',' expected after"),
    "a quote that never closes": (b'a.png,"ha,9\n', "t.csv:2: not CSV: unexpected end of data"),
    "too few cells": (b"a.png,ha\n", "t.csv:2: got 2 cells, expected 3"),
    "too many cells": (b"a.png,ha,9,9\n", "t.csv:2: got 4 cells, expected 3"),
    "a byte of another encoding": (b"a.png,h\xe9,9\n", "t.csv:2: not UTF-8 text"),
}


@pytest.mark.parametrize("name", STRAY)
def test_a_csv_goes_on_behind_a_row_that_is_none(folder: Path, name: str) -> None:
    line, said = STRAY[name]
    (folder / "t.csv").write_bytes(HEAD + line + ROWS)
    samples, skipped, first = read(folder / "t.csv")
    assert [sample.question for sample in samples] == ["one?", "two?"]
    assert skipped == 1 and first.startswith(said)
    with pytest.raises(ValueError, match=r"^t\.csv:2: "):
        open_source(DataConfig(source="table", path=folder / "t.csv"))


def test_quotes_that_never_close_are_given_up_after_some(folder: Path) -> None:
    (folder / "t.csv").write_bytes(HEAD + ROWS + b'a.png,"x""y\n' * 41)
    samples, skipped, _ = read(folder / "t.csv")
    assert len(samples) == 2 and 11 <= skipped < 42


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl"])
def test_a_line_of_a_gigabyte_of_nothing_costs_itself_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("saccade.data.files.LARGEST_CELL", 1 << 16)
    monkeypatch.setattr("saccade.data.records.LARGEST_ROW", 1 << 16)
    row = b'{"image": "a.png", "question": "one?", "answer": "1"}\n' if name == "t.jsonl" else HEAD + ROWS
    with (folder / name).open("wb") as file:
        file.write(row if name != "t.tsv" else row.replace(b",", b"\t"))
        os.truncate(file.fileno(), 1 << 22)  # stands for a gigabyte: it takes no space on the disk
        file.seek(0, os.SEEK_END)
        file.write(b"\n")
    samples, skipped, first = read(folder / name)
    assert samples and skipped == 1 and len(first) < 200
    assert count_rows(folder / name) == (2 if name == "t.jsonl" else None)


def test_text_in_a_column_of_bytes_is_text(folder: Path) -> None:
    table = {"image": ["a.png"] * 3, "question": [b"one?", b"two\xff?", b"three?"], "answer": [b"1", b"2", b"3"]}
    pq.write_table(pa.table(table), folder / "t.parquet")
    samples, skipped, first = read(folder / "t.parquet")
    assert [(sample.question, sample.answer) for sample in samples] == [("one?", "1"), ("three?", "3")]
    assert skipped == 1 and first.startswith("t.parquet:2: not UTF-8 text")


def same(text: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))


REPEATED = {
    "a dictionary": lambda: {"question": same("a" * 100_000, 3000)},
    "runs": lambda: {"question": pa.RunEndEncodedArray.from_arrays([3000], ["a" * 100_000])},
    "nothing": lambda: {"question": pa.nulls(1_000_000)},
    "JSON of many values": lambda: {"question": same("[" + '{"":0},' * 5_000 + "0]", 30)},
    "a dictionary in lists": lambda: {"question": pa.ListArray.from_arrays([0, 3000], same("a" * 100_000, 3000))},
    "compressed": lambda: {"question": pa.array(["a" * 100_000_000], pa.large_string())},
}


@pytest.mark.parametrize("name", REPEATED)
@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_a_file_that_repeats_its_bytes_is_read_as_far_as_memory_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    monkeypatch.setattr(unpacked, "MOST_UNPACKED", 8 << 20)
    if kind == "parquet" and name in ("runs", "compressed"):
        return  # not a type of Parquet; its compression is tested with bombs
    table = pa.table(REPEATED[name]())
    if kind == "parquet":
        pq.write_table(table, path := tmp_path / "t.parquet", compression="zstd")
    else:
        (path := tmp_path / "set").mkdir()
        options = pa.ipc.IpcWriteOptions(compression="zstd" if name == "compressed" else None)
        with (
            pa.OSFile(str(path / "d.arrow"), "wb") as file,
            pa.ipc.new_stream(file, table.schema, options=options) as out,
        ):
            out.write_table(table)
        (path / "state.json").write_text('{"_data_files": [{"filename": "d.arrow"}]}')
    found = [row for _, row in table_rows(Reading(path, tmp_path))]
    assert sum(len(row["question"] or "") + 256 for row in found if isinstance(row, dict)) < 100 << 20
    assert any(word in str(found[-1]) for word in ("unpack from", "save it", "than data needs")), found[-1]


@pytest.mark.parametrize("form", ["text", "bytes", "structures in lists"])
@pytest.mark.parametrize(
    ("letter", "width"), [("q", 1), ("\u00e9", 1), ("\u4e2d", 2), ("\U0001f600", 4), ("\\ud83d", 4), ("\\u4e2d", 2)]
)
def test_a_text_counts_as_what_python_takes_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, letter: str, width: int
) -> None:
    """One wide letter makes all letters of its text as wide."""
    monkeypatch.setattr(unpacked, "MOST_UNPACKED", 16 << 20)
    text = "q" * 5000 + letter
    values: dict[str, Any] = {"text": text, "bytes": text.encode(), "structures in lists": [{"value": text}]}
    pq.write_table(pa.table({"question": [values[form]] * 8_000}), tmp_path / "t.parquet", compression="zstd")
    *found, error = (row for _, row in table_rows(Reading(tmp_path / "t.parquet", tmp_path)))
    assert "unpack from" in str(error)
    taken = 2 * width * len(text) * len(found)
    assert taken < 17 << 20 < (10 if form == "bytes" else 2) * taken


def test_shards_take_together_what_one_file_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacked, "MOST_UNPACKED", 4 << 20)
    for shard in range(9):
        pq.write_table(pa.table({"question": ["q" * 9_000] * 100}), tmp_path / f"t-{shard}.parquet", compression="zstd")
    for reading in (Reading(tmp_path / "t-*.parquet", tmp_path), Reading(tmp_path / "t-3.parquet", tmp_path)):
        found = [row for _, row in table_rows(reading)]
        kept = sum(isinstance(row, dict) for row in found)
        assert kept == 100 if reading.path.name == "t-3.parquet" else 100 < kept < 300


NESTED = {
    "empty lists": ([[]] * 900, pa.list_(pa.list_(pa.int8()))),
    "numbers": ([0.5] * 900, pa.list_(pa.float64())),
    "short texts": (["ab"] * 900, pa.list_(pa.string())),
    "structures": ([{"a": 1, "b": None}] * 300, pa.list_(pa.struct({"a": pa.int64(), "b": pa.bool_()}))),
    "entries": ([("k", 1000)] * 300, pa.map_(pa.string(), pa.int64())),
    "lists of a fixed size": ([[1e3] * 4] * 300, pa.list_(pa.list_(pa.float32(), 4))),
    "deep": ([[[["", ""]]]] * 200, pa.list_(pa.list_(pa.list_(pa.list_(pa.string()))))),
}


@pytest.mark.parametrize("name", NESTED)
def test_values_within_lists_count_as_the_objects_that_they_become(name: str) -> None:
    value, kind = NESTED[name]
    table = pa.table({"level": pa.array([value] * 100, kind)})
    table.slice(0, 1).to_pylist()
    tracemalloc.start()
    rows = table.to_pylist()
    made = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(rows) == 100 and made <= unpacked.taken(table) <= 3 * made + 100 * 1024
    assert unpacked.taken(table.slice(7, 1)) * 100 == pytest.approx(unpacked.taken(table), rel=0.1)


def test_rows_of_maps_are_counted_one_by_one() -> None:
    table = pa.table({"m": pa.array([[(i, i)] * 9 for i in range(50)], pa.map_(pa.int64(), pa.int64()))})
    assert [unpacked.elements(table.slice(i, 1)) for i in (0, 20, 49)] == [9, 9, 9]


def test_values_in_dictionaries_views_and_runs_are_read_as_such(tmp_path: Path) -> None:
    texts = pa.array(["a", "b", "b"])
    runs = pa.RunEndEncodedArray.from_arrays([1, 3], ["a", "b"])
    kinds = [texts, texts.dictionary_encode(), texts.cast(pa.string_view()), runs]
    table = pa.table({f"c{place}": one for place, one in enumerate(kinds)})
    assert list(arrow_rows.rows_of(table)) == [{f"c{i}": text for i in range(4)} for text in ("a", "b", "b")]


@pytest.mark.parametrize("kinds", [(pa.string(), pa.string_view()), (pa.binary(), pa.binary_view())])
def test_views_within_other_values_of_parquet_are_read_as_polars_writes_them(tmp_path: Path, kinds: Any) -> None:
    found = []
    for kind in kinds:
        both = pa.struct({"a": kind, "b": pa.large_list(kind)})
        texts = pa.array([["a", "b"], None, []], pa.list_(kinds[0])).cast(pa.list_(kind))
        pairs = pa.array([{"a": "c", "b": ["d"]}, None, {}], both)
        pq.write_table(pa.table({"c": texts, "d": pairs}), tmp_path / "views.parquet")
        found.append([row for _, row in parquet.parquet_rows(tmp_path / "views.parquet")])
    assert found[0] == found[1] and len(found[0]) == 3 and found[0][0]["d"]["b"][0] in ("d", b"d")


def test_offsets_that_lie_in_an_arrow_file_are_a_line_and_do_not_crash(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "d.arrow"}]}')
    for kind in (pa.string(), pa.list_(pa.string()), pa.struct([("a", pa.large_string())])):
        size = 8 if types.is_struct(kind) else 4
        for offsets, good in (([0, 1, 2], True), ([0, 9 << 20, 2], False), ([2, 1, 2], False)):
            buffers = [
                None,
                pa.py_buffer(b"".join(o.to_bytes(size, "little") for o in offsets)),
                pa.py_buffer(b"\xffb"),
            ]
            texts = pa.Array.from_buffers(pa.large_string() if size == 8 else pa.string(), 2, buffers)
            wide = pa.ListArray.from_arrays([0, 1, 2], texts) if types.is_list(kind) else texts
            column = pa.StructArray.from_arrays([texts], ["a"]) if types.is_struct(kind) else wide
            with pa.ipc.new_stream(tmp_path / "d.arrow", pa.schema([("c", kind)])) as out:
                out.write_batch(pa.record_batch([column], ["c"]))
            rows = [row for _, row in saved_sets.saved_rows(tmp_path, "train")]
            assert [isinstance(row, ValueError) for row in rows] == ([True, False] if good else [True]), (kind, offsets)


def test_encrypted_columns_are_refused_before_the_library_aborts(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["a"]}), tmp_path / "t.parquet")
    signed = (tmp_path / "t.parquet").read_bytes()
    length = int.from_bytes(signed[-8:-4], "little") + 28  # a nonce and a tag follow the plain footer
    (tmp_path / "t.parquet").write_bytes(signed[:-8] + b"\1" * 28 + length.to_bytes(4, "little") + b"PAR1")
    ((_, error),) = table_rows(Reading(tmp_path / "t.parquet", tmp_path))
    assert "encrypted" in str(error)


def test_columns_of_one_name_are_refused(folder: Path) -> None:
    found = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["question", "question", "answer"])
    pq.write_table(found, folder / "t.parquet")
    with pytest.raises(ValueError, match="question, question, answer; expected a different name for each"):
        open_source(DataConfig(source="table", path=folder / "t.parquet"))


def test_options_without_the_last_ones_keep_their_letters_and_with_a_gap_are_refused(folder: Path) -> None:
    names: list[str] = ["A", "B", "C", "D"]
    lines = ["a.png,?,B,red,blue,green,pink", "a.png,?,B,red,blue,,", "a.png,?,C,red,,green,"]
    (folder / "t.csv").write_text("\n".join(["image,question,answer,A,B,C,D", *lines]) + "\n")
    samples, skipped, first = read(folder / "t.csv", columns={"options": names})
    assert [(sample.answer, len(sample.meta["options"])) for sample in samples] == [("B", 4), ("B", 2)]
    assert skipped == 1 and "option B is empty, and a later one is not" in first


def test_the_size_of_a_png_needs_its_pixels_only_when_tags_may_follow_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the pixels were read")

    Image.new("RGB", (60, 40)).save(tmp_path / "plain.png")
    tags = Image.Exif()
    tags[0x0112] = 6
    content = (tmp_path / "plain.png").read_bytes()
    late = len(tags.tobytes()[6:]).to_bytes(4) + b"eXIf" + tags.tobytes()[6:]
    chunk = late + zlib.crc32(late[4:]).to_bytes(4)
    (tmp_path / "late.png").write_bytes(content[:-12] + chunk + content[-12:])
    assert image_size(str(tmp_path / "late.png")) == (40, 60)
    monkeypatch.setattr(images.Image.core, "zip_decoder", refuse, raising=True)
    assert image_size(str(tmp_path / "plain.png")) == (60, 40)
    Image.new("RGB", (20, 10)).resize((30, 10)).save(tmp_path / "other.bmp")
    (tmp_path / "plain.png").write_bytes((tmp_path / "other.bmp").read_bytes())
    assert image_size(str(tmp_path / "plain.png")) == (30, 10), "a file that changed is read again"


VOC = "<annotation><filename>a.png</filename><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax>"
VOC += "<ymax>9</ymax></bndbox></object></annotation>"
YAML = "train: images\nnames: [cat]\n"
SMALL_FILES = {
    "voc": {"Annotations/a.xml": VOC, "ImageSets/Main/train.txt": "a\n"},
    "yolo": {"data.yaml": YAML, "labels/a.txt": "0 .5 .5 .1 .1\n"},
    "yolo list": {"data.yaml": "train: l.txt\nnames: [cat]\n", "l.txt": "images/a.png\n"},
    "geometry3k": {"1/data.json": json.dumps({"compact_choices": ["1"], "answer": "A", "compact_text": "?"})},
    "table": {"dataset_dict.json": '{"splits": ["train"]}', "train/state.json": "{}"},
    "table 2": {"t.csv": (HEAD + ROWS).decode(), "roots.json": "{}"},
}
KINDS = {"a pipe": os.mkfifo, "a device": lambda path: path.symlink_to("/dev/zero"), "a folder": Path.mkdir}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SMALL_FILES)
def test_a_part_of_a_data_set_that_is_no_regular_file_is_never_waited_for(folder: Path, name: str, kind: str) -> None:
    for inner in ("images", "JPEGImages", "1"):
        (folder / inner).mkdir()
        (folder / inner / ("img_diagram.png" if inner == "1" else "a.png")).write_bytes((folder / "a.png").read_bytes())
    for one, text in SMALL_FILES[name].items():
        (folder / one).parent.mkdir(parents=True, exist_ok=True)
        (folder / one).write_text(text)
    for one in SMALL_FILES[name]:
        (folder / one).rename(folder / "kept")
        KINDS[kind](folder / one)
        path = folder / ("*.csv" if name == "table 2" else ".")
        try:
            source = open_source(DataConfig(source=name.split()[0], path=path, on_bad="skip"))
            assert all(isinstance(sample, Sample) for sample in source)
        except ValueError as error:
            assert str(folder) in str(error)
        (folder / one).rmdir() if (folder / one).is_dir() else (folder / one).unlink()
        (folder / "kept").rename(folder / one)


@pytest.mark.parametrize("said", ["path: /\ntrain: proc", "train: /etc/hostname", "train: out.txt"])
def test_a_data_set_names_no_file_or_folder_outside_of_it(folder: Path, said: str) -> None:
    (folder / "out.txt").symlink_to("/etc/hostname")
    (folder / "data.yaml").write_text(f"{said}\nnames: [cat]\n")
    with pytest.raises(ValueError, match=r"outside the folders of its data.*data_root: /"):
        open_source(DataConfig(source="yolo", path=folder, on_bad="skip"))


COCO = {
    "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]},
        {"id": 2, "image_id": 2, "category_id": 1, "bbox": [2, 2, 9, 9]},
    ],
    "categories": [{"id": 1, "name": "cat"}],
}


@pytest.mark.parametrize(
    ("key", "entry", "said", "left"),
    [
        ("images", {"id": 1, "file_name": "b.png"}, "image id 1 is that of an earlier image too", ["2"]),
        ("categories", {"id": 1, "name": "dog"}, "category 1 has the name 'dog'", ["1", "2"]),
        ("annotations", {"image_id": 1, "bbox": [1, 1, 9, 9]}, "field 'category_id' is missing", ["2"]),
    ],
    ids=["an image's id twice", "a category's id twice", "a box without a category"],
)
def test_coco_entries_that_leave_a_gold_in_doubt_cost_their_images(
    folder: Path, key: str, entry: dict[str, Any], said: str, left: list[str]
) -> None:
    Image.new("RGB", (60, 40)).save(folder / "b.png")
    (folder / "t.json").write_text(json.dumps({**COCO, key: [*COCO[key], entry]}))
    source = open_source(DataConfig(source="coco", path=folder / "t.json", on_bad="skip"))
    assert [sample.id for sample in source] == left
    assert source.skipped == 1 and said in source.first_skipped


ODD_NAMES = {
    "images/\0b.png": "expected a file name",
    f"images/{'x' * 300}.png": "File name too long",
    f"images/{'d/' * 3_000}x.png": "characters), expected a file name",
    "images/loop.png": "Too many levels of symbolic links",
    "images/gone.png": "there is no such image file",
    "/": "/: is outside the folders",
    "..": "is outside the folders",
    "images": "is no regular file",
}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_that_is_none_in_a_list_of_images_costs_itself(folder: Path, name: str) -> None:
    for inner in ("images", "labels"):
        (folder / inner).mkdir()
    (folder / "a.png").rename(folder / "images/a b.png")
    (folder / "labels/a b.txt").write_text("0 .5 .5 .1 .1\n")
    (folder / "images/loop.png").symlink_to("loop.png")
    (folder / "labels/loop.txt").symlink_to("loop.txt")
    (folder / "l.txt").write_text(f"images/a b.png\n\n{name}\n")
    (folder / "data.yaml").write_text("train: l.txt\nnames: [cat]\n")
    good, (place, error) = sorted(
        items(DataConfig(source="yolo", path=folder)), key=lambda one: isinstance(one[1], ValueError)
    )
    assert isinstance(good[1], Sample) and place == "l.txt:3" and ODD_NAMES[name] in str(error)


def test_a_label_file_that_cannot_be_read_is_no_image_without_objects(folder: Path) -> None:
    for inner in ("images", "labels"):
        (folder / inner).mkdir()
    for name in ("a", "b", "c", "loop"):
        (folder / f"images/{name}.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "labels/a.txt").write_text("0 .5 .5 .1 .1\n")
    (folder / "labels/b.txt").symlink_to("gone.txt")
    (folder / "labels/loop.txt").symlink_to("loop.txt")
    (folder / "data.yaml").write_text("train: images\nnames: [cat]\n")
    found = list(items(DataConfig(source="yolo", path=folder)))
    assert [place for place, item in found if isinstance(item, ValueError)] == ["labels/b.txt", "labels/loop.txt"]
    assert [item.id for _, item in found if isinstance(item, Sample)] == ["images/a.png", "images/c.png"]


def test_boxes_and_keypoints_of_a_fixed_size_are_read(tmp_path: Path) -> None:
    kinds = {"boxes": pa.list_(pa.list_(pa.float64(), 4)), "keypoints": pa.list_(pa.list_(pa.float32(), 51))}
    rows = [{"boxes": [[i / 7, 1.0, 2.0, 3.0]] * 3, "keypoints": [[float(i)] * 51] * 2} for i in range(2_000)]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(kinds)), tmp_path / "a.parquet")
    assert [row for _, row in parquet.parquet_rows(tmp_path / "a.parquet")] == rows


def test_a_type_from_beside_arrow_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """The library ends the process at a dictionary inside one."""
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 6, pa.int32()), pa.array(["x"]))
    table = pa.table({"a": pa.ExtensionArray.from_storage(pa.opaque(shared.type, "x", "y"), shared)})
    with pa.OSFile(str(tmp_path / "d.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "d.arrow"}]}))
    ((_, found),) = saved_sets.saved_rows(tmp_path, "train")
    assert isinstance(found, ValueError) and "column 'a' is of the type 'extension<arrow.opaque" in str(found)

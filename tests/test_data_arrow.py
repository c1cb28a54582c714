"""Values of Parquet and Arrow files are those that their writers meant; a time that Python does not have costs its
column in its row."""

from __future__ import annotations

import datetime as dt
import json
import time
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from saccade.data import DataConfig, open_source, unpacked
from saccade.data.arrow_rows import LARGEST_DESCRIPTION
from saccade.data.files import table_rows
from saccade.data.records import PartlyRead, Reading
from saccade.data.sources import items

NS = 1_700_000_000_123_456_789


def write(folder: Path, kind: str, table: pa.Table) -> Path:
    if kind == "parquet":
        pq.write_table(table, folder / "t.parquet")
        return folder / "t.parquet"
    with pa.OSFile(str(folder / "d.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "d.arrow"}]}')
    return folder


def rows(path: Path) -> list[Any]:
    return [row for _, row in table_rows(Reading(path, path.parent))]


UUID = uuid.UUID(int=7)
CATEGORIES = pa.DictionaryArray.from_arrays(pa.array([1, 0, None], pa.int32()), ["red", "blue"])
VALUES: dict[str, tuple[Any, Any]] = {
    "numbers of 32 bits": (pa.array([0.1, None], pa.float32()), [0.1, None]),
    "numbers of 32 bits in lists": (pa.array([[12.34, -1e-9], []], pa.list_(pa.float32())), [[12.34, -1e-9], []]),
    "infinite ones": (pa.array([float("inf"), -float("inf")], pa.float32()), [float("inf"), -float("inf")]),
    "numbers of 64 bits": (pa.array([0.1 + 0.2, 1e300]), [0.1 + 0.2, 1e300]),
    "texts beside numbers": (
        pa.array([[("3.30", 3.3)], None], pa.list_(pa.struct([("a", pa.string()), ("b", pa.float32())]))),
        [[{"a": "3.30", "b": 3.3}], None],
    ),
    "nanoseconds": (
        pa.array([NS, None], pa.timestamp("ns", "UTC")),
        [dt.datetime(2023, 11, 14, 22, 13, 20, 123456, dt.UTC), None],
    ),
    "durations in lists": (pa.array([[5001], []], pa.list_(pa.duration("ns"))), [[dt.timedelta(microseconds=5)], []]),
    "times": (pa.array([1001, 0], pa.time64("ns")), [dt.time(0, 0, 0, 1), dt.time()]),
    "decimals": (pa.array([Decimal("4.50"), None]), [Decimal("4.50"), None]),
    "decimals in lists": (
        pa.array([[Decimal("9.37"), Decimal("4.00")], None]),
        [[Decimal("9.37"), Decimal("4.00")], None],
    ),
    "maps": (
        pa.array([[("A", "red"), ("B", "blue")], None], pa.map_(pa.string(), pa.string())),
        [
            {"A": "red", "B": "blue"},
            None,
        ],
    ),
}
ONLY_PARQUET: dict[str, tuple[Any, Any]] = {
    "categories in lists": (pa.ListArray.from_arrays([0, 2, 3], CATEGORIES), [["blue", "red"], [None]]),
    "UUIDs": (pa.array([UUID.bytes, None], pa.uuid()), [str(UUID), None]),
}


@pytest.mark.parametrize(
    ("kind", "name"), [*(("arrow", name) for name in VALUES), *(("parquet", name) for name in VALUES | ONLY_PARQUET)]
)
def test_values_are_what_their_writer_meant(tmp_path: Path, kind: str, name: str) -> None:
    column, meant = (VALUES | ONLY_PARQUET)[name]
    assert rows(write(tmp_path, kind, pa.table({"x": column}))) == [{"x": one} for one in meant]


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_a_time_that_python_does_not_have_costs_its_column_in_its_row(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (56, 56)).save(tmp_path / "a.png")
    asked = {"question": ["a?", "b?", "c?"], "answer": ["1", "2", "3"]}
    table = pa.table({**asked, "t": pa.array([0, 2**62, None], pa.timestamp("us"))})
    path = write(tmp_path, kind, table)
    first, second, third = rows(path)
    assert [first["t"], third["t"]] == [dt.datetime(1970, 1, 1), None] and isinstance(second, PartlyRead)
    with pytest.raises(
        ValueError,
        match=r"^column 't' has a time that cannot be read \(.*\); write it as text, or",
    ):
        second.get("t")
    assert [one.answer for one in open_source(DataConfig(source="table", path=path))] == ["1", "2", "3"], "no images"
    path = write(tmp_path, kind, pa.table({**asked, "t": pa.array([0, 2**62, None], pa.timestamp("us"))}))
    found = [item for _, item in items(DataConfig(source="table", path=path, columns={"answer": "t"}))]
    assert "a time that cannot be read" in str(found[1])


def test_decimals_are_options_and_boxes_as_they_are_written(tmp_path: Path) -> None:
    Image.new("RGB", (56, 56)).save(tmp_path / "a.png")
    options = pa.array([[Decimal("12345678901234567"), Decimal("12345678901234568")]])
    table = pa.table({"image": ["a.png"], "question": ["?"], "answer": ["B"], "options": options})
    (one,) = open_source(DataConfig(source="table", path=write(tmp_path, "parquet", table)))
    assert one.meta["options"] == ["12345678901234567", "12345678901234568"]
    box = pa.array([[Decimal("1.50"), Decimal(2), Decimal(30), Decimal(40)]])
    table = pa.table({"image": ["a.png"], "question": ["?"], "answer": box})
    (one,) = open_source(DataConfig(source="table", path=write(tmp_path, "parquet", table)))
    assert one.answer == (1.5, 2.0, 30.0, 40.0) and one.task == "refer"


def labels(names: list[str], **more: Any) -> dict[str, Any]:
    return {"names": names, "_type": "ClassLabel", **more}


def described(features: Any, **columns: Any) -> pa.Table:
    """A table with its metadata as `datasets` writes it."""
    text = features if isinstance(features, str) else json.dumps({"info": {"features": features}})
    return pa.table(columns).replace_schema_metadata({"huggingface": text})


ANIMALS, NUMBER = labels(["cat", "dog"]), {"dtype": "int64", "_type": "Value"}
NAMED: dict[str, tuple[Any, Any, Any]] = {
    "a class": (ANIMALS, [1, 0, -1, None], ["dog", "cat", None, None]),
    "a list of classes": ({"feature": ANIMALS, "_type": "List"}, [[1, 0], []], [["dog", "cat"], []]),
    "an older list": ([ANIMALS], [[1, 0], None], [["dog", "cat"], None]),
    "a part of an object": (
        {"kind": ANIMALS, "n": NUMBER},
        [{"kind": 1, "n": 1}],
        [{"kind": "dog", "n": 1}],
    ),
    "a list of objects": (
        {"feature": {"kind": ANIMALS}, "_type": "List"},
        [[{"kind": 1}, {"kind": 0}]],
        [[{"kind": "dog"}, {"kind": "cat"}]],
    ),
    "an object of lists": (
        {"feature": {"kind": ANIMALS}, "_type": "Sequence"},
        [{"kind": [1, 0]}],
        [{"kind": ["dog", "cat"]}],
    ),
    "names by number": ({"names": {"0": "cat", "1": "dog"}, "_type": "ClassLabel"}, [1, 0], ["dog", "cat"]),
    "no class": (NUMBER, [1, 0], [1, 0]),
    "names of something else": ({"names": ["a"], "_type": "Translation"}, [1, 0], [1, 0]),
}


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
@pytest.mark.parametrize("name", NAMED)
def test_numbers_of_classes_are_read_as_their_names(tmp_path: Path, kind: str, name: str) -> None:
    feature, numbers, names = NAMED[name]
    table = described({"x": feature}, x=pa.array(numbers), y=list(range(len(numbers))))
    assert rows(write(tmp_path, kind, table)) == [{"x": one, "y": place} for place, one in enumerate(names)]


def test_golds_of_classes_are_graded_as_their_names(tmp_path: Path) -> None:
    asked = {"question": ["a?", "b?"], "image": ["a.png"] * 2}
    Image.new("RGB", (56, 56)).save(tmp_path / "a.png")
    path = write(tmp_path, "parquet", described({"answer": labels(["yes", "no"])}, answer=[0, 1], **asked))
    assert [one.answer for one in open_source(DataConfig(source="table", path=path, task="yes_no"))] == ["yes", "no"]
    letters = described({"answer": labels([*"ABCD"])}, answer=[2, 0], options=[["1", "2", "3", "4"]] * 2, **asked)
    path = write(tmp_path, "parquet", letters)
    assert [one.answer for one in open_source(DataConfig(source="table", path=path))] == ["C", "A"]


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_odd_descriptions_of_columns_cost_what_they_describe(tmp_path: Path, kind: str) -> None:
    good, bad = rows(write(tmp_path, kind, described({"x": ANIMALS}, x=[1, 2])))
    assert good == {"x": "dog"} and bad == {}
    with pytest.raises(ValueError, match="column 'x': class 2 has no name; there are 2; write it as text"):
        bad.get("x")
    for odd in ("[", "[]", '{"info": 3}', '{"info": {"features": ["ClassLabel"]}}', '"ClassLabel"' + "[" * 99_999):
        assert rows(write(tmp_path, kind, described(odd, x=[1]))) == [{"x": 1}]
    for odd in (labels(["cat", 3]), {"names": "cat", "_type": "ClassLabel"}, {"_type": "ClassLabel"}, {"feature": 3}):
        assert rows(write(tmp_path, kind, described({"x": odd}, x=[1]))) == [{"x": 1}]
    (error,) = rows(write(tmp_path, kind, described(" " * (LARGEST_DESCRIPTION + 1), x=[1])))
    assert "its columns are described in 4,194,305 bytes" in str(error)
    (error,) = rows(write(tmp_path, kind, described({"x": labels(["a" * 1_001])}, x=[0])))
    assert "a class has a name of 1,001 characters, expected 1,000 at most" in str(error)


def test_names_of_classes_count_as_the_texts_that_they_stand_for(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(unpacked, "MOST_UNPACKED", 1 << 20)
    names = labels([f"{i:01000}" for i in range(10)])
    numbers = pa.array([[i % 10 for i in range(1_000)]] * 200)
    *found, error = rows(write(tmp_path, "parquet", described({"x": [names]}, x=numbers)))
    assert len(found) < 20 and "its rows unpack from" in str(error)
    monkeypatch.undo()
    start = time.monotonic()
    many = described({"x": [labels([str(i) for i in range(20_000)])]}, x=pa.array([list(range(20_000)) * 5]))
    assert rows(write(tmp_path, "parquet", many)) == [{"x": [str(i) for i in range(20_000)] * 5}]
    assert time.monotonic() - start < 5

"""Parquet: what a file makes of a few bytes is known before it is unpacked, and honest files are read in every form."""

from __future__ import annotations

import base64
import io
import random
import subprocess
import sys
from array import array
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_data_formats import png

from saccade.data import DataConfig, columns, open_source
from saccade.data.files import table_rows
from saccade.data.parquet_pages import PageHeaders, Pages, _struct
from saccade.data.records import PartlyRead, Reading
from saccade.data.sources import items


def test_a_dictionary_bounds_how_many_rows_are_read_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    names = pa.array([f"{i % 999:0999}" for i in range(150_000)])
    pq.write_table(pa.table({"x": names}), path)
    group = pq.read_metadata(path).row_group(0)
    held = PageHeaders(path).of(group.column(0)).dictionary
    assert 999 * 999 <= held < 1_100_000, "the page itself, not the column"
    assert columns._plan(path, 0, group, pq.read_schema(path), PageHeaders(path))[1] == columns.BATCH


PAGES: dict[str, dict[str, Any]] = {
    "plain": {"use_dictionary": False},
    "dictionaries": {},
    "pages of the second version": {"data_page_version": "2.0", "data_page_size": 1000, "write_batch_size": 10},
    "checksums": {"write_page_checksum": True, "compression": "gzip"},
    "long statistics": {"write_statistics": True, "compression": "none", "write_page_index": False},
    "small groups": {"row_group_size": 7, "compression": "brotli"},
}


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_of_a_column_are_those_of_its_footer(tmp_path: Path, name: str) -> None:
    texts = [f"{i} " * (i % 50) for i in range(3_000)]
    table = pa.table({"a": texts, "b": list(range(3_000)), "c": [[text, None] for text in texts]})
    table = table.append_column("d", pa.nulls(3_000))
    pq.write_table(table, path := tmp_path / "t.parquet", **PAGES[name])
    file, headers = pq.read_metadata(path), PageHeaders(path)
    for group in map(file.row_group, range(file.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            found = headers.of(column)
            around = column.total_uncompressed_size - found.total
            assert 0 < around < 1_000 + found.total / 5 and found.largest <= found.total
            assert bool(found.dictionary) == (column.has_dictionary_page and column.physical_type != "INT32")  # nulls


def test_a_page_that_is_far_larger_than_its_file_is_not_unpacked_whatever_the_footer_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "PAGE_BYTES", 1 << 20)
    images = [[{"bytes": random.randbytes(500) + bytes(20_000)}] for _ in range(120)]
    table = pa.table({"q": ["?"] * 120, "images": images})
    pq.write_table(table, path := tmp_path / "t.parquet", compression="zstd")
    found = [row for _, row in columns.parquet_rows(path)]
    assert len(found) == 120 and all("'images.list.element.bytes' holds 2,4" in str(row) for row in found)
    pq.write_table(table, path, compression="zstd", data_page_size=1 << 18, write_batch_size=10, use_dictionary=False)
    assert [row for _, row in columns.parquet_rows(path)] == table.to_pylist()
    content = path.read_bytes()
    start = pq.read_metadata(path).row_group(0).column(1).data_page_offset
    endless = b"\x15\x00\x15\x02\x19\xf1" + b"\xff" * 8 + b"\x01"  # a list of 2^63 truth values
    wide = b"\x15\x00\x15\x02\x15\x82\x80\x80\x80\x10"  # 2^32 + 1
    for broken in (wide, endless, b"\x00" * 40, b"\x15\x00\x15\x01", b"\x1c" * 40, b"\x15\x00\x18" + b"\xff" * 12):
        path.write_bytes(content[:start] + broken + content[start + len(broken) :])
        ((_, error),) = columns.parquet_rows(path)
        assert "not a Parquet file that can be read" in str(error)


@pytest.mark.parametrize("form", ["texts", "images", "a fixed size", "maps", "shared beginnings"])
def test_lists_that_repeat_a_long_value_are_left_out_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, form: str
) -> None:
    monkeypatch.setattr(columns, "ROW_BYTES", 1 << 20)
    monkeypatch.setattr(columns, "BATCH_BYTES", 1 << 18)
    text, options = "a" * 20_000, {}
    values: dict[str, Any] = {
        "texts": pa.array([[text] * 300, ["b"] * 30]),
        "images": pa.array([[{"bytes": text.encode(), "path": None}] * 300, []]),
        "a fixed size": pa.array([[text] * 300] * 2, pa.list_(pa.string(), 300)),
        "maps": pa.array([[(str(i), text) for i in range(300)], []], pa.map_(pa.string(), pa.string())),
    }
    if form == "shared beginnings":
        values[form] = values["texts"]
        options = {"use_dictionary": False, "column_encoding": {"x.list.element": "DELTA_BYTE_ARRAY"}}
    table = pa.table({"question": ["q", "q"], "x": values[form]})
    pq.write_table(table, tmp_path / "t.parquet", compression="zstd", **options)
    before = pa.total_allocated_bytes()
    found = [row for _, row in table_rows(Reading(tmp_path / "t.parquet", tmp_path))]
    assert "the column is not read" in caplog.text
    if form == "images":
        assert all("column 'x.list.element.bytes' holds" in str(row) for row in found) and len(found) == 2
    else:
        assert found == [{"question": "q"}] * 2
        for look in (lambda row: row["x"], lambda row: row.get("x"), lambda row: "x" in row):
            with pytest.raises(ValueError, match=r"^column 'x\..* more than data needs; the column is not read; write"):
                look(found[0])
    assert pa.total_allocated_bytes() - before < 1 << 20
    monkeypatch.setattr(columns, "ROW_BYTES", 64 << 20)
    found = [row for _, row in table_rows(Reading(tmp_path / "t.parquet", tmp_path))]
    assert found == table.to_pylist()


@pytest.mark.parametrize("each", [1, 2])
def test_images_of_parquet_are_read_in_every_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each: int
) -> None:
    """64 rows may be more than a batch holds, where each is far from it."""
    monkeypatch.setattr(columns, "ROW_BYTES", 4 << 20)
    monkeypatch.setattr(columns, "BATCH_BYTES", 1 << 20)
    rows = []
    for i in range(70):
        file = io.BytesIO()
        Image.effect_noise((250, 250), i + 1).save(file, "PNG")
        rows.append({"images": [{"bytes": file.getvalue(), "path": None}] * each, "question": f"{i}?", "answer": "1"})
    encoding = {"images.list.element.bytes": "DELTA_BYTE_ARRAY"}
    for options in ({}, {"use_dictionary": False}, {"use_dictionary": False, "column_encoding": encoding}):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet", **options)
        source = open_source(DataConfig(source="table", path=tmp_path / "t.parquet"))
        assert [len(sample.images) for sample in source] == [each] * 70


def test_the_pages_of_all_columns_are_bounded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(columns, "PAGE_BYTES", 1 << 20)
    wide = pa.table({"question": ["?"] * 40, **{f"x{i}": ["a" * 20_000] * 40 for i in range(9)}})
    pq.write_table(wide, path := tmp_path / "t.parquet", compression="zstd", use_dictionary=False)
    assert {len(row) for _, row in columns.parquet_rows(path) if isinstance(row, dict)} == {2}, "one of 800 kB fits"
    assert caplog.text.count("the column is not read") == 1


def test_a_batch_holds_no_more_than_it_may_where_a_value_is_all_of_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "BATCH_BYTES", 1 << 20)
    long = pa.table({"x": ["a" * 300_000] * 40, "y": list(range(40))})
    pq.write_table(long, path := tmp_path / "t.parquet", use_dictionary=False, write_batch_size=1, data_page_size=1)
    group = pq.read_metadata(path).row_group(0)
    assert columns._plan(path, 0, group, pq.read_schema(path), PageHeaders(path))[1] == 2
    assert [row for _, row in columns.parquet_rows(path)] == long.to_pylist()


READ_LATER = {"images": "'images.list.element' holds", "system": "'system' holds", "scan": "no other holds images"}


@pytest.mark.parametrize("name", READ_LATER)
def test_a_column_that_is_left_out_is_never_an_absent_one(tmp_path: Path, name: str) -> None:
    """Also where a reader copies the row, and where nothing says that it holds images."""
    turns = [{"role": ("user", "assistant")[place % 2], "content": f"{place}?"} for place in range(4)]
    value: Any = "a" * 100_000 if name == "system" else base64.b64encode(png()).decode() + "A" * 100_000
    asked: dict[str, Any] = {"question": "?", "answer": "1"} if name == "scan" else {"messages": turns}
    rows = [asked | {name: [value] if name == "images" else value}] * 400
    pq.write_table(pa.Table.from_pylist(rows), path := tmp_path / "t.parquet", compression="zstd", use_dictionary=False)
    found = [item for _, item in items(DataConfig(source="table" if name == "scan" else "ms_swift", path=path))]
    assert len(found) == 400 and all(READ_LATER[name] in str(item) for item in found)
    row = PartlyRead({"a": 1}, {"b": "why"})
    for copied in (row | {"c": 2}, {"c": 2} | row):
        assert copied == {"a": 1, "c": 2} and copied.get("d", 5) == 5
        with pytest.raises(ValueError, match=r"^why; the column is not read"):
            copied.get("b")


def test_row_groups_without_rows_are_passed_over(tmp_path: Path) -> None:
    schema = pa.schema([("a", pa.string()), ("b", pa.list_(pa.int64()))])
    with pq.ParquetWriter(path := tmp_path / "t.parquet", schema) as file:
        for number in (1, 0, 2):
            file.write_table(pa.table({"a": ["x"] * number, "b": [[1]] * number}, schema))
    assert [row for _, row in columns.parquet_rows(path)] == [{"a": "x", "b": [1]}] * 3


def test_chunks_that_overlap_and_sizes_that_are_written_twice_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [str(i) for i in range(2_000)]}), path := tmp_path / "t.parquet", data_page_size=1)
    column = pq.read_metadata(path).row_group(0).column(0)
    headers = PageHeaders(path)
    headers.of(column)
    with pytest.raises(ValueError, match="more pages than fit into the file"):
        for _ in range(path.stat().st_size):
            headers.of(column)
    header = bytes([0x15, 0, 0x15, 2 * 9, 0x15, 0, 0x06, 4, 2 * 1, 0])  # field 2 again, of 64 bits: passed over
    assert _struct(io.BytesIO(header)) == {1: 0, 2: 9, 3: 0}


def test_lists_of_several_columns_that_repeat_a_value_are_bounded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(columns, "ROW_BYTES", 1 << 20)
    monkeypatch.setattr(columns, "BATCH_BYTES", 1 << 20)
    repeated = [["a" * 10_000] * 40] * 3
    table = pa.table({"question": ["?"] * 3, **{f"x{i}": repeated for i in range(6)}, "y": ["b" * 10_000] * 3})
    pq.write_table(table, path := tmp_path / "t.parquet", compression="zstd")
    found = [row for _, row in columns.parquet_rows(path)]
    assert {len(row) for row in found if isinstance(row, dict)} == {4} and len(found) == 3, (
        "two of 400 kB fit into a row"
    )
    assert "the column is not read" in caplog.text


def test_consecutive_values_lie_in_as_many_pages_as_they_can() -> None:
    random = Random(1)
    for _ in range(300):
        counts = [random.randint(1, 5) for _ in range(random.randint(1, 8))]
        sizes = [random.randint(1, 99) for _ in counts]
        page_of = [place for place, count in enumerate(counts) for _ in range(count)]
        pages = Pages(values=array("q", counts), sizes=array("q", sizes))
        for rows in range(1, len(page_of) + 2):
            runs = (set(page_of[start : start + rows]) for start in range(len(page_of)))
            assert pages.most(rows) == max(sum(sizes[place] for place in run) for run in runs)


def test_wide_tables_of_numbers_and_short_texts_are_read_in_large_batches(tmp_path: Path) -> None:
    many = 200_000
    table = pa.table(
        {f"x{i}": pa.array(range(many), pa.float64()) for i in range(20)} | {"y": [f"{i}?" for i in range(many)]}
    )
    pq.write_table(table, path := tmp_path / "t.parquet", compression="none", use_dictionary=False)
    plan = columns._plan(path, 0, pq.read_metadata(path).row_group(0), table.schema, PageHeaders(path))
    assert plan == (table.schema.names, columns.BATCH, {})


def test_a_chunk_of_an_old_writer_may_be_longer_than_it_says(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": ["a", "b"]}), path := tmp_path / "t.parquet", use_dictionary=False)
    column = pq.read_metadata(path).row_group(0).column(0)
    assert PageHeaders(path, "parquet-mr version 1.2.8").of(column).total >= PageHeaders(path).of(column).total
    assert PageHeaders(path, "parquet-mr version 1.13.1").of(column).sizes == PageHeaders(path).of(column).sizes


def test_reading_data_sets_no_variable_of_this_process(tmp_path: Path) -> None:
    """Such as the threads of torch, which may be imported later; those are for the process that looks at footers."""
    pq.write_table(pa.table({"x": ["a"]}), path := tmp_path / "t.parquet")
    code = (
        "import os, sys\nfrom pathlib import Path\nbefore = dict(os.environ)\n"
        "from saccade.data.columns import parquet_rows\n"
        "assert [row for _, row in parquet_rows(Path(sys.argv[1]))] == [{'x': 'a'}]\n"
        "assert dict(os.environ) == before, set(os.environ.items()) - set(before.items())\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)

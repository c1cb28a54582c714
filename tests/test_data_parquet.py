"""Parquet: whatever a few bytes unpack to costs a column and bounded memory; honest files are read in every form."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL, SIGSEGV
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_data_formats import png

from saccade.data import DataConfig, open_source, parquet
from saccade.data.columns import ROW_BYTES
from saccade.data.files import count_rows, table_rows
from saccade.data.parquet import parquet_rows
from saccade.data.records import PartlyRead, Reading
from saccade.data.sources import items
from saccade.workers.process import Worker

MEASURED = """
import json, os, resource, sys
from pathlib import Path
from saccade.data.parquet import _pool_of, parquet_rows
found = [str(row) if isinstance(row, ValueError) else sorted(row) for _, row in parquet_rows(Path(sys.argv[1]))]
_pool_of(os.getpid()).close()
mine = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([found, max(mine, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)]))
"""
LONG, MANY = "a" * (10 << 20), 40
SHARED = {"use_dictionary": False, "column_encoding": {"x": "DELTA_BYTE_ARRAY"}}


def bytes_of_zeros() -> Any:
    return [[{"bytes": random.randbytes(500) + bytes(2_000_000)}] for _ in range(200)]


def tensors() -> Any:
    kind = pa.fixed_shape_tensor(pa.int8(), [4 << 20])
    inner = pa.ExtensionArray.from_storage(kind, pa.nulls(200, kind.storage_type))
    return pa.ListArray.from_arrays(pa.array([0, 200], pa.int32()), inner)


def maps() -> Any:
    return pa.array([[(str(i), "a" * 100_000) for i in range(700)]] * 2, pa.map_(pa.string(), pa.string()))


BOMBS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "one value": (lambda: ["a" * 400_000_000], {}),
    "a dictionary": (lambda: pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array([LONG])), {}),
    "texts in a dictionary": (lambda: [LONG] * MANY, {}),
    "shared beginnings": (lambda: [f"{LONG}{i}" for i in range(MANY)], SHARED),
    "texts in pages": (lambda: ["a" * 2_000_000] * 200, {"use_dictionary": False}),
    "lists": (lambda: [["a" * 1_000_000] * 100] * 4, {}),
    "maps": (maps, {}),
    "nulls of a fixed size": (lambda: pa.nulls(3, pa.binary(ROW_BYTES + 1)), {}),
    "nulls in lists": (lambda: pa.array([[None] * 100_000], pa.list_(pa.binary(12_288))), {}),
    "tensors in lists": (tensors, {}),
    "many elements": (lambda: pa.array([[None] * 5_000_000] * 9, pa.list_(pa.int8())), {}),
    "images": (bytes_of_zeros, {}),
}


QUICK = ("texts in pages", "lists", "images")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BOMBS]
)
def test_a_bomb_costs_its_column_and_less_memory_than_its_process_may_take(tmp_path: Path, name: str) -> None:
    values, options = BOMBS[name]
    column = values()
    table = pa.table({"question": ["q"] * len(column), "x": column, "y": range(len(column))})
    pq.write_table(table, path := tmp_path / "t.parquet", compression="zstd", write_statistics=False, **options)
    del column, table
    assert path.stat().st_size < 1 << 20
    done = subprocess.run([sys.executable, "-c", MEASURED, str(path)], capture_output=True, text=True, check=True)
    found, taken = json.loads(done.stdout)
    rows = pq.read_metadata(path).num_rows
    assert len(found) == rows and taken << 10 < parquet.MEMORY + (80 << 20), f"{taken >> 10} MB"
    if name == "images":
        assert all("column 'images'" in one or "column 'x' " in one for one in found), "rows are never blind"
    else:
        assert found[-1] == ["question", "y"] and sum(one != ["question", "x", "y"] for one in found) >= rows - 30


def test_columns_that_are_too_much_together_are_left_out_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parquet, "MEMORY", 200 << 20)
    wide = {f"x{i}": pa.nulls(1, pa.binary(30 << 20)) for i in range(9)}
    pq.write_table(pa.table({**wide, "question": ["?"]}), path := tmp_path / "t.parquet")
    ((_, row),) = parquet_rows(path)
    assert isinstance(row, PartlyRead | ValueError) and "the column is not read" in caplog.text
    pq.write_table(pa.table({"x": pa.nulls(3, pa.binary(250 << 20))}), path)
    ((_, error),) = parquet_rows(path)
    assert "column 'x' takes more than 200 MB" in str(error) and "write it again with smaller values" in str(error)


def test_a_row_that_is_too_large_costs_itself(tmp_path: Path) -> None:
    rows = [random.randbytes(size) for size in (10, ROW_BYTES + 1, 20, 30 << 20)]
    pq.write_table(pa.table({"x": rows}), path := tmp_path / "t.parquet", compression="none", use_dictionary=False)
    first, second, *others = (row for _, row in parquet_rows(path))
    assert [first, *others] == [{"x": rows[0]}, {"x": rows[2]}, {"x": rows[3]}]
    assert "a row of 67,108,8" in str(second) and "is too large" in str(second)


@pytest.mark.parametrize("each", [1, 2])
def test_images_of_parquet_are_read_in_every_encoding(tmp_path: Path, each: int) -> None:
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


FORMS: dict[str, dict[str, Any]] = {
    "plain": {"use_dictionary": False},
    "dictionaries": {},
    "pages of the second version": {"data_page_version": "2.0", "data_page_size": 1000, "write_batch_size": 10},
    "checksums": {"write_page_checksum": True, "compression": "gzip"},
    "a page for each value": {"use_dictionary": False, "write_batch_size": 1, "data_page_size": 1},
    "small groups": {"row_group_size": 7, "compression": "brotli"},
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_those_that_were_written(tmp_path: Path, form: str) -> None:
    texts = [f"{i} " * (i % 50) for i in range(700)]
    table = pa.table({"a": texts, "b": list(range(700)), "c": [[text, None] for text in texts], "a.b": texts[::-1]})
    table = table.append_column("d", pa.nulls(700)).append_column("e", pa.array(texts).dictionary_encode())
    pq.write_table(table, path := tmp_path / "t.parquet", **FORMS[form])
    assert [row for _, row in parquet_rows(path)] == table.to_pylist()
    assert count_rows(path) == 700


def test_a_long_text_in_all_rows_is_no_bomb(tmp_path: Path) -> None:
    """A system message, in a file of a few kilobytes."""
    table = pa.table({"system": ["You are careful. " * 120] * 20_000, "question": [str(i) for i in range(20_000)]})
    pq.write_table(table, path := tmp_path / "t.parquet", compression="zstd")
    assert sum(type(row) is dict and len(row) == 2 for _, row in parquet_rows(path)) == 20_000


READ_LATER = {"images": "'images' unpacks", "system": "'system' unpacks", "scan": "no other holds images"}


@pytest.mark.parametrize("name", READ_LATER)
def test_a_column_that_is_left_out_is_never_an_absent_one(tmp_path: Path, name: str) -> None:
    """Also where a reader copies the row, and where nothing says that it holds images."""
    turns = [{"role": ("user", "assistant")[place % 2], "content": f"{place}?"} for place in range(4)]
    value: Any = "a" * 300_000 if name == "system" else base64.b64encode(png()).decode() + "A" * 300_000
    asked: dict[str, Any] = {"question": "?", "answer": "1"} if name == "scan" else {"messages": turns}
    rows = [asked | {name: [value] if name == "images" else value}] * 400
    pq.write_table(pa.Table.from_pylist(rows), path := tmp_path / "t.parquet", compression="zstd")
    found = [item for _, item in items(DataConfig(source="table" if name == "scan" else "ms_swift", path=path))]
    assert len(found) == 400 and sum(READ_LATER[name] in str(item) for item in found) > 200
    assert all(READ_LATER[name] in str(item) for item in found[200:])
    row = PartlyRead({"a": 1}, {"b": "why"})
    for copied in (row | {"c": 2}, {"c": 2} | row):
        assert copied == {"a": 1, "c": 2} and copied.get("d", 5) == 5
        with pytest.raises(ValueError, match=r"^why; the column is not read"):
            copied.get("b")


def test_all_row_groups_are_read_in_one_opening_and_columns_in_proportion(tmp_path: Path) -> None:
    table = pa.table({"a": ["x"], "b": [1]})
    with pq.ParquetWriter(path := tmp_path / "groups.parquet", table.schema) as file:
        for _ in range(300):
            file.write_table(table)
    pool = parquet._pool_of(os.getpid())
    pool.close()
    assert [row for _, row in parquet_rows(path)] == [{"a": "x", "b": 1}] * 300
    assert [worker.jobs for worker in pool.idle] == [2], "the schema, and all rows"
    pq.write_table(pa.table({f"c{i}": ["a"] for i in range(12_000)}), path)
    start = time.monotonic()
    assert [len(row) for _, row in parquet_rows(path)] == [12_000]
    assert time.monotonic() - start < 6


def test_fields_of_structures_in_a_row_count_as_its_elements(tmp_path: Path) -> None:
    values = pa.array(range(100_000), pa.int32())
    structs = pa.StructArray.from_arrays([values] * 14, [f"f{i}" for i in range(14)])
    lists = pa.ListArray.from_arrays([0, 10, 100_000], structs)
    pq.write_table(pa.table({"x": lists}), path := tmp_path / "t.parquet")
    (_, first), (_, second) = parquet_rows(path)
    assert len(first["x"]) == 10 and "1,499,850 list elements is too large" in str(second)


def test_a_worker_in_the_middle_of_a_job_ends_with_its_parent(tmp_path: Path) -> None:
    with pq.ParquetWriter(path := tmp_path / "t.parquet", (table := pa.table({"x": ["a"] * 100})).schema) as file:
        for _ in range(3_000):
            file.write_table(table)
    code = "import sys; from pathlib import Path; from saccade.data.parquet import parquet_rows\n"
    code += "rows = parquet_rows(Path(sys.argv[1])); next(rows); print('reads', flush=True); list(iter(input, ''))"
    parent = subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout and parent.stdout.readline() == b"reads\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.communicate()
    assert children and not psutil.wait_procs(children, timeout=5)[1]


def test_row_groups_without_rows_are_passed_over(tmp_path: Path) -> None:
    schema = pa.schema([("a", pa.string()), ("b", pa.list_(pa.int64()))])
    with pq.ParquetWriter(path := tmp_path / "t.parquet", schema) as file:
        for number in (1, 0, 2):
            file.write_table(pa.table({"a": ["x"] * number, "b": [[1]] * number}, schema))
    assert [row for _, row in parquet_rows(path)] == [{"a": "x", "b": [1]}] * 3


def test_a_file_with_any_byte_changed_costs_its_rows_and_ends_nothing(tmp_path: Path) -> None:
    """Also at footers at which the library ends its process, such as statistics that do not fit."""
    table = pa.table({"question": ["a", None, "b"] * 30, "n": [[i] for i in range(90)]})
    pq.write_table(table, path := tmp_path / "t.parquet", compression="none", row_group_size=45)
    whole, chance = path.read_bytes(), random.Random(3)
    assert len(list(parquet_rows(path))) == 90
    for _ in range(40):
        place = chance.randrange(4, len(whole))
        path.write_bytes(whole[:place] + bytes([chance.randrange(256)]) + whole[place + 1 :])
        found = [row for _, row in parquet_rows(path)]
        assert all(isinstance(row, dict | ValueError) for row in found)
        assert len(found) >= 90 or "not a Parquet file that can be read" in str(found[-1])


def test_the_end_of_its_process_is_no_damage_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"x": ["a" * 1000] * 100_000}), path := tmp_path / "t.parquet", row_group_size=100_000)
    pool, started = parquet._pool_of(os.getpid()), list[Worker]()
    pool.close()
    monkeypatch.setattr(pool, "_start", lambda: started.append(parquet._start()) or started[-1])
    for signal, error in ((SIGKILL, OSError), (SIGSEGV, None)):
        rows = parquet_rows(path)
        next(rows)
        os.kill(started[-1].pid, signal)
        if error is None:
            assert "ends the process that reads it: its process ended with status -11" in str(list(rows)[-1][1])
        else:
            with pytest.raises(error, match=r"t\.parquet: the process that reads it was killed; run the same"):
                list(rows)


def test_reading_that_is_given_up_leaves_no_process(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": ["a" * 1000] * 100_000}), path := tmp_path / "t.parquet", row_group_size=100_000)
    pool = parquet._pool_of(os.getpid())
    pool.close()
    rows = table_rows(Reading(path, tmp_path))
    assert next(iter(rows))[1] == {"x": "a" * 1000} and not pool.idle
    rows.close()  # type: ignore[attr-defined]  # it is a generator
    assert not pool.idle
    assert len(list(parquet_rows(path))) == 100_000 and len(pool.idle) == 1, "used again for the next file"


def test_reading_data_sets_no_variable_of_this_process(tmp_path: Path) -> None:
    """Such as the threads of torch, which may be imported later; those are for the process that reads."""
    pq.write_table(pa.table({"x": ["a"]}), path := tmp_path / "t.parquet")
    code = (
        "import os, sys\nfrom pathlib import Path\nbefore = dict(os.environ)\n"
        "from saccade.data.parquet import parquet_rows\n"
        "assert [row for _, row in parquet_rows(Path(sys.argv[1]))] == [{'x': 'a'}]\n"
        "print(sorted(set(os.environ.items()) ^ set(before.items())))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"

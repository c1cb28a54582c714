"""Saccade's own storage: a folder with `data.parquet` or `data.jsonl`, and the images if they were copied.

A row has the fields of a sample. In Parquet `answer` and `meta` are JSON texts, and `images` a list of {bytes, path}.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from saccade.data import records
from saccade.data.files import files_at, table_rows
from saccade.data.golds import typed
from saccade.data.images import ImageError, file_bytes, format_of, name_of, png_of
from saccade.data.json_stream import decoded
from saccade.data.records import Item, Reading, Row
from saccade.tasks.conversation import later_images
from saccade.types import ImageSource, Sample

Kind = Literal["parquet", "jsonl"]
Keep = Literal["as_is", "path", "bytes", "hash"]
"""How images are stored: unchanged, by absolute path, as bytes in the rows, or copied once and named by hash."""
NAME = "data"
FOLDER = "images"
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("task", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("images", pa.list_(_IMAGE)),
        ("meta", pa.string()),
    ],
    metadata={"saccade": "1"},
)
ROWS = 1000
BYTES = 32 << 20
"""A row group is written once it has this many rows or image bytes."""
LARGEST_STORED = 60 << 20
"""Bytes of the images in a row, which would else be too large to be read."""


def stored(reading: Reading) -> Iterator[Item]:
    """The format of `saccade convert`; `path` is its folder or the file. Image names are relative to the folder."""
    path = reading.path if reading.hub else rows_file(reading.path) or reading.path
    rows = table_rows(Reading(path, reading.image_folder, hub=reading.hub, split=reading.split))
    texts = not reading.hub and files_at(path)[0].suffix == ".parquet"

    def read(row: Row, place: str) -> Sample:
        images = records.images_of(row.get("images") or [], reading)
        answer, meta = row.get("answer"), row.get("meta")
        if texts:
            answer, meta = _decoded(row, "answer"), _decoded(row, "meta")
        if not isinstance(meta, dict):
            raise ValueError(f"field 'meta': got {records.shown(meta)}, expected an object")
        task = records.field(row, "task", str)
        question, meta = records.field(row, "question", str), {"place": place} | meta
        name = records.field(row, "id", str)
        sample = Sample(name, images, question, typed(task, answer), reading.task or task, meta)
        records.with_markers(question, len(images) - later_images(sample))
        return sample

    return records.each(rows, read, pictured=False)


def rows_file(folder: Path) -> Path | None:
    """The row file in a folder of this storage; None for anything else."""
    found = [folder / f"{NAME}.{kind}" for kind in ("parquet", "jsonl")]
    return next((file for file in found if file.is_file()), None)


def _decoded(row: Row, name: str) -> Any:
    try:
        return decoded(records.field(row, name, str))
    except json.JSONDecodeError as error:
        raise ValueError(f"field '{name}': got {records.shown(row[name])}, expected JSON ({error.msg})") from None


class SampleWriter:
    """Writes samples into an existing folder, row by row. Close it, or use it in a `with`."""

    def __init__(self, folder: Path, kind: Kind, keep: Keep) -> None:
        if kind == "jsonl" and keep == "bytes":
            raise ValueError("JSONL cannot store bytes; keep images by path or by hash, or write Parquet")
        self._folder, self._kind, self._keep = folder, kind, keep
        self._path = folder / f"{NAME}.{kind}"
        self._rows: list[Row] = []
        self._buffered_bytes = 0
        self._table = pq.ParquetWriter(self._path, SCHEMA) if kind == "parquet" else None
        self._lines = self._path.open("w", encoding="utf-8") if kind == "jsonl" else None
        self._kept: dict[str, str] = {}
        """Source path -> name by hash."""

    def write(self, sample: Sample) -> None:
        """Adds a row. ValueError for an image that cannot be stored in the requested way."""
        images, left = list[dict[str, Any]](), LARGEST_STORED
        for source in sample.images:
            images.append(self._image(source, left))
            left -= len(images[-1]["bytes"] or b"")
        row = {"id": sample.id, "task": sample.task, "question": sample.question}
        if self._lines is not None:
            names = [image["path"] for image in images]
            record = {**row, "answer": sample.answer, "images": names, "meta": dict(sample.meta)}
            self._lines.write(json.dumps(record) + "\n")
            return
        if broken := [name for name, text in row.items() if not _is_utf8(text)]:
            raise ValueError(
                f"field '{broken[0]}': contains half of a surrogate pair, which is not valid text; write JSONL"
            )
        self._rows.append({**row, "answer": _json(sample.answer), "images": images, "meta": _json(dict(sample.meta))})
        self._buffered_bytes += sum(len(image["bytes"] or b"") for image in images)
        if len(self._rows) >= ROWS or self._buffered_bytes >= BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._table is not None and self._rows:
            self._table.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
        self._rows, self._buffered_bytes = [], 0

    def _image(self, source: ImageSource, left: int) -> dict[str, Any]:
        if self._keep == "hash":
            return {"bytes": None, "path": self._copy_by_hash(source)}
        if isinstance(source, str) and self._keep != "bytes":
            return {"bytes": None, "path": os.path.realpath(source)}
        if self._keep == "path" or self._kind == "jsonl":
            hint = "keep images by hash (or, in Parquet, as bytes)"
            raise ValueError(f"{name_of(source)} has no path; {hint}")
        return {"bytes": _content(source, left), "path": Path(source).name if isinstance(source, str) else None}

    def _copy_by_hash(self, source: ImageSource) -> str:
        """The name of the copy of an image, which is created if missing."""
        if isinstance(source, str) and source in self._kept:
            return self._kept[source]
        content = _content(source)
        sha = hashlib.sha256(content).hexdigest()[:32]
        name = f"{FOLDER}/{sha[:2]}/{sha}.{format_of(content)}"
        target = self._folder / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        if isinstance(source, str):
            self._kept[source] = name
        return name

    def close(self) -> None:
        self._flush()
        for file in (self._table, self._lines):
            if file is not None:
                file.close()

    def __enter__(self) -> SampleWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if _is_utf8(value) else json.dumps(value)


def _is_utf8(value: Any) -> bool:
    """Whether every text in it can be encoded as UTF-8: a lone surrogate cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _content(source: ImageSource, most: int = sys.maxsize) -> bytes:
    """The bytes of an image file; a decoded image as PNG. ImageError for more than `most`."""
    if isinstance(source, str) and os.path.isfile(source):
        _refuse_larger(source, os.path.getsize(source), most)
    content = file_bytes(source) if isinstance(source, str) else source
    content = png_of(content) if isinstance(content, Image.Image) else content
    _refuse_larger(source, len(content), most)
    return content


def _refuse_larger(source: ImageSource, size: int, most: int) -> None:
    if size > most:
        raise ImageError(
            f"{name_of(source)}: has {size:,} bytes, but its row can store {most:,} more; keep images by hash or path"
        )

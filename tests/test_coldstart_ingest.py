"""The data of a cold start: read once, by one process, and compared at a later start with what was read."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from PIL import Image

from saccade.coldstart.ingest import ingest
from saccade.coldstart.recipe import ColdStartRecipe
from saccade.coldstart.store import NAME, READING, Store, StoreError

Rows = list[dict[str, Any]]


def recipe(folder: Path, rows: Rows) -> ColdStartRecipe:
    Image.new("RGB", (32, 32), (9, 99, 199)).save(folder / "a.png")
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    teacher = {"teacher": "endpoint", "url": "http://127.0.0.1:9", "model": "m"}
    data = [{"source": "saccade", "path": folder / "d.jsonl", "on_bad": "skip"}]
    return ColdStartRecipe.model_validate(
        {"kind": "coldstart", "out": folder / "set", "data": data, "vision": teacher, "reasoner": teacher}
    )


def some_rows(n: int) -> Rows:
    return [
        {"id": str(i), "images": ["a.png"], "question": "How many?", "answer": str(i), "task": "count", "meta": {}}
        for i in range(n)
    ]


def keys(folder: Path) -> list[str]:
    with Store(folder / "set" / NAME) as store:
        return [key for (key,) in store._db.execute("SELECT key FROM rows ORDER BY number")]


def test_a_second_process_waits_while_the_data_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saccade.coldstart.ingest.PAGE", 4)
    config, halfway, go_on, waits = recipe(tmp_path, some_rows(20)), Event(), Event(), Event()
    second_pages = list[int]()

    def pause(seen: int) -> None:
        halfway.set()
        assert go_on.wait(30)

    def read(progress: Callable[[int], None]) -> None:
        with Store(tmp_path / "set" / NAME) as store:
            ingest(config, store, progress)

    def wait(seconds: float) -> None:
        waits.set()
        Event().wait(seconds / 10)

    monkeypatch.setattr("saccade.coldstart.store.time.sleep", wait)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(read, pause)
        assert halfway.wait(30)
        second = pool.submit(read, second_pages.append)
        assert waits.wait(30) and len(keys(tmp_path)) == 4  # nothing of the first one's is cleared
        go_on.set()
        first.result(30)
        second.result(30)
    assert not second_pages
    assert keys(tmp_path) == [f"0/{i}" for i in range(20)]


def test_the_data_is_read_anew_after_a_process_that_died_or_stood_still(tmp_path: Path) -> None:
    config, lost = recipe(tmp_path, some_rows(600)), []

    def overtake(seen: int) -> None:
        if not lost:
            lost.append(seen)
            first._renewed -= 60  # it stood still for a minute, and its lease ended
            first.remember(READING, [first.owner, 0])
            assert second.acquire_lock(READING) is None

    with Store(tmp_path / "set" / NAME) as first, Store(tmp_path / "set" / NAME) as second:
        with pytest.raises(StoreError, match=r"is reading the data in its place, or has done so; nothing is lost"):
            ingest(config, first, overtake)
        ingest(config, second)
    assert keys(tmp_path) == [f"0/{i}" for i in range(600)]


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[2].update(answer="77"),
        lambda rows: rows[2].update(question="How many now?"),
        lambda rows: rows[2].update(meta={"reward": {"name": "exact"}}),
        lambda rows: rows.pop(),
        lambda rows: rows.append({**rows[0], "id": "new"}),
        lambda rows: rows.reverse(),
        lambda rows: rows[2].update(task=7),
    ],
)
def test_rows_that_changed_since_they_were_read_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[[Rows], Any]
) -> None:
    rows = some_rows(5)
    caplog.set_level(logging.INFO)
    with Store(tmp_path / "set" / NAME) as store:
        ingest(recipe(tmp_path, rows), store)
        ingest(recipe(tmp_path, rows), store)
        assert not caplog.records
        change(rows)
        ingest(recipe(tmp_path, rows), store)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.message.startswith(
        "d: its rows, or which can be read, have changed since; this set is made of what they were"
    )
    assert keys(tmp_path) == [f"0/{i}" for i in range(5)]


def test_a_set_continues_without_the_data_it_was_read_from(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    config = recipe(tmp_path, some_rows(3))
    with Store(tmp_path / "set" / NAME) as store:
        ingest(config, store)
        (tmp_path / "d.jsonl").unlink()
        ingest(config, store)
    assert "d: cannot be compared with the rows that were read from it" in caplog.text

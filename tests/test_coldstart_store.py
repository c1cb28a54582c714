"""The store of a cold start: a row has one owner at a time, a step is saved once, a full disk loses nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saccade.coldstart.recipe import WorldDescriber
from saccade.coldstart.store import WRITING, Store, StoreError
from saccade.coldstart.teachers import TeacherError
from saccade.coldstart.world_teachers import OracleDescriber
from saccade.runs.drafts import Chain, Draft, Rejection, StepRecord, shallow_dict
from saccade.world import WorldConfig

SPAWN = multiprocessing.get_context("spawn")


def draft(number: int, text: str = "") -> Draft:
    return Draft(f"r{number}", f"Row {number}? {text}", str(number), "count", "rows", ("a.png",), ("0" * 64,))


def body(text: str) -> dict[str, Any]:
    """The result of a step that writes a text."""
    return {"text": text, "record": shallow_dict(StepRecord("description", "m", "p@1:0", {}, 5, 6, 0.0, 0.1, False))}


def filled(path: Path, n: int, lease_s: float = 60.0) -> Store:
    store = Store(path, lease_s)
    store.add((f"0/{i}", draft(i)) for i in range(n))
    return store


def test_a_draft_round_trips_through_json() -> None:
    step = StepRecord("reasoning", "m", "p@1:0", {"seed": 1}, 5, 6, 0.5, 1.5, True, "length", 2, "caption")
    chain = Chain("t", "3", 1, "bridged", True, "number", "stop", 9, "p", (Rejection("f", "r", "d"),))
    full = Draft(
        "i", "q\ud800", [1, 2], "count", "s", ("a",), ("b",), {"o": [1]}, "c", "p", "d", (chain,), (step,), (0,)
    )
    assert Draft.from_json(full.to_json()) == full
    assert full.saw_answer and full.difficulty == "easy"


def test_a_row_is_claimed_by_one_owner_until_its_lease_ends(tmp_path: Path) -> None:
    first, second = filled(tmp_path / "s", 5, lease_s=1.0), Store(tmp_path / "s")
    mine = first.claim(3)
    theirs = second.claim(9)
    assert [one.number for one in mine] + [one.number for one in theirs] == [1, 2, 3, 4, 5]
    assert second.claim(1) == []
    first._db.execute("UPDATE rows SET lease = 0 WHERE owner = ?", (first.owner,))  # its lease expired
    assert [one.number for one in second.claim(9)] == [1, 2, 3]
    assert not first.save(1, "pseudo_cot", {}) and not first.finish(1)
    assert second.save(1, "pseudo_cot", {"text": "x"}) and second.finish(1)


def test_rows_with_equal_ids_are_all_kept_and_adding_rows_twice_is_idempotent(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    rows = [("0/0", draft(7)), ("0/1", draft(7))]
    assert store.add(rows) == 2 and store.add(rows) == 0 and store.counts().total == 2


def test_a_step_is_saved_once_and_returned_with_its_row(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", 1)
    store.claim(1)
    assert store.save(1, "caption", body("first \ud800"))
    assert not store.save(1, "caption", body("second"))
    store.put_back(1, "status 500", "", 0.0)
    (claim,) = store.claim(1)
    assert claim.steps == {"caption": body("first \ud800")} and claim.attempts == 1


def test_only_retriable_failed_rows_are_reopened(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", 2)
    store.claim(2)
    store.fail(1, "status 500", "", retriable=True)
    store.fail(2, "image does not open", "gone", retriable=False)
    assert store.reasons() == {"image does not open": 1, "status 500": 1}
    assert store.reopen() == 1
    assert [one.number for one in store.claim(9)] == [1]


def test_a_retry_pause_is_respected(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", 1)
    store.claim(1)
    store.put_back(1, "status 429", "", 60.0)
    assert store.claim(1) == [] and store.counts().open == 1


def _work(path: str, barrier: Any) -> None:
    with Store(Path(path)) as store:
        barrier.wait()
        claims = store.claim(3)
        barrier.wait()  # both have rows before either can take them all
        while claims:
            for claim in claims:
                assert store.save(claim.number, "description", body(store.owner))
                assert store.finish(claim.number)
            claims = store.claim(3)


def test_processes_that_share_a_store_do_each_row_once(tmp_path: Path) -> None:
    filled(tmp_path / "s", 300).close()
    barrier = SPAWN.Barrier(2)
    workers = [SPAWN.Process(target=_work, args=(str(tmp_path / "s"), barrier), daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    with Store(tmp_path / "s") as store:
        owners = [steps["description"]["text"] for _, _, steps in store.finished()]
    assert len(owners) == 300 and len(set(owners)) == 2


def _claim_and_wait(path: str, claimed: Any) -> None:
    store = Store(Path(path), lease_s=3600.0)
    store.claim(4)
    store.acquire_lock("writing the set")
    claimed.set()
    signal.pause()


def test_rows_of_a_killed_process_are_free_at_once(tmp_path: Path) -> None:
    filled(tmp_path / "s", 4).close()
    claimed = SPAWN.Event()
    worker = SPAWN.Process(target=_claim_and_wait, args=(str(tmp_path / "s"), claimed), daemon=True)
    worker.start()
    assert claimed.wait(30)
    with Store(tmp_path / "s") as store:
        assert store.release_dead() == 0 and store.claim(4) == []  # it is alive
        assert store.acquire_lock("writing the set") is not None
        os.kill(worker.pid or 0, signal.SIGKILL)
        worker.join(30)
        assert store.release_dead() == 1 and len(store.claim(4)) == 4
        assert store.acquire_lock("writing the set") is None


def elsewhere(store: Store, **changes: Any) -> Store:
    """The store as another process opened it: on another machine, or one before that had the same id."""
    store.owner = json.dumps({**json.loads(store.owner), **changes})
    return store


def test_a_restarted_container_does_not_wait_for_the_process_that_had_its_id(tmp_path: Path) -> None:
    before = elsewhere(filled(tmp_path / "s", 3), began=time.time() - 9_999)
    assert len(before.claim(3)) == 3 and before.acquire_lock(WRITING) is None
    with Store(tmp_path / "s") as store:
        assert store.release_dead() == 1 and len(store.claim(9)) == 3
        assert store.acquire_lock(WRITING) is None


@pytest.mark.parametrize("machine", [{"host": "pod-1"}, {"pids": "pid:[1]"}])
def test_a_lock_from_another_machine_or_container_holds_while_it_is_renewed(
    tmp_path: Path, machine: dict[str, str]
) -> None:
    one = elsewhere(filled(tmp_path / "s", 1, lease_s=0.3), **machine)
    two = Store(tmp_path / "s", lease_s=0.3)
    assert one.acquire_lock(WRITING) is None and two.acquire_lock(WRITING) == one.owner
    time.sleep(0.2)
    one.keep_lock(WRITING)
    time.sleep(0.2)
    assert two.acquire_lock(WRITING) == one.owner  # renewed
    time.sleep(0.2)
    assert two.acquire_lock(WRITING) is None
    one._renewed = 0.0
    with pytest.raises(StoreError, match=rf"s: this process did not answer for 0\.3 s.*process {os.getpid()} on"):
        one.keep_lock(WRITING)
    one.release_lock(WRITING)
    assert one.acquire_lock(WRITING) == two.owner, "the lock of another is not released"


def test_no_lease_or_pause_of_a_clock_that_was_ahead_holds_a_row(tmp_path: Path) -> None:
    other, store = elsewhere(filled(tmp_path / "s", 4), host="pod-1"), Store(tmp_path / "s")
    assert len(other.claim(1)) == 1 and other.acquire_lock(WRITING) is None
    assert store.release_dead() == 0, "the lease counts"
    tomorrow = time.time() + 86_400
    store._db.execute("UPDATE rows SET lease = ? WHERE number IN (1, 2)", (tomorrow,))
    store._db.execute("UPDATE rows SET not_before = ? WHERE number = 3", (tomorrow,))
    store._db.execute("UPDATE rows SET owner = 'zz', lease = 'zz', attempts = 'zz' WHERE number = 4")
    store._db.execute("UPDATE facts SET value = ?", (json.dumps([other.owner, tomorrow]),))
    assert store.release_dead() == 2 and store.reopen() == 0
    assert [(one.number, one.attempts) for one in store.claim(9)] == [(1, 0), (2, 0), (3, 0), (4, 0)]
    assert store.acquire_lock(WRITING) is None


CELLS = {
    "rows": (
        "number",
        "key",
        "source",
        "draft",
        "state",
        "owner",
        "lease",
        "not_before",
        "attempts",
        "reason",
        "detail",
    ),
    "steps": ("step", "body"),
    "left_out": ("source", "place", "reason", "detail"),
}
ODD = (
    "CAST(x'ff' || substr(CAST({0} AS BLOB), 2) AS TEXT)",
    "CAST(CAST({0} AS BLOB) || x'ff' AS TEXT)",
    *("CAST(x'22eda08022' AS TEXT)", "x'ff00'", "''", "1.5", "9e999", "-7", f"{2**63 - 1}", f"{-(2**63)}"),
)
"""No UTF-8, half of a surrogate pair, bytes, nothing, numbers."""


@pytest.mark.parametrize("state", ["open", "done", "failed"])
def test_an_odd_cell_costs_its_own_row_at_most_and_none_goes_in_silence(tmp_path: Path, state: str) -> None:
    whole, store = sqlite3.connect(":memory:"), filled(tmp_path / "s", 3)
    steps = [(number, "description", json.dumps(body("x"))) for number in (1, 2, 3)]
    store._db.executemany("INSERT INTO steps VALUES (?, ?, ?)", steps)
    store._db.execute("UPDATE rows SET state = 'done'")
    given = "retriable = 0, reason = 'r', detail = 'd', owner = 'zz', lease = 9e99"
    store._db.execute(f"UPDATE rows SET state = ?, {given} WHERE number = 2", (state,))
    store.skip([("s", "p", "r", "d")])
    store._db.backup(whole)
    for table, cell, odd in [(t, cell, odd) for t, cells in CELLS.items() for cell in cells for odd in ODD]:
        whole.backup(store._db)
        where = "" if table == "left_out" else " WHERE number = 2"
        with suppress(sqlite3.IntegrityError):  # a number of a row is one
            store._db.execute(f"UPDATE {table} SET {cell} = {odd.format(cell)}{where}")
        store.release_dead()
        store.reopen()
        assert all(claim.attempts >= 0 and store.finish(claim.number) for claim in store.claim(9)), (cell, odd)
        kept = [draft.id for _, draft, _ in store.finished()]
        left, counts = list(store.skipped()), store.counts()
        assert {"r0", "r2"} <= set(kept) <= {"r0", "r1", "r2"}, (cell, odd)
        assert counts.total == 3 and not counts.open and len(kept) + len(left) == 4, (cell, odd)
        assert all(isinstance(text, str) for row in left for text in row), (cell, odd)
        assert sum(store.reasons().values()) == len(left), (cell, odd)


def test_a_reason_that_utf8_cannot_write_is_kept_as_its_escape(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", 2)
    store.claim(2)
    assert store.put_back(1, "bad", "of \ud800", 0.0) and store.fail(2, "bad", "of \ud800", retriable=False)
    assert [detail for *_, detail in store.skipped()] == ["of \\ud800"]


@pytest.mark.parametrize("key", ["seed", "index", "split"])
@pytest.mark.parametrize("value", [None, [], {}, "zz", 2**70])
def test_a_row_of_the_world_with_odd_meta_costs_itself(key: str, value: Any) -> None:
    describer = OracleDescriber(WorldDescriber(teacher="world"), {"rows": WorldConfig()})
    meta = {"world_kind": "shapes", "seed": 1, "index": 2, "split": "train", key: value}
    row = replace(draft(1), meta={k: v for k, v in meta.items() if v is not None})
    with suppress(TeacherError) if key != "split" and value in ("zz", 2**70) else pytest.raises(TeacherError):
        describer._item(row)


def test_a_full_disk_is_reported_and_loses_nothing(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", 20)
    store.claim(20)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreError, match=r"full.*free some space and run again"):
        for number in range(1, 21):
            store.save(number, "description", {"text": "x" * 3000})
    kept = store._db.execute("SELECT COUNT(*) FROM steps").fetchone()[0]
    assert 0 < kept < 20
    store._db.execute("PRAGMA max_page_count = 1000000")
    for number in range(kept + 1, 21):
        assert store.save(number, "description", {"text": "x" * 3000})
    assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_file_that_is_not_a_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("this is a shopping list, not a data base" * 50)
    with pytest.raises(StoreError, match="not a row store"):
        Store(tmp_path / "s")


def _peak(work: Callable[[], None]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _pass_through(path: Path, n: int) -> None:
    with Store(path) as store:
        for begin in range(0, n, 256):
            store.add((f"0/{i}", draft(i, "word " * 40)) for i in range(begin, min(n, begin + 256)))
        while claims := store.claim(16):
            for claim in claims:
                store.save(claim.number, "description", body("thought " * 100))
                store.finish(claim.number)
        assert sum(1 for _ in store.finished()) == n


@pytest.mark.parametrize("n", [pytest.param(2_000), pytest.param(100_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, n: int) -> None:
    few = _peak(lambda: _pass_through(tmp_path / "few", 500))
    many = _peak(lambda: _pass_through(tmp_path / "many", n))
    assert many < 1.2 * few + 100_000


TRIGGER = "CREATE TRIGGER t AFTER UPDATE ON rows BEGIN DELETE FROM steps; END;"
LYING = "PRAGMA writable_schema=ON; UPDATE sqlite_master SET {} WHERE name = 't'; PRAGMA writable_schema=OFF"


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE rows ADD COLUMN more TEXT GENERATED ALWAYS AS (printf('%.*c', 900000000, 'a')) VIRTUAL",
        "CREATE TRIGGER t AFTER UPDATE ON rows BEGIN DELETE FROM steps; END",
        "CREATE TRIGGER t AFTER UPDATE ON rows BEGIN DELETE FROM steps; END;" + LYING.format("tbl_name = 'notes'"),
        "CREATE TRIGGER t AFTER UPDATE ON rows BEGIN DELETE FROM steps; END;"
        + LYING.format("tbl_name = CAST('rows' AS BLOB)"),
        "CREATE TABLE t (a);" + LYING.format("sql = CAST(sql AS BLOB)"),
        "CREATE TABLE t (a);" + LYING.format("tbl_name = NULL, name = NULL"),
        "CREATE INDEX i ON steps (printf('%.*c', 9, body))",
        "DROP TABLE facts; CREATE VIEW facts AS SELECT 'taken_in' AS name, 'true' AS value",
        "DROP TABLE steps; CREATE TABLE Steps (number, step, body DEFAULT (printf('%.*c', 900000000, 'a')))",
        "CREATE VIEW mine AS SELECT * FROM rows",
    ],
)
def test_a_store_that_may_compute_something_is_refused(tmp_path: Path, change: str) -> None:
    filled(tmp_path / "rows.sqlite", 2).close()
    with sqlite3.connect(tmp_path / "rows.sqlite") as db:
        db.executescript(change)
    with pytest.raises(StoreError, match=r"rows.sqlite: .*; the file is not a row"):
        Store(tmp_path / "rows.sqlite")


def test_a_store_that_was_analyzed_and_compacted_is_ours(tmp_path: Path) -> None:
    filled(tmp_path / "rows.sqlite", 2).close()
    with sqlite3.connect(tmp_path / "rows.sqlite") as db:
        db.executescript("ANALYZE; VACUUM")
    with Store(tmp_path / "rows.sqlite") as store:
        assert store.counts().total == 2


@pytest.mark.parametrize("released", [True, False])
def test_a_process_that_stood_still_does_not_write_where_another_has_been(tmp_path: Path, released: bool) -> None:
    with filled(tmp_path / "s", 1) as one, Store(tmp_path / "s", 60.0) as two:
        assert one.acquire_lock(WRITING) is None
        one.remember(WRITING, [one.owner, 0.0])  # its lease ended
        assert two.acquire_lock(WRITING) is None
        if released:
            two.release_lock(WRITING)
        one._renewed -= 60.0
        with pytest.raises(
            StoreError, match=r"did not answer for 60 s .* in its place, or has done so; nothing is lost"
        ):
            one.keep_lock(WRITING)
        with pytest.raises(StoreError, match="in its place"):
            one.add([("0/9", draft(9))], WRITING)
        assert one.counts().total == 1

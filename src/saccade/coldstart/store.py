"""Storage for the rows of a cold start: a SQLite file shared by several processes that survives being killed.

A row is claimed with a lease and belongs to its owner until the lease expires. Each step result has its own database
row, so that it is paid for and saved once. Only one page of rows is in memory at a time.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from saccade.coldstart.cells import checked, decoded, json_or_cell, refuse_endless, storable, text_or_bytes, words_of
from saccade.coldstart.steps import assemble
from saccade.data.records import BROKEN, shown
from saccade.disk import open_database
from saccade.runs.drafts import Draft, to_json_line
from saccade.runs.lock import is_alive, process_words, shown_process

log = logging.getLogger(__name__)
T = TypeVar("T")

NAME = "rows.sqlite"
READING, WRITING = "reading the data", "writing the set"
"""Locks of the process that does so."""
WAIT_S = 0.5
"""Polling interval while another process is to do something."""
PAGE = 200
_STORES = itertools.count(1)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
  number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, source TEXT NOT NULL, draft TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'open', owner TEXT, lease REAL NOT NULL DEFAULT 0, not_before REAL NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0, reason TEXT, detail TEXT, retriable INTEGER NOT NULL DEFAULT 1);
CREATE INDEX IF NOT EXISTS rows_by_state ON rows (state);
CREATE INDEX IF NOT EXISTS owned_rows ON rows (owner) WHERE owner IS NOT NULL;
CREATE TABLE IF NOT EXISTS steps (
  number INTEGER NOT NULL, step TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (number, step)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS left_out (source TEXT NOT NULL, place TEXT NOT NULL, reason TEXT NOT NULL,
  detail TEXT NOT NULL, PRIMARY KEY (source, place));
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class StoreError(OSError):
    """The store cannot be read or written; its content is intact."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A row claimed by this process."""

    number: int
    draft: Draft
    steps: Mapping[str, Any]
    """Step name -> result, from earlier attempts."""
    attempts: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows by state."""

    open: int
    done: int
    failed: int

    @property
    def total(self) -> int:
        return self.open + self.done + self.failed


class Store:
    """The rows of one set. One object per thread; any number of processes per file."""

    def __init__(self, path: Path, lease_s: float = 120.0) -> None:
        """Opens or creates the file. StoreError when it is not a store."""
        self.path, self.lease_s = path, lease_s
        self.owner = process_words(store=next(_STORES))
        self._renewed = 0.0
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._translate_errors():
            self._db = open_database(path, _SCHEMA, timeout_s=60.0)
            self._db.text_factory = text_or_bytes
            self._db.execute("PRAGMA cache_size=-16000")

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ----------------------------------------------------------------------------------------------------- add rows

    def clear(self) -> None:
        """Forgets the rows for which nothing was made yet, and those that were left out."""
        with self._transaction() as db:
            db.execute("DELETE FROM rows WHERE number NOT IN (SELECT number FROM steps)")
            db.execute("DELETE FROM left_out")

    def add(self, rows: Iterable[tuple[str, Draft]], lock: str | None = None) -> int:
        """Adds rows by key; existing ones are kept. Returns the number of new rows. StoreError without the `lock`."""
        new = 0
        with self._transaction() as db:
            if lock is not None:
                self._require(lock)
            for key, draft in rows:
                values = (key, draft.source, draft.to_json())
                new += db.execute("INSERT OR IGNORE INTO rows (key, source, draft) VALUES (?, ?, ?)", values).rowcount
        return new

    def skip(self, rows: Iterable[tuple[str, str, str, str]]) -> None:
        """Records unusable rows as (source, place, reason, detail); each place counts once."""
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO left_out VALUES (?, ?, ?, ?)", rows)

    # ------------------------------------------------------------------------------------------------- work

    def claim(self, n: int) -> list[Claim]:
        """Claims up to n unclaimed rows whose retry delay is over, in order. Damaged ones fail."""
        now = time.time()
        with self._transaction() as db:
            found = db.execute(
                "SELECT number, draft, attempts FROM rows WHERE state = 'open' AND (owner IS NULL OR lease < ?)"
                " AND not_before <= ? ORDER BY number LIMIT ?",
                (now, now, n),
            ).fetchall()
            claims = [(self.owner, now + self.lease_s, number) for number, _, _ in found]
            db.executemany("UPDATE rows SET owner = ?, lease = ? WHERE number = ?", claims)
            read = [(number, self._read(number, text), attempts) for number, text, attempts in found]
            return [Claim(number, *row, attempts) for number, row, attempts in read if row is not None]

    def save(self, number: int, step: str, body: Any) -> bool:
        """Saves the result of a step. False when this process no longer owns the row or the step already exists."""
        with self._translate_errors():
            saved = self._db.execute(
                "INSERT OR IGNORE INTO steps SELECT number, ?, ? FROM rows WHERE number = ? AND owner = ?",
                (step, to_json_line(body), number, self.owner),
            )
        return saved.rowcount == 1

    def finish(self, number: int) -> bool:
        """Marks a row as done; False when it is no longer owned by this process."""
        return self._settle(number, "state = 'done', reason = NULL, detail = NULL")

    def give_up(self, number: int) -> bool:
        """Frees a row of this process, which is claimed again with all steps that there are by then."""
        return self._settle(number, "state = 'open'")

    def put_back(self, number: int, reason: str, detail: str, pause_s: float) -> bool:
        """Records a failed attempt: the row is retried, by any process, after the pause."""
        values = (reason, detail, time.time() + pause_s)
        return self._settle(number, "attempts = attempts + 1, reason = ?, detail = ?, not_before = ?", values)

    def fail(self, number: int, reason: str, detail: str, retriable: bool) -> bool:
        """Marks a row as failed; `reopen` reopens retriable ones."""
        values = (reason, detail, int(retriable))
        return self._settle(number, "state = 'failed', reason = ?, detail = ?, retriable = ?", values)

    def _settle(self, number: int, change: str, values: tuple[Any, ...] = ()) -> bool:
        values = tuple(storable(one) if isinstance(one, str) else one for one in values)
        with self._translate_errors():
            changed = self._db.execute(
                f"UPDATE rows SET owner = NULL, lease = 0, {change} WHERE number = ? AND owner = ?",
                (*values, number, self.owner),
            )
        return changed.rowcount == 1

    def renew(self) -> None:
        """Extends the leases of this process."""
        with self._translate_errors():
            self._db.execute("UPDATE rows SET lease = ? WHERE owner = ?", (time.time() + self.lease_s, self.owner))

    def release(self) -> None:
        """Frees the rows of this process."""
        with self._translate_errors():
            self._db.execute("UPDATE rows SET owner = NULL, lease = 0 WHERE owner = ?", (self.owner,))

    def release_dead(self) -> int:
        """Frees the rows of owners whose lease does not count, though it has not ended."""
        owner = "CAST(owner AS BLOB)"  # what is no text is none that could be asked for as one
        query = f"SELECT {owner}, MAX(lease) FROM rows WHERE owner IS NOT NULL GROUP BY {owner}"
        free = f"UPDATE rows SET owner = NULL, lease = 0 WHERE owner IS NOT NULL AND {owner} = ?"
        with self._translate_errors():
            owners = self._db.execute(query).fetchall()
            dead = [(words,) for words, lease in owners if not self._counts(words, lease)]
            self._db.executemany(free, dead)
        return len(dead)

    def _counts(self, owner: str | bytes, lease: Any) -> bool:
        """Whether a lease is to be respected until it ends: not of a dead process of this machine, and on another one
        only one that it can have given itself, unless its clock was ahead or the file is damaged."""
        alive = is_alive(owner)
        given = isinstance(lease, int | float) and lease <= time.time() + 2 * self.lease_s
        return given if alive is None else alive

    def reopen(self) -> int:
        """Reopens rows that failed for a retriable reason, are in no state that there is, or done without a step;
        returns how many. No open row keeps its pause: a clock may have been ahead."""
        bare = "state = 'done' AND NOT EXISTS (SELECT 1 FROM steps WHERE steps.number = rows.number)"
        again = f"(state = 'failed' AND retriable) OR COALESCE(state, '') NOT IN ('open', 'done', 'failed') OR ({bare})"
        waiting = "state = 'open' AND (not_before IS NOT 0 OR typeof(attempts) != 'integer' OR attempts < 0)"
        with self._transaction() as db:
            reopened = db.execute(f"UPDATE rows SET state = 'open', attempts = 0, not_before = 0 WHERE {again}")
            attempts = "MAX(0, CAST(IFNULL(attempts, 0) AS INTEGER))"
            db.execute(f"UPDATE rows SET not_before = 0, attempts = {attempts} WHERE {waiting}")
            return reopened.rowcount

    # ------------------------------------------------------------------------------------------------- queries

    def counts(self) -> Counts:
        with self._translate_errors():
            rows = dict(self._db.execute("SELECT state, COUNT(*) FROM rows GROUP BY state"))
        return Counts(rows.get("open", 0), rows.get("done", 0), rows.get("failed", 0))

    def reasons(self) -> dict[str, int]:
        """Counts of why rows failed or were skipped."""
        every = "SELECT reason FROM rows WHERE state = 'failed' UNION ALL SELECT reason FROM left_out"
        counts = Counter[str]()
        with self._translate_errors():
            for reason, n in self._db.execute(f"SELECT reason, COUNT(*) FROM ({every}) GROUP BY reason"):
                counts[words_of(reason)] += n
        return dict(sorted(counts.items()))

    def skipped(self) -> Iterator[tuple[str, str, str, str]]:
        """(source, place, reason, detail) of unusable and failed rows."""
        failed = "SELECT source, key, reason, detail FROM rows WHERE state = 'failed'"
        with self._translate_errors():
            for cells in self._db.execute(f"SELECT source, place, reason, detail FROM left_out UNION ALL {failed}"):
                source, place, reason, detail = map(words_of, cells)
                yield source, place, reason, detail

    def finished(self) -> Iterator[tuple[str, Draft, dict[str, Any]]]:
        """(key, ingested draft, steps) of the finished rows, in order, read a page at a time. Damaged ones fail."""
        last = -math.inf
        while True:
            with self._translate_errors():
                page = self._db.execute(
                    "SELECT number, key, draft FROM rows WHERE state = 'done' AND number > ? ORDER BY number LIMIT ?",
                    (last, PAGE),
                ).fetchall()
                rows = [(words_of(key), self._read(number, text)) for number, key, text in page]
            if not page:
                return
            yield from ((key, *row) for key, row in rows if row is not None)
            last = page[-1][0]

    def _read(self, number: int, text: Any) -> tuple[Draft, dict[str, Any]] | None:
        """Draft and steps of a row. None for a damaged one, which fails until the file is repaired."""
        steps: dict[str, Any] = {}
        what, way = "its draft", "restore the file from a copy, or set another 'out'"
        try:
            draft = checked(Draft.from_json(decoded(text)))
            what = "a step"
            way = f'to have its steps made again: sqlite3 {self.path} "DELETE FROM steps WHERE number = {number}"'
            bodies = self._db.execute("SELECT step, body FROM steps WHERE number = ? ORDER BY step", (number,))
            for step, body in bodies:
                what = f"step {shown(step)}"
                steps[decoded(step)] = result = json.loads(decoded(body))
                refuse_endless(assemble(draft, {step: result}))
            return draft, steps
        except BROKEN as error:
            why = f"{self.path}: row {number}: {what} cannot be read ({type(error).__name__}: {error}); {way}"
            change = "UPDATE rows SET state = 'failed', owner = NULL, lease = 0, reason = 'damaged row', detail = ?,"
            self._db.execute(f"{change} retriable = 1 WHERE number = ?", (storable(why), number))
            return None

    # ------------------------------------------------------------------------------------------------- facts

    def fact(self, name: str, kind: type[T]) -> T | None:
        """A stored value about the whole set; None if absent. StoreError when it is of another kind."""
        with self._translate_errors():
            row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        if row is None:
            return None
        if not isinstance(value := json_or_cell(row[0]), kind):
            way = (
                "restore the file from a copy, or, to have it noted again from the recipe of this start, sqlite3 "
                f"{self.path} \"DELETE FROM facts WHERE name = '{name}'\"; rows are kept. Or set another 'out'"
            )
            raise StoreError(f"{self.path}: fact '{name}' is {shown(row[0])}, expected a {kind.__name__}; {way}")
        return value

    def remember(self, name: str, value: Any) -> None:
        with self._translate_errors():
            self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def acquire_lock(self, name: str) -> str | None:
        """Acquires a named lock, with a lease as rows have it, or renews it. Returns None on success, else the process
        that holds it."""
        with self._transaction():
            if (holder := self._holder(name)) not in (None, self.owner):
                return holder
            self._lease(name)
        return None

    def wait_for_lock(self, name: str) -> str | None:
        """Acquires a lock, and waits while another process holds it; returns the last one that did."""
        other = None
        while (holder := self.acquire_lock(name)) is not None:
            if other is None:
                words = "%s is %s; waiting for it, or for the end of its lease of %g s (lease_s)"
                log.info(words, shown_process(holder), name, self.lease_s)
            other = holder
            time.sleep(WAIT_S)
        return other

    def keep_lock(self, name: str) -> None:
        """Renews a lock of this process when it is time. StoreError when another process has had it since."""
        if abs(time.time() - self._renewed) >= self.lease_s / 3:
            with self._transaction():
                self._require(name)
                self._lease(name)

    def _lease(self, name: str) -> None:
        self._renewed = time.time()
        value = json.dumps([self.owner, self._renewed + self.lease_s])
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def _require(self, name: str) -> None:
        if (owner := self._lock(name)[0]) != self.owner:
            other = "another process" if owner is None else shown_process(owner)
            raise StoreError(
                f"{self.path}: this process did not answer for {self.lease_s:g} s (lease_s), so {other} is {name} in "
                "its place, or has done so; nothing is lost. Run the same command again"
            )

    def release_lock(self, name: str) -> None:
        """Releases a lock held by this process."""
        with self._transaction() as db:
            if self._holder(name) == self.owner:
                db.execute("DELETE FROM facts WHERE name = ?", (name,))

    def _holder(self, name: str) -> str | None:
        """Who holds a lock with a lease that counts."""
        owner, until = self._lock(name)
        return owner if owner is not None and until >= time.time() and self._counts(owner, until) else None

    def _lock(self, name: str) -> tuple[str | None, float]:
        """Whose a lock is, and until when."""
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        match None if row is None else json_or_cell(row[0]):
            case [str(owner), int(until) | float(until)]:
                return owner, until
        return None, 0.0

    # ------------------------------------------------------------------------------------------------- SQLite

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction, committed or rolled back as a whole."""
        with self._translate_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            hint = "the file is not a row store; set another 'out'"
            if "full" in str(error) or "I/O" in str(error):
                hint = "free some space and run again: everything written so far is kept"
            elif "locked" in str(error):
                hint = "another process has locked it for over a minute; use a local disk, not a network share"
            raise StoreError(f"{self.path}: {error}; {hint}") from error

"""Storage for the rows of a cold start: a SQLite file shared by several processes that survives being killed.

A row is claimed with a lease and belongs to its owner until the lease expires. Each step result has its own database
row, so that it is paid for and saved once. Only one page of rows is in memory at a time.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from saccade.runs.drafts import Draft, to_json_line

NAME = "rows.sqlite"
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
        self.owner = owner_name()
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._translate_errors():
            self._db = sqlite3.connect(path, timeout=60.0, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA cache_size=-16000")
            self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ----------------------------------------------------------------------------------------------------- add rows

    def add(self, rows: Iterable[tuple[str, Draft]]) -> int:
        """Adds rows by key; existing ones are kept. Returns the number of new rows."""
        new = 0
        with self._transaction() as db:
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
        """Claims up to n unclaimed rows whose retry delay is over, in order."""
        now = time.time()
        with self._transaction() as db:
            found = db.execute(
                "SELECT number, draft, attempts FROM rows WHERE state = 'open' AND lease < ? AND not_before <= ?"
                " ORDER BY number LIMIT ?",
                (now, now, n),
            ).fetchall()
            claims = [(self.owner, now + self.lease_s, number) for number, _, _ in found]
            db.executemany("UPDATE rows SET owner = ?, lease = ? WHERE number = ?", claims)
            return [
                Claim(number, Draft.from_json(text), self._steps(number), attempts) for number, text, attempts in found
            ]

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

    def put_back(self, number: int, reason: str, detail: str, pause_s: float) -> bool:
        """Records a failed attempt: the row is retried, by any process, after the pause."""
        values = (reason, detail, time.time() + pause_s)
        return self._settle(number, "attempts = attempts + 1, reason = ?, detail = ?, not_before = ?", values)

    def fail(self, number: int, reason: str, detail: str, retriable: bool) -> bool:
        """Marks a row as failed; `reopen` reopens retriable ones."""
        values = (reason, detail, int(retriable))
        return self._settle(number, "state = 'failed', reason = ?, detail = ?, retriable = ?", values)

    def _settle(self, number: int, change: str, values: tuple[Any, ...] = ()) -> bool:
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

    def release(self, owner: str | None = None) -> None:
        """Frees the rows of an owner (default: this process)."""
        with self._translate_errors():
            self._db.execute("UPDATE rows SET owner = NULL, lease = 0 WHERE owner = ?", (owner or self.owner,))

    def release_dead(self) -> int:
        """Frees the rows of dead processes of this machine without waiting for their leases."""
        with self._translate_errors():
            owners = [row[0] for row in self._db.execute("SELECT DISTINCT owner FROM rows WHERE owner IS NOT NULL")]
        dead = [owner for owner in owners if _is_dead(owner)]
        for owner in dead:
            self.release(owner)
        return len(dead)

    def reopen(self) -> int:
        """Reopens rows that failed for a retriable reason; returns how many."""
        with self._translate_errors():
            return self._db.execute(
                "UPDATE rows SET state = 'open', attempts = 0, not_before = 0 WHERE state = 'failed' AND retriable"
            ).rowcount

    # ------------------------------------------------------------------------------------------------- queries

    def counts(self) -> Counts:
        with self._translate_errors():
            rows = dict(self._db.execute("SELECT state, COUNT(*) FROM rows GROUP BY state"))
        return Counts(rows.get("open", 0), rows.get("done", 0), rows.get("failed", 0))

    def reasons(self) -> dict[str, int]:
        """Counts of why rows failed or were skipped."""
        with self._translate_errors():
            query = "SELECT reason, COUNT(*) FROM (SELECT reason FROM rows WHERE state = 'failed' UNION ALL"
            return dict(self._db.execute(f"{query} SELECT reason FROM left_out) GROUP BY reason ORDER BY reason"))

    def skipped(self) -> Iterator[tuple[str, str, str, str]]:
        """(source, place, reason, detail) of unusable and failed rows."""
        failed = "SELECT source, key, reason, detail FROM rows WHERE state = 'failed'"
        with self._translate_errors():
            yield from self._db.execute(f"SELECT source, place, reason, detail FROM left_out UNION ALL {failed}")

    def finished(self) -> Iterator[tuple[int, Draft, dict[str, Any]]]:
        """(number, ingested draft, steps) of the finished rows, in order, read a page at a time."""
        last = -1
        while True:
            with self._translate_errors():
                page = self._db.execute(
                    "SELECT number, draft FROM rows WHERE state = 'done' AND number > ? ORDER BY number LIMIT ?",
                    (last, PAGE),
                ).fetchall()
                steps = [self._steps(number) for number, _ in page]
            if not page:
                return
            for (number, text), own in zip(page, steps, strict=True):
                yield number, Draft.from_json(text), own
            last = page[-1][0]

    def _steps(self, number: int) -> dict[str, Any]:
        found = self._db.execute("SELECT step, body FROM steps WHERE number = ? ORDER BY step", (number,))
        return {step: json.loads(body) for step, body in found}

    # ------------------------------------------------------------------------------------------------- facts

    def fact(self, name: str) -> Any:
        """A stored value about the whole set; None if absent."""
        with self._translate_errors():
            row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def remember(self, name: str, value: Any) -> None:
        with self._translate_errors():
            self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def acquire_lock(self, name: str) -> str | None:
        """Acquires a named lock. Returns None on success, else the name of the live process that holds it."""
        with self._transaction() as db:
            row = db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
            holder = None if row is None else json.loads(row[0])
            if holder not in (None, self.owner) and not _is_dead(holder):
                return holder
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(self.owner)))
        return None

    def release_lock(self, name: str) -> None:
        """Releases a lock held by this process."""
        with self._translate_errors():
            self._db.execute("DELETE FROM facts WHERE name = ? AND value = ?", (name, json.dumps(self.owner)))

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


def owner_name() -> str:
    """Host, process id, start time of the process (ids are reused), number of the store in the process."""
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.2f}:{next(_STORES)}"


def _is_dead(owner: str) -> bool:
    """True only for a dead process of this machine; the state of other machines is unknown."""
    host, pid, began, _ = owner.rsplit(":", 3)
    if host != socket.gethostname() or int(pid) == os.getpid():
        return False
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(began)) > 1.0
    except psutil.NoSuchProcess:
        return True

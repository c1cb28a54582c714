"""Disk cache of responses, so that the same request is paid for once. A SQLite file shared by threads and processes.

SQLite and JSON because they ship with Python and loading them cannot execute code.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from saccade.disk import AGAIN, open_database, writing

log = logging.getLogger(__name__)
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, model TEXT, body TEXT NOT NULL, written REAL NOT NULL);"
)
T = TypeVar("T")


class ReplyCache:
    """A table from the hash of a request to the JSON of its response."""

    def __init__(self, path: str | Path) -> None:
        """Opens or creates the file. Raises ValueError when it is not a reply cache, DiskError when it cannot be
        written."""
        self.path = Path(path)
        self._lock, self._warned = threading.Lock(), set[str]()
        with writing(self.path.parent, f"{self.path.name} is not open, and no reply was paid for; {AGAIN}"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._database = open_database(self.path, _SCHEMA, timeout_s=30.0, any_thread=True)
            except sqlite3.Error as error:
                raise ValueError(f"{path}: not a reply cache ({error}); delete the file or use another path") from None

    def get(self, key: str, parse: Callable[[Any], T]) -> T | None:
        """What `parse` makes of the stored response, or None. A damaged one, which is no JSON or which `parse` refuses
        by a ValueError, is removed, so that its request is sent again; a file that cannot be read holds none."""
        try:
            with self._lock:
                row = self._database.execute("SELECT body FROM replies WHERE key = ?", (key,)).fetchone()
                try:
                    return None if row is None else parse(json.loads(row[0]))
                except (ValueError, TypeError, RecursionError) as error:
                    self._warn("a reply in it is damaged", error)
                    self._database.execute("DELETE FROM replies WHERE key = ?", (key,))
        except sqlite3.Error as error:
            self._warn("replies cannot be read", error)
        return None

    def put(self, key: str, model: str, body: Any) -> None:
        """Stores a response; the first one stored for a key is kept. When the file cannot be written, a warning says so
        once, and the response, which was paid for, is used all the same."""
        row = (key, model, json.dumps(body), time.time())
        try:
            with self._lock:
                self._database.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            self._warn("replies are not cached", error)

    def _warn(self, what: str, error: Exception) -> None:
        """Once for each file and kind."""
        if what not in self._warned:
            log.warning("%s: %s (%s); such requests are sent, and paid for, again", self.path, what, error)
        self._warned.add(what)

    def __len__(self) -> int:
        with self._lock:
            return self._database.execute("SELECT COUNT(*) FROM replies").fetchone()[0]

    def close(self) -> None:
        with self._lock:
            self._database.close()


def request_key(url: str, body: Mapping[str, Any]) -> str:
    """SHA-256 of address and body including images; never of the API key."""
    text = json.dumps([url, body], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

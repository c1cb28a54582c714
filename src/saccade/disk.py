"""Writing to a disk that may be full, read-only or gone: space checked before, files whole or absent, errors in one
line."""

from __future__ import annotations

import errno
import glob
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import psutil

PARTIAL = ".partial"
"""End of the name of a file or folder that is still being written; the next start removes it."""
LONGEST_CELL = 256 << 20
"""Bytes of a row of a database; that of the largest sample, all of whose letters are escapes, has 192 million."""
SPACE = "free some space"
AGAIN = f"{SPACE} and run the same command again"
_OF_PROCESS = re.compile(r"\.(\d+)\.partial")
_CODES = frozenset(
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "ESTALE") if hasattr(errno, name)
)
_OF_A_PATH = frozenset({errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR})
"""Errors that are the disk's only when they name a file that we write."""
_TAKEN = frozenset({errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP})
"""Errors of a name where something else stands."""
_IN_TEXT = re.compile(r"(?:os error |\[Errno )(\d+)")
_OF_LIBRARIES = ("SafetensorError",)
"""Errors, by name, that hold the system's in their text."""
_WORDS = {
    "inline_container": "torch could not write a file",
    "iostream error": "torch could not write a file",
    "PytorchStreamWriter": "torch could not write a file",
    "database or disk is full": "a database cannot grow",
    "attempt to write a readonly database": "a database is read-only",
    "disk I/O error": "a database cannot be written",
    "unable to open database file": "a database cannot be opened",
}
"""What torch.save and SQLite say when a write fails -> the reason."""


class DiskError(OSError):
    """A file could not be written. The message says where, how much is free, what is whole and how to continue. Of
    nested blocks about the same disk the outermost knows best what that is."""

    def __init__(self, directory: Path, reason: str, then: str) -> None:
        self.directory, self.reason = directory, reason
        free, way_out = _room_left(directory, reason)
        super().__init__(f"{directory}: cannot be written ({reason}; {free}); {then.replace(SPACE, way_out)}")


def size_words(count: float) -> str:
    """A number of bytes for a message."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def require_space(directory: Path, needed: int, what: str, hint: str = "") -> None:
    """ValueError when fewer than `needed` bytes are free at `directory`, which need not exist yet."""
    free = _free(directory)
    if free < needed:
        raise ValueError(
            f"{directory}: {what} need {size_words(needed)} but {size_words(free)} are free; "
            f"free some space, {hint}or choose another directory"
        )


@contextmanager
def writing(directory: Path, then: str | Callable[[], str]) -> Iterator[None]:
    """Turns an error of the disk in this block into a `DiskError` of one line.

    with writing(out, "the answers so far are kept; run the same command again"): ...

    `then` says what is whole and how to continue. Other errors pass unchanged.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskError) and _is_elsewhere(error.directory, directory):
            raise
        reason = error.reason if isinstance(error, DiskError) else disk_reason(error, directory)
        if reason is None:
            raise
        after = then if isinstance(then, str) else then()
        raise DiskError(directory, reason, after) from None


@contextmanager
def no_traceback() -> Iterator[None]:
    """For a whole program: an error of the disk about which no block inside knew more is an OSError of one line."""
    try:
        yield
    except DiskError:
        raise
    except Exception as error:
        if (reason := disk_reason(error)) is not None:
            raise OSError(f"a file cannot be written ({reason}); {AGAIN}") from None
        if isinstance(error, OSError) and (words := _of_a_name(error)):
            raise OSError(words) from error
        raise


def _of_a_name(error: OSError) -> str | None:
    """The error of a file about which nothing else was said, with its name and the way out."""
    name = error.filename2 or error.filename
    if name is not None and error.strerror:
        out = "move what is there out of the way, or choose another place"
        way = out if error.errno in _TAKEN else "check the name, what is there and its permissions"
        return f"{name if isinstance(name, int) else os.fsdecode(name)}: {error.strerror}; {way}"
    if error.errno == errno.ENOENT and name is None:
        try:
            os.getcwd()
        except FileNotFoundError:
            return "the working directory was removed; change into another one and run the same command again"
    return None


def _is_elsewhere(inner: Path, outer: Path) -> bool:
    """Whether a directory is not below another one, so that its disk may be another."""
    return not inner.absolute().is_relative_to(outer.absolute())


def disk_reason(error: BaseException, directory: Path | None = None) -> str | None:
    """What the disk reported, if this error is the disk's: OSErrors, and what other libraries make of them. That a file
    is missing or forbidden is the disk's only below `directory`."""
    if isinstance(error, OSError) and error.errno is not None:
        inside = directory is not None and error.filename is not None and str(error.filename).startswith(str(directory))
        if error.errno in _CODES or (error.errno in _OF_A_PATH and inside):
            return os.strerror(error.errno) + (f": {error.filename}" if error.filename else "")
        return None
    if isinstance(error, RuntimeError | sqlite3.Error) or type(error).__name__ in _OF_LIBRARIES:
        codes = [int(code) for code in _IN_TEXT.findall(str(error))]
        code = next((code for code in codes if code in _CODES), None)
        return os.strerror(code) if code else next((why for words, why in _WORDS.items() if words in str(error)), None)
    cause = error.__cause__ or error.__context__  # other errors quote servers, whose disks may be full too
    return disk_reason(cause, directory) if isinstance(cause, sqlite3.Error) else None


def partial_of(path: Path) -> Path:
    """The name beside `path` under which this process writes it, before it is renamed. ValueError for a device, a pipe
    or a socket, which the file would take the place of (for root even of /dev/null)."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} is a device, a pipe or a socket; expected the name of a file")
    if not path.name:
        raise ValueError(f"{path} is a directory, expected the name of a file; choose another name")
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    if partial.is_symlink():  # in a folder of others
        partial.unlink()
    return partial


def partial_folder(path: Path) -> Path:
    """The new, empty folder beside `path` under whose name this process writes it; removes what killed processes left
    there, also one that had the number of this one, as in a container."""
    sweep_beside(path)
    partial = partial_of(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    return partial


@contextmanager
def atomic_file(path: Path, errors: str = "backslashreplace") -> Iterator[TextIO]:
    """A text file that gets its name once it is complete, so that a reader never sees a partial one. By default half of
    a surrogate pair becomes an escape of JSON."""
    partial = partial_of(path)
    if path.is_dir():
        raise ValueError(f"{path} is a directory, expected the name of a file; remove it or choose another name")
    try:
        with partial.open("w", encoding="utf-8", errors=errors) as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """Writes a whole file. DiskError where it cannot."""
    kept = f"{path.name} is as it was; {AGAIN}"
    with writing(path.absolute().parent, kept), atomic_file(path, errors) as file:
        file.write(text)


def read_text(path: Path) -> str:
    """A file of text. ValueError, with its name, for another encoding, and for what is no file; a pipe is not waited
    for."""
    refuse_irregular(path)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8, or restore it") from None


def refuse_irregular(path: Path) -> None:
    """ValueError where there is something else than a regular file."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is no regular file; move it away")


def open_database(path: Path, schema: str, timeout_s: float, any_thread: bool = False) -> sqlite3.Connection:
    """A SQLite file with the tables of a schema, which are made where they are missing, and no others.
    sqlite3.DatabaseError for anything else in it: triggers, views and columns of a stranger may compute anything."""
    database = sqlite3.connect(path, timeout=timeout_s, check_same_thread=not any_thread, isolation_level=None)
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_CELL)
    with closing(sqlite3.connect(":memory:")) as ours:
        ours.executescript(schema)
        ours.execute("ANALYZE")
        expected = set(_definitions(ours))
    for kind, name, sql in _definitions(database):
        if (kind, name, sql) not in expected and not (sql is None and kind == "index"):  # the index of a key
            raise sqlite3.DatabaseError(f"it has the {kind} {name}, which we do not make, or not so; drop it")
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    database.executescript(schema)
    return database


def _definitions(database: sqlite3.Connection) -> Iterator[tuple[Any, Any, Any]]:
    """(type, name, SQL) of all that a database defines."""
    for kind, name, sql in database.execute("SELECT type, name, sql FROM sqlite_master"):
        yield kind, name, " ".join(sql.split()) if isinstance(sql, str) else sql


def sweep(directory: Path) -> None:
    """Removes what killed processes left half-written below `directory`; what a living one is writing stays."""
    _remove_left(directory.rglob(f"*{PARTIAL}"))


def sweep_beside(path: Path) -> None:
    """Removes what killed processes left of one file, half-written."""
    _remove_left(path.parent.glob(f".{glob.escape(path.name)}.*{PARTIAL}"))


def _remove_left(paths: Iterable[Path]) -> None:
    for path in list(paths):
        number = _OF_PROCESS.search(path.name)
        if number and psutil.pid_exists(int(number[1])):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def skip_hole(file: BinaryIO) -> None:
    """Moves an open file behind the hole it is in, if it is in one: a file of holes takes no space, reads as zeros and
    may have terabytes."""
    with open(file.name, "rb", buffering=0) as same, suppress(OSError, AttributeError):  # not on every system
        try:
            file.seek(os.lseek(same.fileno(), file.tell(), os.SEEK_DATA))
        except OSError as error:
            if error.errno == errno.ENXIO:  # there are no more data
                file.seek(0, os.SEEK_END)


def flush(path: Path) -> None:
    """Forces a file, or the names in a directory, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _free(directory: Path) -> int:
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _room_left(directory: Path, reason: str) -> tuple[str, str]:
    """What is left there, and what helps in place of SPACE."""
    free = f"{_free(directory):,} bytes are free"
    if reason.startswith(os.strerror(errno.EROFS)):
        return free, "make it writable"
    left = os.statvfs(next(path for path in (directory, *directory.absolute().parents) if path.exists()))
    if left.f_files and not left.f_favail:
        return f"{free}, and no more files can be made", "remove some files"
    return free, SPACE


def without_waiting(path: str, flags: int) -> int:
    """An `opener` by which a pipe that nobody reads or writes is an error instead of a wait."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)

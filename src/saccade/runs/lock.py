"""One writer per directory: a lock that the kernel drops when its process dies. Readers need none.

`flock` on `DIRECTORY/.lock`, in which the holder writes its process id and host. On a network file system flock holds
between hosts only where the server supports it (docs/security.md).
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from saccade.config import kind as kind_of
from saccade.disk import sweep

LOCK = ".lock"
WRITERS = {
    "metrics.jsonl": ("rl", "sft", "pretrain"),
    "checkpoints": ("rl", "sft"),
    "items.jsonl": ("eval",),
    "unjudged.jsonl": ("eval",),
    "rows.sqlite": ("coldstart",),
    "study.json": ("study",),
    "demo.json": ("demo",),
}
"""What tells that a directory without config.yaml is a run -> the kinds of recipes that write it."""
_SAFE = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""A directory of others may hold a link to any file there, or a pipe."""
log = logging.getLogger(__name__)


class InUse(ValueError):
    """Another process writes to the directory."""


@dataclass
class Lock:
    """The lock of a directory, held."""

    directory: Path
    handle: int

    def keep(self) -> None:
        """Takes the lock again where something else removed or replaced its file. InUse when another process was
        faster, also one that has ended since: two writers would mix their rows."""
        if not _is_same(self.handle, self.directory / LOCK):
            before, self.handle = self.handle, _acquire(self.directory, again=True)
            os.close(before)


_HELD: list[Lock] = []
"""The locks of this process."""


def keep_lock(path: Path) -> None:
    """Right before each group of writes: `Lock.keep` of the directories of `path` that this process holds, if any."""
    for lock in tuple(_HELD):
        if path.absolute().is_relative_to(lock.directory.absolute()):
            lock.keep()


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[Lock]:
    """Makes the directory if needed and holds its lock during the block; first removes what a killed process left
    half-written. InUse, with process and host, while another process holds it."""
    directory.mkdir(parents=True, exist_ok=True)
    lock = Lock(directory, _acquire(directory))
    _HELD.append(lock)
    try:
        sweep(directory)
        yield lock
    finally:
        _HELD.remove(lock)
        os.close(lock.handle)


def refuse_in_use(directory: Path) -> None:
    """InUse when another process writes to the directory, which is not changed."""
    if (directory / LOCK).exists():
        os.close(_acquire(directory))


def refuse_checkpoint(directory: Path) -> None:
    """ValueError for a folder of a run in which the files of another one would be in the way: a checkpoint, of which
    they would count as damage, and the folder of checkpoints."""
    whole = directory.absolute()
    if whole.name == "checkpoints" and any((whole.parent / name).exists() for name in ("config.yaml", "metrics.jsonl")):
        raise ValueError(f"{directory} holds the checkpoints of a run; choose another directory")
    if (directory / "state.json").exists():
        raise ValueError(f"{directory} is a checkpoint, or another folder with a state.json; choose another directory")


def refuse_other_kind(directory: Path, kind: str) -> None:
    """ValueError when the directory is that of a run of another kind, whose files would be overwritten, or a
    checkpoint, of which they would count as damage; InUse when that one is running."""
    refuse_checkpoint(directory)
    config = directory / "config.yaml"
    there = {name: kinds for name, kinds in WRITERS.items() if (directory / name).exists()}
    own = any(kind in kinds for kinds in there.values())
    other = None if own else next((f"a run ({name})" for name in there), None)
    if config.exists():
        try:
            other = None if (found := kind_of(config)) == kind else f"a run of kind '{found}' ({config.name})"
        except (ValueError, OSError):
            other = None if own else f"a {config.name} of another kind"
    if other is not None:
        if not any(lock.directory.absolute() == directory.absolute() for lock in _HELD):
            refuse_in_use(directory)
        raise ValueError(f"{directory} holds {other}, expected one of kind '{kind}' or none; choose another directory")


def is_held(directory: Path) -> bool | None:
    """Whether the process that last held the lock is alive, for those who only look: the lock itself is not touched.
    None for a process of another machine, and when the file does not say or cannot be read."""
    try:
        handle = os.open(directory / LOCK, os.O_RDONLY | _SAFE)
    except FileNotFoundError:
        return False
    except OSError:  # of another user, a link, a folder
        return None
    try:
        return is_alive(_read(handle))
    finally:
        os.close(handle)


def process_words(**more: Any) -> str:
    """This process as `is_alive` of another one understands it, with other fields, as JSON."""
    process = psutil.Process()
    began = {"began": process.create_time(), "boot": psutil.boot_time()}
    return json.dumps({"pid": process.pid, **began, "since": time.time(), **_machine(), **more})


def is_alive(words: str | bytes) -> bool | None:
    """Whether a process is alive, by its `process_words`. None for one of another machine, and for other words."""
    holder = _parsed(words)
    here = bool(holder) and all(holder[key] == value for key, value in _machine().items())
    return not _is_dead(holder) if here else None


def shown_process(words: str | bytes) -> str:
    """Process, host and time for a message, by its `process_words`."""
    return _words(_parsed(words))


def _acquire(directory: Path, again: bool = False) -> int:
    """The handle of the lock. `again`: InUse also when another process had it meanwhile."""
    path = directory / LOCK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | _SAFE, 0o666)
        try:
            if not _flock(handle):
                holder = _parsed(_read(handle))
                if not _is_dead(holder):
                    raise InUse(
                        f"{directory} is in use by {_words(holder)}; stop it first, or choose another directory"
                    )
                _remove(handle, path)  # held by a child that outlived its parent: a new file has a new lock
            elif _is_same(handle, path):
                holder, me = _parsed(_read(handle)) if again else {}, {"pid": os.getpid(), **_machine()}
                if holder and any(holder[key] != value for key, value in me.items()):
                    raise InUse(
                        f"{directory}: something removed its {LOCK}, and {_words(holder)} wrote there meanwhile; this "
                        "process stops and leaves everything as it is there"
                    )
                _sign(handle)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # the file was replaced meanwhile


def _remove(handle: int, path: Path) -> None:
    """Removes the file of a lock, unless another starter replaced it meanwhile: starters do this one by one."""
    import fcntl  # not on Windows, where no lock is ever held

    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # NFS locks no folders
            fcntl.flock(folder, fcntl.LOCK_EX)
        if _is_same(handle, path):
            path.unlink(missing_ok=True)
    finally:
        os.close(folder)


def _flock(handle: int) -> bool:
    """False when another process holds the lock. Where there are no locks a warning says so."""
    try:
        import fcntl  # not on Windows

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except (ImportError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (
            errno.ENOLCK,
            errno.ENOSYS,
            errno.EOPNOTSUPP,
            errno.EINVAL,
        ):
            raise
        log.warning("this file system has no locks: make sure that no other process writes to the same directory")
    return True


def _is_same(handle: int, path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _sign(handle: int) -> None:
    with contextlib.suppress(OSError):  # the lock holds on a full disk too; only its words are missing
        os.ftruncate(handle, 0)
        os.pwrite(handle, process_words().encode(), 0)


def _machine() -> dict[str, str]:
    """Where a process id means something: the host, and in containers their own numbering of processes."""
    space = Path("/proc/self/ns/pid")
    return {"host": socket.gethostname(), "pids": os.readlink(space) if space.is_symlink() else ""}


def _read(handle: int) -> bytes:
    try:
        return os.pread(handle, 4096, 0)
    except OSError:
        return b""


def _parsed(words: str | bytes) -> dict[str, Any]:
    """The fields of `process_words`; none when they are other words."""
    try:
        found = json.loads(words)
        texts = {key: str(found[key]) for key in ("host", "pids")}
        numbers = {key: float(found[key]) for key in ("began", "since")}
        time.localtime(numbers["since"])  # OverflowError where it is no time
        return {
            "pid": _positive(found["pid"]),
            "boot": float(found.get("boot", psutil.boot_time())),
            **numbers,
            **texts,
        }
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, OSError, RecursionError):
        return {}


def _positive(value: Any) -> int:
    if (number := int(value)) < 1:
        raise ValueError
    return number


def _is_dead(holder: dict[str, Any]) -> bool:
    """True only for a process of this machine that ended; the state of other machines is unknown."""
    if not holder or any(holder[key] != value for key, value in _machine().items()):
        return False
    try:
        process = psutil.Process(holder["pid"])
        stepped = psutil.boot_time() - holder["boot"]  # the clock was set since, and with it when everything began
        another = abs(process.create_time() - stepped - holder["began"]) > 2.5
        return process.status() == psutil.STATUS_ZOMBIE or another
    except psutil.NoSuchProcess:
        return True


def _words(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
    return f"process {holder['pid']} on {ascii(holder['host'])[1:-1]} since {since}"

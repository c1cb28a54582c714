"""Files that a run appends rows to. A run knows what it wrote, so that rows which something else removed are missed
aloud, while it trains and when it resumes."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from saccade.disk import skip_hole, without_waiting

METRICS, ROLLOUTS, GROUPS = "metrics.jsonl", "rollouts.jsonl", "groups.jsonl"
STREAMS = (METRICS, ROLLOUTS, GROUPS)
"""Streams whose sizes a checkpoint has."""
LONGEST_LINE = 64 << 20
"""Bytes of a row; longer ones, such as the zeros that a power cut leaves, are skipped in pieces."""
_COMPARED = 4096
"""Bytes at the end of what was written that are compared with what is there."""
_LAST_ROWS = 1 << 20
"""Bytes in which the last row that is left is looked for."""


class Stream:
    """One file, with its size and its last bytes as they were when this process last wrote to it.

    Content is compared, no inode or time: a file that was moved and linked, or copied back, is whole.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.step = path, 0
        self._learn()

    def append(self, rows: Sequence[str], step: int) -> None:
        with open(self.path, "ab", opener=without_waiting) as file:
            if self.size and self._end[-1:] != b"\n":
                file.write(b"\n")  # what is left of a row that something else cut must not swallow the next one
            # a path that is not UTF-8 becomes an escape of JSON
            file.writelines(f"{row}\n".encode(errors="backslashreplace") for row in rows)
        self.step = max(step, self.step)
        self._learn()

    def change(self) -> str | None:
        """What something else did to the file since the last row, in words; None for nothing. Said once: what is there
        now is what the next call expects."""
        size, end, step = self.size, self._end, self.step
        found = _kind(self.path)
        if found is None:
            left = "it was replaced by something that is no file, which is kept beside it"
            self.path.rename(_free(self.path))
        elif not found:
            left = "it was removed"
        else:
            left = f"it was cut to {self.path.stat().st_size:,} bytes"
            if self.path.stat().st_size >= size:
                if _bytes(self.path, size - len(end), size) == end:
                    more = self.path.stat().st_size - size
                    self._learn()
                    return f"{self.path}: something else wrote {more:,} bytes to it" if more else None
                left = "it was replaced or edited"
        self._learn()
        if not size:
            return None
        lost = missing_steps(self.path, step)
        return f"{self.path}: something else changed it: {left}, {size:,} bytes were written; {lost}"

    def _learn(self) -> None:
        self.size = self.path.stat().st_size if _kind(self.path) else 0
        self._end = _bytes(self.path, max(self.size - _COMPARED, 0), self.size) if self.size else b""


def lost_rows(directory: Path, sizes: Mapping[str, Any]) -> str | None:
    """What is missing of the rows that the streams had at `sizes`; None when they hold them all."""
    return next((lost for name in STREAMS if (lost := lost_of(directory / name, sizes[name]))), None)


def lost_of(path: Path, size: int) -> str | None:
    """What is missing of the first `size` bytes of a stream; None when it has whole rows up to there."""
    now = path.stat().st_size if path.is_file() else 0
    if not 0 <= size <= now:
        return f"{path}: {now:,} bytes but {size:,} at the checkpoint; rows were lost"
    if size and _bytes(path, size - 1, size) != b"\n":
        return f"{path}: no row ends at byte {size:,}, where the checkpoint was made; the file was edited"
    return None


def end_of_step(path: Path, step: int) -> int:
    """Bytes of a stream before its first row of a later step; a row without an end does not count."""
    kept = 0
    if not path.is_file():
        return kept
    with path.open("rb") as file:
        for line in iter(partial(file.readline, LONGEST_LINE), b""):
            if not line.endswith(b"\n") or (_step_of(line) or 0) > step:
                break
            kept += len(line)
    return kept


def missing_steps(path: Path, step: int) -> str:
    """The steps up to `step` whose rows a damaged stream lacks, in words, as far as its last row tells."""
    last = _last_step(path)
    if last is None or last >= step:
        return f"rows up to step {step} are lost or changed"
    return f"rows of steps {last + 1} to {step} are lost"


def tail(path: Path, start: int) -> Iterator[bytes]:
    """The bytes of a file from `start`, in chunks, without most of its holes, which are no rows."""
    with path.open("rb") as file:
        file.seek(start)
        skip_hole(file)
        while chunk := file.read(1 << 20):
            yield chunk
            skip_hole(file)


def _kind(path: Path) -> bool | None:
    """Whether there is a file, with links followed; None for something else: a folder, a pipe, a device."""
    try:
        return True if stat.S_ISREG(path.stat().st_mode) else None
    except FileNotFoundError:
        return False


def _bytes(path: Path, start: int, stop: int) -> bytes:
    with path.open("rb") as file:
        return os.pread(file.fileno(), stop - start, start)


def _last_step(path: Path) -> int | None:
    """Step of the last whole row; 0 for a file without rows, None where it cannot be told."""
    size = path.stat().st_size if _kind(path) else 0
    if not size:
        return 0
    lines = _bytes(path, max(size - _LAST_ROWS, 0), size).split(b"\n")
    return next((step for line in reversed(lines[:-1]) if (step := _step_of(line)) is not None), None)


def _step_of(line: bytes) -> int | None:
    with suppress(ValueError, OverflowError, RecursionError, KeyError, TypeError):
        return int(json.loads(line)["step"])
    return None


def _free(path: Path) -> Path:
    return next(one for n in range(1, 1 << 20) if not (one := path.with_name(f"not-a-file-{n}-{path.name}")).exists())

"""Disk space check before a long run."""

from __future__ import annotations

import shutil
from pathlib import Path


def require_space(directory: Path, needed: int, what: str, hint: str = "") -> None:
    """ValueError when fewer than `needed` bytes are free at `directory`, which need not exist yet."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ValueError(
            f"{directory}: {what} need {needed / 1e9:.1f} GB but {free / 1e9:.1f} GB are free; "
            f"free some space, {hint}or choose another directory"
        )

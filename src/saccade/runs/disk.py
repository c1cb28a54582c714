"""Disk space, asked for before a long run writes."""

from __future__ import annotations

import shutil
from pathlib import Path


def require_space(directory: Path, needed: int, what: str, way_out: str = "") -> None:
    """ValueError when fewer than `needed` bytes are free where `directory` is or will be."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ValueError(
            f"{directory}: {what} need {needed / 1e9:.1f} GB but {free / 1e9:.1f} GB are free; "
            f"free some space, {way_out}or choose another directory"
        )

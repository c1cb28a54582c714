"""Data sets in a cache of the Hugging Face hub as its client leaves them, which is then offline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from huggingface_hub import constants

from saccade.data import hub_sets


def hub_set(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: Mapping[str, str | bytes],
    copy: Mapping[str, bytes] | None,
    name: str = "own/set",
) -> str:
    """The name of a data set with these files; `copy`: those of the hub's Parquet copy."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub_sets, "use_hub", lambda: False)
    one = folder / f"datasets--{name.replace('/', '--')}"
    for branch, commit, held in (("main", "a" * 40, files), (hub_sets.COPY, "b" * 40, copy)):
        for path, content in (held or {}).items():
            file = one / "snapshots" / commit / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        if held:
            (one / "refs" / branch).parent.mkdir(parents=True, exist_ok=True)
            (one / "refs" / branch).write_text(commit)
    return name

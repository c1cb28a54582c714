"""What tests share: where the real data lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images (SACCADE_DATA, else ../shared/data beside the project); skips where there is none."""
    folder = Path(os.environ.get("SACCADE_DATA", ROOT / "../shared/data")).resolve()
    if not (folder / "math_vision").is_dir():
        pytest.skip(f"no real data at {folder}; set SACCADE_DATA to the folder that holds math_vision and geometry3k")
    return folder

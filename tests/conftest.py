"""What tests share: where the real data is, and how property tests search."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings
from property_search import asks_for_slow

ROOT = Path(__file__).parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Fixed examples, so that `make test` never fails by luck; random ones where the slow tests are asked for."""
    settings.load_profile("random" if asks_for_slow(config.getoption("markexpr")) else "fixed")
    for number in (signal.SIGINT, signal.SIGHUP):  # nohup and `&` ignore them, which programs that tests start inherit
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)


def pytest_itemcollected(item: pytest.Item) -> None:
    """With random examples a property test is one of the slow tests."""
    wide = settings.get_current_profile_name() == "random"
    if wide and getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
        item.add_marker("slow")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images (SACCADE_DATA, else ../shared/data beside the project); skips where there is none."""
    folder = Path(os.environ.get("SACCADE_DATA", ROOT / "../shared/data")).resolve()
    if not (folder / "math_vision").is_dir():
        pytest.skip(f"no real data at {folder}; set SACCADE_DATA to the folder that holds math_vision and geometry3k")
    return folder

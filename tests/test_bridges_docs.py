"""The examples of docs/bridges.md are Python that the bridges accept."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).parent.parent / "docs" / "bridges.md").read_text(encoding="utf-8")


def test_the_reward_file_for_verl_runs_as_written() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(next(block for block in blocks if "compute_score =" in block), names)  # the page's own text
    reply = "<think>a</think><answer>[100, 100, 500, 500]</answer>"
    made = names["compute_score"]("rec", reply, [64, 48, 320, 240], {"image_size": [640, 480]})  # type: ignore[operator]  # defined by the page
    assert made["score"] == 1.0

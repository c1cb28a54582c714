"""The examples of docs/bridges.md are Python that the bridges accept."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

PAGE = (Path(__file__).parent.parent / "docs" / "bridges.md").read_text(encoding="utf-8")


def test_the_reward_file_for_verl_runs_as_written(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "my_reward.py").write_text(next(block for block in blocks if "compute_score =" in block))
    compute_score = runpy.run_path(str(tmp_path / "my_reward.py"))["compute_score"]
    reply = "<think>a</think><answer>[100, 100, 500, 500]</answer>"
    made = compute_score("rec", reply, [64, 48, 320, 240], {"image_size": [640, 480]})
    assert made["score"] == 1.0

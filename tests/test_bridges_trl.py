"""Rewards of ours in TRL's own trainer, on the tiny model."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed; it is in the extra 'bench'"),
]


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # TRL's own use of transformers
def test_the_example_trains_in_trl_and_logs_our_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.peer_trl import processor_of
    from benchmarks.setting import checkpoint

    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "examples"))
    from rewards_in_trl import train

    directory = checkpoint(tmp_path / "model", "S")
    Image.new("RGB", (112, 112), "red").save(tmp_path / "one.png")
    row = {"prompt": "Where is the cup?", "image": "one.png", "solution": [10, 10, 50, 50]}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(4)))
    processor = processor_of(directory)
    trainer = train(str(directory), str(tmp_path / "rows.jsonl"), 2, processor, str(tmp_path / "out"))
    logged = [entry for entry in trainer.state.log_history if "rewards/rec_iou/mean" in entry]
    assert len(logged) == 2
    assert all(0 <= entry["rewards/rec_iou/mean"] <= 1 and entry["rewards/format/mean"] == 0 for entry in logged)
    assert "rewards_in_trl" in sys.modules


def test_trl_leaves_a_reply_that_cannot_be_scored_out_of_the_baseline() -> None:
    """TRL turns None into NaN and takes means without it; a 0 in its place would move the baseline."""
    import torch

    from saccade.bridges.trl import reward_funcs

    (iou,) = reward_funcs("rec_iou", frame="pixels_original")
    box, answer = [0, 0, 10, 10], "<think>a</think><answer>[0, 0, 10, 10]</answer>"
    columns = {"solution": [box] * 2, "image_size": [[20, 20]] * 2, "image_index": [0, 9]}
    values = iou(completions=[answer, answer], **columns)
    assert values == [1.0, None]
    rewards = torch.tensor([torch.nan if value is None else value for value in values])
    assert float(rewards.nanmean()) == 1.0

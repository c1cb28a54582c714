"""What the tests of training share: a tiny checkpoint, a little data, and a reward that an untrained model can earn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from saccade.base.config import PretrainRecipe
from saccade.base.tiny import write_checkpoint
from saccade.training.config import RLRecipe

REWARD = '''
def even_tokens(completion, sample):
    """1 for a reply with more even than odd token ids: an untrained model earns it about half of the time."""
    even = sum(token % 2 == 0 for token in completion.token_ids)
    return float(2 * even > len(completion.token_ids))


def nothing(completion, sample):
    return 0.0


def broken(completion, sample):
    raise RuntimeError("the reward server is down")
'''


def write_world(folder: Path, rows: int = 6) -> Path:
    """A checkpoint of size S in `folder/model`, images and questions in `folder/data.jsonl`, `folder/rewards.py`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(folder / "model", "S")
    (folder / "rewards.py").write_text(REWARD)
    lines = []
    for i in range(rows):
        name = f"{i}.png"
        Image.new("RGB", (56 + 28 * (i % 2), 56), (40 * i, 255 - 40 * i, 90)).save(folder / name)
        turns = [{"from": "human", "value": f"<image>How many? {i}"}, {"from": "gpt", "value": str(i)}]
        lines.append(json.dumps({"id": f"row{i}", "image": name, "conversations": turns, "task": "count"}))
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def rl_recipe(folder: Path, reward: str = "even_tokens", **changes: Any) -> RLRecipe:
    """Four prompts x four replies a step, scored by one of the rewards above; `changes` replace top-level keys."""
    part = {"name": f"{folder / 'rewards.py'}:{reward}"}
    base: dict[str, Any] = {
        "seed": 3,
        "model": {"path": str(folder / "model"), "device": "cpu"},
        "data": [{"source": "vlm_r1", "path": str(folder / "data.jsonl")}],
        "rubrics": {"test": {"parts": [part], "truncated": "as_is"}},
        "stages": [{"name": "one", "max_new_tokens": 6, "group_size": 4, "rubric": "test"}],
        "num_steps": 4,
        "prompts_per_step": 4,
        "optim": {"lr": 1e-3, "warmup_steps": 2, "decay": "cosine"},
        "checkpoint": {"every": 1, "keep": 2},
    }
    return RLRecipe.model_validate(base | changes)


def base_recipe(out: Path) -> PretrainRecipe:
    """Two stages of perception, one of the language model alone and one of everything."""
    mixture = {"scenes": {"shapes": 1.0}, "questions": 2, "drills": 1}
    stages = [
        {"name": "see", "loss": "perception", "steps": 2, "rows": 2},
        {"name": "sharpen", "loss": "perception", "steps": 2, "rows": 2},
        {"name": "speak", "steps": 3, "rows": 2, "vision_lr": 0.0},
        {"name": "both", "steps": 3, "rows": 2},
    ]
    stages = [{"warmup": 1, "mixture": mixture} | stage for stage in stages]
    base = {"out": str(out), "size": "S", "log_every": 1, "save_every": 2, "stages": stages}
    return PretrainRecipe.model_validate(base)

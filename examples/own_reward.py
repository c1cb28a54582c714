"""Your own reward: a function of completion and sample. python examples/own_reward.py

Recipes and commands name it as FILE.py:FUNCTION: `saccade rl my.yaml --reward examples/own_reward.py:short_thought`.
It runs in a process of its own: an exception, a hang or a wrong value masks that reply and never counts as 0.
"""

from __future__ import annotations

from pathlib import Path

from saccade import Completion, Sample, Score, read_run, train_rl
from saccade.parsing import read_reply
from saccade.training.config import RLRecipe


def short_thought(completion: Completion, sample: Sample, words: int = 20) -> Score:
    """1 for a thought of at most `words` words, falling to 0 at twice as many; 0 without a thought."""
    think = read_reply(completion.text).think
    if not think:
        return Score(0.0, "no thought")
    share = max(0.0, min(1.0, 2 - len(think.split()) / words))
    return Score(share, None if share == 1 else f"{len(think.split())} words")


def main(run: Path, steps: int = 3) -> list[dict[str, float]]:
    """The parts of the reward at every step."""
    parts = [
        {"name": "number", "weight": 0.8},
        {"name": f"{Path(__file__).resolve()}:short_thought", "weight": 0.2, "options": {"words": 12}},
    ]
    recipe = RLRecipe.model_validate(
        {
            "model": {"path": "base", "device": "cpu"},
            "data": [{"source": "world", "task": "count"}],
            "rubrics": {"brief": {"parts": parts}},
            "stages": [{"max_new_tokens": 64, "group_size": 8, "rubric": "brief"}],
            "prompts_per_step": 4,
            "num_steps": steps,
            "optim": {"lr": 2.0e-4},
        }
    )
    rows = read_run(train_rl(recipe, run).directory).metrics
    return [{key: value for key, value in row.items() if key.startswith("reward/")} for row in rows]


if __name__ == "__main__":
    print(*main(Path("runs/own_reward")), sep="\n")

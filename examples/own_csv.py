"""Your own table: pictures, questions and answers in a CSV, learned by the tiny model. python examples/own_csv.py

The same as `saccade new rl --from dots.csv --model base` and `saccade rl dots_rl.yaml`, in Python.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

from PIL import Image, ImageDraw

from saccade import read_run, train_rl
from saccade.training.config import RLRecipe


def write_table(folder: Path, rows: int = 32) -> Path:
    """Pictures of red dots and `dots.csv`, whose columns have names of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_from = random.Random(0)
    with (folder / "dots.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["picture", "asked", "truth"])
        for row in range(rows):
            image, dots = Image.new("RGB", (112, 112), "white"), draw_from.randint(1, 4)
            for dot in range(dots):
                x, y = 10 + 25 * dot, draw_from.randint(10, 80)
                ImageDraw.Draw(image).ellipse((x, y, x + 18, y + 18), fill="red")
            image.save(folder / f"{row}.png")
            table.writerow([f"{row}.png", "How many red dots are there?", dots])
    return folder / "dots.csv"


def main(folder: Path, steps: int = 5) -> list[float]:
    """The mean reward of every step."""
    columns = {"image": "picture", "question": "asked", "answer": "truth"}
    recipe = RLRecipe.model_validate(
        {
            "model": {"path": "base", "device": "cpu"},  # or Qwen/Qwen2.5-VL-3B-Instruct, with lora
            "data": [{"source": "table", "path": write_table(folder), "columns": columns, "task": "count"}],
            "stages": [{"max_new_tokens": 48, "group_size": 8}],
            "prompts_per_step": 4,
            "num_steps": steps,
            "optim": {"lr": 2.0e-4},
        }
    )
    result = train_rl(recipe, folder / "run")
    return [row["reward/total"] for row in read_run(result.directory).metrics]


if __name__ == "__main__":
    print(main(Path("runs/own_csv")))

"""The packaged recipes for one GPU: they load, fit the card that they name, and train a stand-in of their family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from families import family
from PIL import Image

from benchmarks.hardware import ALL, CARDS, TOO_LARGE, planned, table
from saccade.cli.options import load_recipe
from saccade.training import rl, sft
from saccade.training.config import SFTRecipe


@pytest.mark.parametrize("name", CARDS)
def test_a_recipe_fits_the_card_that_it_names_even_when_every_reply_reaches_its_cap(name: str) -> None:
    found = planned(name)
    assert found.fits, [one.change for one in found.advice]
    assert f"{CARDS[name][1]} GB" in Path(f"src/saccade/recipes/{name}.yaml").read_text()


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_recipe_that_says_it_does_not_fit_fits_with_adapters(name: str) -> None:
    assert not planned(name).fits
    lora = ["model.train=[]", "model.lora={rank: 64, alpha: 128}", "rollout.engine.max_rows=16"]
    assert planned(name, *lora, "update.tokens_per_micro_batch=18000").fits


@pytest.mark.parametrize("page", ["docs/recipes.md", "README.md"])
def test_the_table_of_cards_is_what_the_plan_predicts_now(page: str) -> None:
    assert table() in Path(page).read_text(), "write it anew: python -m benchmarks.hardware"


ANSWERS: dict[str, Any] = {
    "refer": [4, 5, 30, 40],
    "detect": [{"bbox_2d": [4, 5, 30, 40], "label": "disc"}],
    "gui_defect": "No Defect",
    "count": "3",
}


def data_of(folder: Path, task: str) -> list[dict[str, Any]]:
    """A file of VLM-R1's rows of the task."""
    rows = []
    for i in range(4):
        names = [f"{i}.png", f"{i}b.png"] if task == "gui_defect" else [f"{i}.png"]
        for name in names:
            Image.new("RGB", (112, 84), (50 * i, 99, 9)).save(folder / name)
        turns = [{"from": "human", "value": "<image>" * len(names) + f"What is there? {i}"}]
        turns.append({"from": "gpt", "value": str(ANSWERS[task])})
        row = {"id": f"r{i}", "image": names, "conversations": turns, "task": task, "answer": ANSWERS[task]}
        rows.append(json.dumps(row) + "\n")
    (folder / "rows.jsonl").write_text("".join(rows))
    return [{"source": "vlm_r1", "path": str(folder / "rows.jsonl"), "task": task}]


def overrides(name: str, folder: Path) -> list[str]:
    """The recipe on a stand-in, cut down to two short steps; what it trains, how and with which reward stay."""
    model, _, task = ALL[name]
    stand_in = family("qwen3_vl" if model == "qwen3 8b" else "qwen2_5_vl").write(folder / "model", seed=1)
    recipe = load_recipe(name)
    data = data_of(folder, task)
    found = {"model.path": str(stand_in), "model.device": "cpu", "prompts_per_step": 2, "checkpoint.every": 2}
    if isinstance(recipe, SFTRecipe):
        return [f"data={yaml.safe_dump([{**data[0], 'reply': 'gold'}], default_flow_style=True).strip()}"] + [
            f"{key}={value}" for key, value in (found | {"epochs": 1}).items()
        ]
    for i, stage in enumerate(recipe.stages):
        found |= {f"stages.{i}.max_new_tokens": 6, f"stages.{i}.group_size": 3}
        if stage.until is not None:
            found[f"stages.{i}.until.step"] = 2 - (len(recipe.stages) - 1 - i)
    if recipe.num_steps is not None:
        found["num_steps"] = 2
    return [f"data={yaml.safe_dump(data, default_flow_style=True).strip()}", *(f"{k}={v}" for k, v in found.items())]


SLOW = pytest.mark.slow
RUNS = [name if name in ("vlm_r1_gui_3b_lora", "qwen3_vl_8b_qlora") else pytest.param(name, marks=SLOW) for name in ALL]


@pytest.mark.parametrize("name", RUNS)
def test_a_recipe_trains_a_stand_in_of_its_family_for_two_steps(name: str, tmp_path: Path) -> None:
    recipe: Any = load_recipe(name, overrides(name, tmp_path))
    (sft if isinstance(recipe, SFTRecipe) else rl).train(recipe, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    last = tmp_path / "run" / "checkpoints" / "last"
    assert (last / "adapter_model.safetensors").is_file() == (name in CARDS)
    assert (last / "model.safetensors").is_file() == (name in TOO_LARGE)

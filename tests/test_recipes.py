"""The packaged recipes for one GPU: they load, fit the card that they name, and train a stand-in of their family."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from families import family
from PIL import Image
from transformers import Qwen3VLConfig

from benchmarks.gpu_model import config_of
from saccade.cli.options import load_recipe
from saccade.planning.flops import ModelShape
from saccade.planning.plan import plan
from saccade.planning.stages import Setting
from saccade.training import rl, sft
from saccade.training.config import SFTRecipe

IMAGES = {"refer": 400, "detect": 400, "gui_defect": 1296}
"""Task -> visual tokens of one image: photographs of 640 x 480 pixels, screenshots of a megapixel."""
CARDS = {
    "vlm_r1_rec_3b_lora": ("3b", 24, "refer"),
    "vlm_r1_ovd_3b_lora": ("3b", 24, "detect"),
    "vlm_r1_gui_3b_lora": ("3b", 24, "gui_defect"),
    "qwen3_vl_8b_qlora": ("qwen3 8b", 24, "count"),
    "vision_r1_7b_sft_lora": ("7b", 80, "count"),
    "vision_r1_7b_lora": ("7b", 80, "count"),
}
"""Recipe -> model, GB of the card that it names, and a task like its own."""
TOO_LARGE = {"vision_r1_7b_zero": ("7b", 80, "count"), "vision_r1_7b_long": ("7b", 80, "count")}
"""Recipes that say that they do not fit."""
ALL = CARDS | TOO_LARGE


@lru_cache
def shape(model: str) -> ModelShape:
    if model != "qwen3 8b":
        return ModelShape.from_config(config_of(model))
    text = {"hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8}
    text |= {"head_dim": 128, "intermediate_size": 12288, "vocab_size": 151936}
    vision = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096}
    return ModelShape.from_config(Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False))


def planned(name: str, *overrides: str) -> Any:
    model, memory_gb, task = ALL[name]
    images = (IMAGES.get(task, 1024),) * (2 if task == "gui_defect" else 1)
    return plan(load_recipe(name, list(overrides)), shape(model), Setting(images, memory_gb=memory_gb))


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

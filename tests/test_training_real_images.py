"""Real input: MATH-Vision and Geometry3K through processor, prompt, gold and grader; the recipe that trains on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from saccade.base.tiny import write_checkpoint
from saccade.cli.options import load_recipe
from saccade.config import load
from saccade.data import open_source
from saccade.models.policy import load_policy, resolve_path
from saccade.report import build_report
from saccade.rollout.prompts import prepare
from saccade.tasks import TASKS
from saccade.training.config import RLRecipe
from saccade.training.rl import train
from saccade.types import Completion, Sample

VISUAL_TOKENS = 256


@pytest.fixture(scope="module")
def recipe(real_data: Path) -> RLRecipe:
    """The packaged recipe on the data that is there."""
    return load("real_images", RLRecipe, variables={"SACCADE_DATA": str(real_data)})


def samples(recipe: RLRecipe) -> Iterator[Sample]:
    for entry in recipe.data:
        yield from open_source(entry)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_image_goes_through_the_processor_and_every_gold_scores_one(recipe: RLRecipe, tmp_path: Path) -> None:
    """All rows of the recipe's data: encoded as training encodes them, answered with the gold, scored by the rubric."""
    write_checkpoint(tmp_path / "model", "S")
    adapter = load_policy(recipe.model.model_copy(update={"path": str(tmp_path / "model")})).adapter
    seen, tasks, sizes = 0, set(), set()
    for sample in samples(recipe):
        prompt = prepare(adapter, sample, recipe.template).encoded
        width, height = prompt.frames[0].size_input
        assert width % 28 == height % 28 == 0 and width * height // 28**2 <= VISUAL_TOKENS, sample.id
        task = TASKS[sample.task]
        score = task.rubric()(Completion(task.write_gold(sample, prompt.frames), frames=prompt.frames), sample)
        assert score.value == pytest.approx(1.0) and score.masked is None, (sample.id, score)
        seen, tasks, sizes = seen + 1, tasks | {sample.task}, sizes | {prompt.frames[0].size_original}
    assert (seen, tasks) == (370, {"choice", "free_form"})
    assert len(sizes) > 200, "the images are of many sizes"


def test_the_recipe_trains_on_real_images_and_every_step_moves_something(recipe: RLRecipe, tmp_path: Path) -> None:
    """Rewards are low, as they must be: what is asserted is that each step had a group to learn from."""
    try:
        resolve_path("base")
    except ValueError as error:
        pytest.skip(f"random weights never answer in form, so no group has variance; needs the packaged base: {error}")
    out = train(recipe, tmp_path / "run").directory
    metrics = rows(out / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2, 3]
    for row in metrics:
        assert row["groups/zero_variance"] < 1.0, f"step {row['step']}: no update"
        assert row["update/skipped"] == 0.0 and row["policy/grad_norm"] > 0.0
        assert row["sampler/gap_max"] < 1e-3, "trainer and sampler are the same model"
    written = rows(out / "rollouts.jsonl")
    assert len(written) == 3 * recipe.prompts_per_step * recipe.stages[0].group_size
    assert {row["task"] for row in written} == {"choice", "free_form"}
    html = build_report(out).read_text(encoding="utf-8")
    assert "data:image/" in html, "the report shows the images"
    shown = [row["question"] for row in rows(out / "groups.jsonl") if row["image_files"]]
    assert len(shown) == 3 * recipe.prompts_per_step


@pytest.mark.parametrize("name", ["vlm_r1_rec_3b", "vision_r1_7b", "vision_r1_7b_sft"])
def test_the_recipes_of_the_papers_name_real_models_and_their_settings(name: str) -> None:
    config = load_recipe(name).model_dump()
    stated: dict[str, dict[str, Any]] = {
        "vlm_r1_rec_3b": {"prompts_per_step": 16, "num_steps": 600, "template": "vlm_r1_json"},
        "vision_r1_7b": {},
        "vision_r1_7b_sft": {"epochs": 2.0, "prompts_per_step": 32},
    }
    assert {key: config[key] for key in stated[name]} == stated[name]
    if name == "vision_r1_7b":
        stages = [(s["max_new_tokens"], s["group_size"], s["rubric"], s["until"]["step"]) for s in config["stages"]]
        assert stages == [(4096, 16, "hard", 100), (8192, 8, "hard", 200)]
        assert (config["loss"]["kl_coef"], config["loss"]["surrogate"]["high"]) == (0.01, 0.2)
    if name == "vlm_r1_rec_3b":
        assert (config["loss"]["kl_coef"], config["optim"]["lr"], config["stages"][0]["group_size"]) == (0.04, 1e-6, 8)
        assert {entry["task"] for entry in config["data"]} == {"refer"}
    if name == "vision_r1_7b_sft":
        assert (config["optim"]["lr"], config["optim"]["decay"]) == (5e-6, "cosine")
        assert config["model"]["train"] == ("language",)

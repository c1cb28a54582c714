"""The whole demo with budgets of seconds: every part runs, every file is written, a second run does nothing."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from saccade.config import load
from saccade.report import build_report
from saccade.studies import demo_jobs
from saccade.studies.demo import DemoRecipe, run_demo

SMALL = (
    "n=10", "benchmark_seed=4", "sft_steps=6", "cold_start_rows=60", "rl_prompts=6",
    "rl_stages.0.until.step=3", "rl_stages.1.until.step=6",
)  # fmt: skip
QUIET = Console(quiet=True)


@pytest.mark.slow
def test_the_demo_runs_from_the_packaged_base_to_its_report_and_is_not_run_twice(tmp_path):
    recipe = load("demo", DemoRecipe, SMALL)
    out = run_demo(recipe, tmp_path / "demo", 7, QUIET)
    results = json.loads((out / "results.json").read_text())
    cells = {(row["model"], row["control"], row["split"], row["decoding"]) for row in results["rows"]}
    models = {"base", "sft", "rl", "more_sft", "rejection", "short_cap"}
    assert {model for model, *_ in cells} == models
    forced = {cell for cell in cells if (cell[1] or "").startswith("forced")}
    everywhere = {(split, how) for split in recipe.splits for how in ("greedy", "sampled")}
    for model in models:
        assert {(split, how) for name, _, split, how in cells - forced if name == model} == everywhere
        assert model in {name for name, *_ in forced}
    found = json.loads((out / "demo.json").read_text())
    assert found["comparisons"] and all(one["low"] <= one["difference"] <= one["high"] for one in found["comparisons"])
    assert len(json.loads((out / "samples.json").read_text())) == 3 * len(recipe.tasks)
    assert "http://" not in build_report(out).read_text().replace("http://www.w3.org", "")
    done = {path: path.stat().st_mtime_ns for path in out.rglob("job.json")}
    run_demo(recipe, out, 7, QUIET)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("job.json")} == done


def test_another_recipe_or_seed_in_the_same_directory_is_refused_before_any_work(tmp_path):
    recipe = load("demo", DemoRecipe, SMALL)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "config.yaml").write_text("kind: demo\nseed: 3\n")
    with pytest.raises(ValueError, match="another recipe or seed"):
        run_demo(recipe, tmp_path / "demo", 7, QUIET)
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == [".lock", "config.yaml"]


def test_a_missing_base_is_reported_before_any_work(tmp_path):
    recipe = load("demo", DemoRecipe, (*SMALL, "base=./not/there"))
    with pytest.raises(ValueError, match="not/there"):
        run_demo(recipe, tmp_path / "demo", 7, QUIET)
    assert not (tmp_path / "demo").exists()


def test_new_best_scores_never_remove_a_checkpoint_of_the_rl_run():
    """Checkpoints of new best scores once evicted the end of the first stage, where a control starts."""
    recipe = load("demo", DemoRecipe)
    first, second = recipe.stage_ends
    run = demo_jobs.rl_recipe(recipe, "base", recipe.rl_stages, 1, first)
    steps = range(1, second + 1)
    saved = {step for step in steps if step % run.eval.every == 0 or step % run.checkpoint.every == 0} | {second}
    assert first in saved and run.checkpoint.keep >= len(saved) - 1

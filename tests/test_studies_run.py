"""A whole study, with runs of two steps: arms, budgets of other arms, evaluations, an interruption."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from saccade.report import build_report
from saccade.runs.files import rows_of
from saccade.studies.arms import sampled_tokens
from saccade.studies.study import run_study
from saccade.studies.study_recipe import StudyRecipe, load_study

SEEDS = (7, 8)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyRecipe:
    world = [{"source": "world", "task": "count"}]
    stages = [{"max_new_tokens": 12, "group_size": 4}]
    recipe = {
        "kind": "study",
        **dict.fromkeys(("title", "paper", "claim", "question", "limits"), "tiny"),
        "seeds": list(SEEDS),
        "cpu_minutes_per_seed": 1,
        "shared": {
            "rl": {"data": world, "prompts_per_step": 2, "stages": stages, "optim": {"lr": 1e-4}},
            "sft": {"prompts_per_step": 2, "optim": {"lr": 1e-4}},
        },
        "arms": {
            "rl": {"kind": "rl", "recipe": {"num_steps": 4}},
            "as_many_tokens": {"kind": "rl", "match": "rl", "recipe": {"stages": [stages[0] | {"group_size": 2}]}},
            "sft": {
                "kind": "sft",
                "chains": {"tasks": ["count"], "habits": {"terse": 1.0}},
                "recipe": {"num_steps": 2},
            },
            "as_much_compute": {
                "kind": "sft",
                "chains": {"tasks": ["count"], "habits": {"terse": 1.0}},
                "match": "rl",
            },
        },
        "evaluations": {
            "home": {
                "arms": ["base", "rl@50%", "rl", "as_many_tokens", "as_much_compute"],
                "recipe": {"world": {"tasks": ["count"], "n": 6}, "decoding": {"greedy": True, "max_new_tokens": 12}},
            }
        },
        "hypotheses": [
            {"name": "gain", "measure": "accuracy", "contrast": {"home/rl": 1, "home/base": -1}, "above": 0.0}
        ],
        "verdict": {"reproduced": "yes", "not_reproduced": "no", "inconclusive": "perhaps"},
    }
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return load_study(str(path))


@pytest.mark.slow
def test_a_study_runs_its_arms_with_equal_budgets_and_resumes_where_it_was_stopped(study, tmp_path: Path) -> None:
    document = run_study(study, tmp_path, SEEDS, Console(quiet=True))
    assert not document["recorded"]
    ids = set()
    for seed in SEEDS:
        folder = tmp_path / f"seed-{seed}"
        budget = sampled_tokens(folder / "rl")
        steps = [row["tokens/count"] for row in rows_of(folder / "as_many_tokens" / "metrics.jsonl", [])]
        assert sum(steps) >= budget > sum(steps[:-1]) - 0.5 * max(steps)
        jobs = {name: json.loads((folder / name / "job.json").read_text()) for name in study.arms}
        per_step = jobs["sft"]["cpu"] / jobs["sft"]["steps"]
        assert jobs["as_much_compute"]["steps"] == max(1, round(jobs["rl"]["cpu"] / per_step))
        items = list(rows_of(folder / "eval" / "home" / "rl" / "items.jsonl", []))
        assert {row["model"] for row in items} == {"rl"}
        ids |= {row["sample_id"] for row in items}
    assert len(ids) == 12  # each seed has its own questions
    assert "Over the training" in build_report(tmp_path).read_text()

    kept = (tmp_path / "seed-7" / "rl" / "metrics.jsonl").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "seed-8" / "eval" / "home" / "rl")
    (tmp_path / "study.json").unlink()
    again = run_study(study, tmp_path, SEEDS, Console(quiet=True))
    assert [row["values"] for row in again["hypotheses"]] == [row["values"] for row in document["hypotheses"]]
    assert (tmp_path / "seed-7" / "rl" / "metrics.jsonl").stat().st_mtime_ns == kept

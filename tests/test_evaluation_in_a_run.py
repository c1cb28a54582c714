"""The held-out evaluation of a training run: its items, what reads them, and what remains of them after a kill."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from saccade.evaluation.benchmark_results import compare_runs
from saccade.evaluation.benchmark_run import answer_all
from saccade.evaluation.items import append_items, read_items
from saccade.report.page import run_page
from saccade.training import heldout
from saccade.training.rl import train
from tests.training_runs import rl_recipe, write_world


class Killed(BaseException):
    """A kill that none of our handlers may catch."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def recipe(world: Path):
    evaluated = {"source": "vlm_r1", "path": str(world / "data.jsonl")}
    decoding = {"greedy": False, "max_new_tokens": 4}
    return rl_recipe(world, num_steps=2, eval={"every": 1, "data": [evaluated], "decoding": decoding, "batch_size": 4})


def test_each_evaluation_of_a_run_writes_items_that_its_score_report_and_comparison_agree_with(
    world: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(recipe(world), run)
    items = {step: read_items(run / "eval" / f"step-{step}" / "items.jsonl") for step in (0, 1, 2)}
    assert {len(some) for some in items.values()} == {6} and items[2][0].model == "step 2"
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["eval/score"] for row in metrics] == [fmean(i.accuracy for i in items[step]) for step in (0, 1, 2)]
    assert [row["eval/length"] for row in metrics] == [fmean(i.tokens[0] for i in items[step]) for step in (0, 1, 2)]
    (first, *_) = run_page(run).items.data
    who = ["step 0", "step 1", "step 2", *(["step 2, image swapped"] if len(first["r"]) > 3 else [])]
    assert [reply["who"] for reply in first["r"]] == who and first["img"]
    found = compare_runs(run / "eval" / "step-0", run)
    assert found["rows"][0]["n"] == 6 and found["only_left"] == found["only_right"] == 0


def test_a_run_killed_during_an_evaluation_and_resumed_has_the_same_items(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe(world), tmp_path / "whole")
    done = []

    def killed(plan, run, out):
        if len(done) == 4:  # with the blind control, two calls an evaluation
            append_items(out, [replace(item, text="stale") for item in answer_all(plan, run)[0]])
            raise Killed
        done.append(out)
        return answer_all(plan, run, out)

    monkeypatch.setattr(heldout, "answer_all", killed)
    with pytest.raises(Killed):
        train(recipe(world), tmp_path / "cut")
    monkeypatch.undo()
    train(recipe(world), tmp_path / "cut", resume=True)
    for step in (0, 1, 2):
        name = f"eval/step-{step}/items.jsonl"
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name

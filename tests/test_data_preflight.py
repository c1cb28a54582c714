"""Preflight: what is right passes, and each kind of fault is found, counted and placed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from saccade.data import DataConfig, open_source
from saccade.data.preflight import preflight
from saccade.types import Sample
from saccade.world.splits import ALL_TASKS

PICTURE = Image.new("RGB", (60, 40))


def sample(**more) -> Sample:
    return replace(Sample("1", (PICTURE,), "Where?", (1.0, 2.0, 30.0, 40.0), "refer"), **more)


def test_right_samples_pass() -> None:
    report = preflight([sample(), sample(id="2", answer=3, task="count")])
    assert report.ok
    assert report.samples == 2


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        (sample(id="0"), "duplicate id", "was used before"),
        (sample(answer=(1.0, 2.0, 30.0, 41.0)), "box outside", "not inside its image"),
        (sample(answer=[{"bbox_2d": [1, 2, 61, 4], "label": "cat"}], task="detect"), "box outside", "not inside"),
        (sample(images=("gone.png",)), "image", "gone.png: there is no such image file"),
        (sample(answer="many", task="count"), "gold", "scores 0 under its own task 'count'"),
        (sample(answer="perhaps", task="yes_no"), "gold", "cannot be written"),
        (sample(task="dance"), "task", "unknown task 'dance'"),
    ],
)
def test_each_fault_is_found_and_placed(wrong: Sample, kind: str, words: str) -> None:
    report = preflight([sample(id="0"), replace(wrong, meta={"place": "train.jsonl:9"})])
    assert report.counts.get(kind) == 1
    assert any(line.startswith("train.jsonl:9: ") and words in line for line in report.findings)


def test_prompts_over_budget_are_counted_and_the_longest_is_told() -> None:
    lengths = {"1": 10, "2": 300}
    report = preflight([sample(), sample(id="2")], count_tokens=lambda s: lengths[s.id], budget=100)
    assert report.counts == {"prompt over budget": 1}
    assert report.tokens_max == 300


def test_findings_are_bounded_and_counts_are_not() -> None:
    report = preflight((sample(id=str(i), images=("gone.png",)) for i in range(50)), keep=3)
    assert len(report.findings) == 3
    assert report.counts == {"image": 50}


@pytest.mark.parametrize("task", ALL_TASKS)
def test_the_world_passes_its_own_preflight(task: str) -> None:
    report = preflight(open_source(DataConfig(source="world", task=task, limit=12)))
    assert report.findings == ()


def test_every_real_gold_answer_scores_one_under_its_own_task(real_data: Path) -> None:
    entries = [("math_vision", "math_vision/train.jsonl"), ("math_vision", "math_vision/testmini.jsonl")]
    for source, path in [*entries, ("geometry3k", "geometry3k")]:
        report = preflight(open_source(DataConfig(source=source, path=real_data / path)))
        assert report.findings == ()
        assert report.samples in (360, 200, 10)

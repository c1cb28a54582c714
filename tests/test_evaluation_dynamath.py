"""DynaMath's published files: the repository's `dataset.json`, keyed by id, and its ten trial folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saccade.evaluation.benchmarks import dynamath
from saccade.evaluation.benchmarks.benchmark import Place
from tests.benchmark_files import LAYOUTS, picture


def keyed(path: Path, *rows: tuple[str, str, str]) -> None:
    """A `dataset.json` of DynaMath's repository with its images beside it."""
    held = {}
    for key, kind, answer in rows:
        picture(path.parent / "image" / f"image{key}.png")
        subject = {"subject": "statistics", "level": "high school", "image": f"image/image{key}.png"}
        held[key] = {"question": f"Question {key}?", "answer": answer, "answer_type": kind, **subject}
    path.write_text(json.dumps(held), encoding="utf-8")


@pytest.mark.parametrize("root", ["samples and result/10trials", "10trials", ""])
def test_the_ten_trial_folders_of_dynamath_are_ten_variants_of_each_question(tmp_path, root):
    for trial in range(1, 11):
        (tmp_path / root / f"trial{trial}").mkdir(parents=True)
        keyed(tmp_path / root / f"trial{trial}/dataset.json", ("2", "text", "May"), ("10", "int", str(trial)))
    samples = dynamath.load(Place(tmp_path))
    assert [s.id for s in samples] == [f"{seed}/{n}" for seed in ("2", "10") for n in range(1, 11)]
    assert [s.meta["group"] for s in samples[:10]] == ["2"] * 10
    assert [s.answer for s in samples[10:]] == [str(n) for n in range(1, 11)]
    assert all(Path(str(s.images[0])).is_file() for s in samples)


def test_the_dataset_file_of_dynamath_is_one_variant_with_every_type_of_answer(tmp_path):
    rows = [("1", "float", "2.0944"), ("2", "int", "3"), ("3", "single answer", "F"), ("4", "single answer", "5:0")]
    (tmp_path / "dataset").mkdir()
    keyed(tmp_path / "dataset/dataset.json", *rows, ("5", "multiple choice", "B"))
    for place in (tmp_path, tmp_path / "dataset", tmp_path / "dataset/dataset.json"):
        samples = dynamath.load(Place(place))
        assert [(s.id, s.meta["kind"], s.task) for s in samples] == [
            ("1/1", "float", "free_form"),
            ("2/1", "float", "free_form"),
            ("3/1", "multiple choice", "choice"),
            ("4/1", "text", "text"),
            ("5/1", "multiple choice", "choice"),
        ]
        assert samples[2].meta["slices"]["answer_type"] == "single answer"
    keyed(tmp_path / "dataset/dataset.json", ("1", "essay", "x"))
    with pytest.raises(ValueError, match=r"dataset\.json:1: field 'answer_type': got 'essay', expected one of float"):
        dynamath.load(Place(tmp_path))


def test_rows_with_the_same_image_share_it_in_memory(tmp_path: Path) -> None:
    samples = dynamath.load(Place(LAYOUTS["dynamath"](tmp_path)))
    assert len(samples) == 30 and len({id(image) for sample in samples for image in sample.images}) == 1

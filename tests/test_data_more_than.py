"""Yes or no about a number of objects, and asking for some labels only, from folders of Pascal VOC."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_data_formats import png

from saccade.config import load
from saccade.data import DataConfig, open_source
from saccade.data.instances import thresholds
from saccade.tasks import TASKS
from saccade.training.config import SFTRecipe
from saccade.types import Completion, Sample

BOX = "<object><name>{}</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>20</ymax></bndbox></object>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine images: image i has i red cells, every image a white one, the last three a platelet."""
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "JPEGImages").mkdir()
    for i in range(9):
        (tmp_path / f"JPEGImages/{i}.png").write_bytes(png())
        labels = ["red"] * i + ["white"] + ["platelet"] * (i >= 6)
        boxes = "".join(BOX.format(label, 10 + place) for place, label in enumerate(labels))
        (tmp_path / f"Annotations/{i}.xml").write_text(
            f"<annotation><filename>{i}.png</filename>{boxes}</annotation>", encoding="utf-8"
        )
    return tmp_path


def read(folder: Path, task: str, **more: Any) -> list[Sample]:
    return list(open_source(DataConfig(source="voc", path=folder, task=task, **more)))


def test_the_numbers_are_those_that_a_third_to_two_thirds_of_the_images_exceed() -> None:
    seen = {"red": Counter(range(9)), "white": Counter({1: 9}), "platelet": Counter({0: 6, 1: 3})}
    assert thresholds(seen) == {"platelet": [0], "red": [2, 3, 4, 5], "white": []}
    assert thresholds({}) == {} and thresholds({"red": Counter({3: 4})}) == {"red": []}


def test_more_than_asks_once_per_image_and_label_with_the_true_answer(folder: Path) -> None:
    samples = read(folder, "more_than")
    assert Counter(one.meta["label"] for one in samples) == {"red": 9, "platelet": 9}
    for one in samples:
        number = int(Path(str(one.images[0])).stem)
        count = number if one.meta["label"] == "red" else int(number >= 6)
        asked = one.meta["more_than"]
        assert one.question == f"Are there more than {asked} objects with the label '{one.meta['label']}' in the image?"
        assert (one.meta["count"], one.answer) == (count, "yes" if count > asked else "no")
        for said in ("yes", "no"):
            reply = Completion(f"<think>Seen.</think><answer>{said}</answer>")
            assert TASKS[one.task].correct(reply, one).right == (said == one.answer)
    assert len({one.id for one in samples}) == len(samples)


def test_the_numbers_asked_depend_on_the_seed_only(folder: Path) -> None:
    first, again, other = (
        [one.meta["more_than"] for one in read(folder, "more_than", labels=["red"], seed=seed)] for seed in (0, 0, 1)
    )
    assert first == again != other
    assert set(first) | set(other) <= {2, 3, 4, 5} and len(set(first)) > 1


def test_without_a_number_that_divides_the_images_the_task_is_refused(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no label has a number that between a third and two thirds .* use task 'count'"
    ):
        read(folder, "more_than", labels=["white"])


@pytest.mark.parametrize("task", ["detect", "refer", "count", "more_than"])
def test_only_the_given_labels_are_asked_for(folder: Path, task: str) -> None:
    samples = read(folder, task, labels=["red", "white"])
    assert samples and not any("platelet" in str((one.question, one.answer, one.meta)) for one in samples)
    every = [one for one in read(folder, task) if one.meta.get("label") in ("red", "white")]
    if task != "detect":
        assert [(one.id, one.answer) for one in samples] == [(one.id, one.answer) for one in every]


def test_an_absent_label_is_drawn_from_the_given_ones(folder: Path) -> None:
    samples = read(folder, "detect", labels=["red", "platelet"])
    assert [one.meta["absent"] for one in samples] == [["platelet", "red"], *[["platelet"]] * 5, *[[]] * 3]


def test_a_label_that_no_image_has_is_refused_and_other_sources_have_no_labels(folder: Path) -> None:
    with pytest.raises(ValueError, match="labels: got green; the annotations have platelet, red, white"):
        read(folder, "count", labels=["green", "red"])
    with pytest.raises(ValueError, match="'labels' is not an option of source 'vlm_r1'"):
        DataConfig(source="vlm_r1", path=folder, labels=("red",))


def test_supervised_fine_tuning_reads_the_same_labels(tmp_path: Path, folder: Path) -> None:
    recipe = tmp_path / "sft.yaml"
    entry = f"{{source: voc, path: {folder}, task: count, labels: [red], reply: gold}}"
    recipe.write_text(f"kind: sft\nmodel: {{path: base}}\nnum_steps: 1\noptim: {{lr: 1.0e-3}}\ndata: [{entry}]\n")
    asked = load(str(recipe), SFTRecipe).data[0].samples()
    assert {one.meta["label"] for one in open_source(asked)} == {"red"}

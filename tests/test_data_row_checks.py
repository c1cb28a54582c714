"""Checks of one row: units of boxes, sizes, golds of other tasks, markers of other programs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from saccade.data.preflight import preflight
from saccade.types import Sample

PICTURE = Image.new("RGB", (200, 120))


def sample(**more) -> Sample:
    return replace(Sample("1", (PICTURE,), "Where?", (20.0, 20.0, 80.0, 70.0), "refer"), **more)


def found(*samples: Sample) -> dict[str, int]:
    return preflight((f"t.jsonl:{k}", one) for k, one in enumerate(samples, 1)).counts


@pytest.mark.parametrize(
    "answer",
    [(0.1, 0.17, 0.4, 0.58), (0.0, 0.0, 1.0, 1.0), [{"bbox_2d": [0.1, 0.1, 0.4, 0.5], "label": "cup"}]],
)
def test_boxes_in_shares_of_the_image_are_found(answer) -> None:
    task = "detect" if isinstance(answer, list) else "refer"
    assert found(sample(answer=answer, task=task)) == {"box units": 1}


def test_boxes_in_thousandths_are_found_on_large_images_and_hinted_at_on_small_ones() -> None:
    wide = Image.new("RGB", (1920, 200))
    scaled = [
        sample(id=str(i), images=(wide,), question=str(i), answer=(i, 5, 80.0 * (i + 1) + 8, 90)) for i in range(12)
    ]
    assert found(*scaled) == {"box units": 1}
    pixels = [replace(one, answer=(one.answer[0], 5, one.answer[2] * 1.92, 90)) for one in scaled]
    assert found(*pixels) == {}
    report = preflight([sample(answer=(100.0, 100.0, 900.0, 900.0))])
    assert "(thousandths?)" in report.findings[0]


@pytest.mark.parametrize(
    ("size", "words"), [([400, 240], "400 x 240, the image has 200 x 120"), ([120, 200], "swapped")]
)
def test_another_size_in_the_annotation_is_found(size: list[int], words: str) -> None:
    report = preflight([sample(meta={"annotated_size": size})])
    assert report.counts == {"image size": 1}
    assert words in report.findings[0]
    assert preflight([sample(meta={"annotated_size": [200, 120]})]).ok


@pytest.mark.parametrize(
    ("answer", "question", "task", "words"),
    [
        ("[20, 20, 80, 70]", "Where?", "free_form", "looks like a box, the task is 'free_form'; set task: refer"),
        ('[{"bbox_2d": [1, 2, 3, 4], "label": "cup"}]', "Find cups.", "text", "set task: detect"),
        ("B", "Which color?\nA. red\nB. blue", "free_form", "names a listed option"),
        ("b", "Which color? (a) red (b) blue", "text", "set task: choice"),
        ("C. green", "Which color?\nA. red\nB. blue", "free_form", "names none of the 2 that the question lists"),
        ("B. red", "Which color?\nA. red\nB. blue", "free_form", "names none of the 2 that the question lists"),
        ("E", "Which color?\nA. red\nB. blue", "free_form", "names none of the 2 that the question lists"),
        ("[[20, 20, 80, 70], [1, 1, 5, 5]]", "Where?", "free_form", "has coordinates"),
        ("[20 20 80 70]", "Where?", "free_form", "has coordinates"),
        ("[20; 20; 80; 70]", "Where?", "free_form", "has coordinates"),
        ("[20，20，80，70]", "Where?", "free_form", "has coordinates"),
        ("[20,20,80,70].", "Where?", "free_form", "has coordinates"),
        ("bbox: [20, 20, 80, 70]", "Where?", "free_form", "has coordinates"),
        ("x1=20 y1=20 x2=80 y2=70", "Where?", "free_form", "has coordinates"),
        ("20, 20, 80, 70", "Give the bounding box.", "free_form", "has coordinates"),
    ],
)
def test_a_gold_of_another_task_is_found(answer: str, question: str, task: str, words: str) -> None:
    report = preflight([sample(answer=answer, question=question, task=task)])
    assert report.counts == {"gold form": 1}
    assert words in report.findings[0]


@pytest.mark.parametrize(
    ("answer", "question"),
    [
        ("2, 3, 5, 7", "Which primes are shown?"),
        ("[[1, 2, 3], [4, 5, 6]]", "Which matrix?"),
        ("x_1 = 2, x_2 = 3", "Solve."),
        ("A: 5, B: 7", "How long are they?\nA. the red one\nB. the blue one"),
        ("about half", "Which part?\nA. is red\nB. is blue"),
    ],
)
def test_other_golds_are_no_findings(answer: str, question: str) -> None:
    assert found(sample(answer=answer, question=question, task="text")) == {}


@pytest.mark.parametrize(
    "mark",
    [
        *("<img>", "<Image>", "<image_1>", "<image 1>", "<ImageHere>", "[IMAGE]", "<image2>", "</img>"),
        *('<img src="a.png">', "![a cup](a.png)", "<fim_image>", "<im_patch>", "<speech>", "<|audio_pad|>"),
    ],
)
def test_markers_of_other_programs_are_found(mark: str) -> None:
    assert found(sample(question=f"{mark} Where?")) == {"marker": 1}


@pytest.mark.parametrize("text", ["<image> Where?", "x <img_size y", "the image [12]", "imagine", "a <b> c"])
def test_other_words_are_no_markers(text: str) -> None:
    assert found(sample(question=text)) == {}


def test_a_choice_is_tried_by_letter_and_by_text() -> None:
    options = ["3 cm", "4 cm", r"$\\frac{1}{2}$"]
    for letter in "ABC":
        assert found(sample(answer=letter, task="choice", meta={"options": options})) == {}

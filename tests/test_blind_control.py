"""The blind control: held-out questions without their image, in every evaluation of a run, and what the page says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import report_runs
from PIL import Image

from saccade.evaluation.benchmarking import evaluate
from saccade.evaluation.blinding import GRAY, blinded
from saccade.evaluation.config import EvalRecipe
from saccade.evaluation.eval_plan import plan
from saccade.evaluation.items import read_items
from saccade.report.headlines import run_headline
from saccade.report.outcome import blind_words
from saccade.report.page import run_page
from saccade.runs.files import read_run
from saccade.training.rl import train
from saccade.types import Sample
from tests.training_runs import rl_recipe, write_world


def samples(answers: str, images: bool = True) -> list[Sample]:
    def image(i: int) -> tuple[Image.Image, ...]:
        return (Image.new("RGB", (20 + i, 30), (i, 0, 0)),) if images else ()

    return [Sample(f"s{i}", image(i), "How many?", one, "count") for i, one in enumerate(answers)]


def test_a_swapped_image_is_that_of_another_question_with_another_answer() -> None:
    own = samples("1123")
    found = blinded(own, 1.0, "swap")
    assert {one.id for one in found} == {"s0", "s1", "s2", "s3"}
    answers = {id(sample.images[0]): sample.answer for sample in own}
    for one in found:
        assert answers[id(one.images[0])] != one.answer
        assert (one.question, one.answer) == next((s.question, s.answer) for s in own if s.id == one.id)


def test_two_questions_about_one_image_are_no_partners_and_the_same_wording_comes_first() -> None:
    images = [(Image.new("RGB", (20, 20), (i, 0, 0)),) for i in range(3)]
    kinds = [("How many red?", "12"), ("How many white?", "1")]
    own = [
        Sample(f"{i}/{question}", image, question, f"{answer}{i}", "count")
        for i, image in enumerate(images)
        for question, answer in kinds
    ]
    shown = {id(one.images[0]): int(one.id[0]) for one in own}
    for one in blinded(own, 1.0, "swap"):
        assert shown[id(one.images[0])] == (int(one.id[0]) + 1) % 3
    assert all(one.images[0].getpixel((0, 0)) == GRAY for one in blinded(own[:2], 1.0, "swap"))
    (lone,) = (one for one in blinded([own[0], own[3]], 1.0, "swap") if one.id == own[0].id)
    assert lone.images is own[3].images


def test_without_a_partner_and_on_request_the_image_is_gray_and_of_its_own_size() -> None:
    for found in (blinded(samples("11"), 1.0, "swap"), blinded(samples("12"), 1.0, "blank")):
        assert sorted(one.images[0].size for one in found) == [(20, 30), (21, 30)]
        assert all(one.images[0].getpixel((3, 3)) == GRAY for one in found)


def test_the_share_is_always_the_same_questions_and_never_those_without_images() -> None:
    many = samples("0123456789" * 4)
    first = [one.id for one in blinded(many, 0.25, "swap")]
    assert len(first) == 10 and first == [one.id for one in blinded(many, 0.25, "swap")]
    assert set(first) <= {one.id for one in blinded(many, 0.5, "swap")}
    assert blinded(samples("12", images=False), 1.0, "swap") == [] and blinded(many, 0.0, "swap") == []
    assert len(blinded(samples("1"), 0.01, "blank")) == 1


def test_every_evaluation_of_a_run_has_its_blind_control(tmp_path: Path) -> None:
    world = write_world(tmp_path / "world")
    evaluated = {"source": "vlm_r1", "path": str(world / "data.jsonl")}
    decoding = {"greedy": False, "max_new_tokens": 4}
    recipe = rl_recipe(
        world, num_steps=1, eval={"every": 1, "data": [evaluated], "decoding": decoding, "blind": {"share": 0.5}}
    )
    train(recipe, tmp_path / "run")
    own = {item.sample_id: item for item in read_items(tmp_path / "run/eval/step-1/items.jsonl")}
    blind = read_items(tmp_path / "run/eval/step-1/blind.jsonl")
    assert len(blind) == 3 and {item.control for item in blind} == {"image swapped"}
    assert all(item.image_shas != own[item.sample_id].image_shas for item in blind)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(row["eval/blind_n"] == 3 and {"eval/blind", "eval/sighted"} <= row.keys() for row in rows)
    assert any(reply.get("blind") for item in run_page(tmp_path / "run").items.data for reply in item["r"])


def write_evaluations(run: Path, n: int, right: dict[str, tuple[int, int]]) -> Path:
    """Two evaluations of n questions, the first `right` of which are right: {file: (at step 0, at step 40)}."""
    first = json.loads((report_runs.write_eval(run.parent / "e") / "items.jsonl").read_text().splitlines()[0])
    for name, counts in right.items():
        for step, count in zip((0, 40), counts, strict=True):
            control = "image swapped" if name == "blind.jsonl" else None
            rows = [first | {"sample_id": f"q{i}", "verdicts": [i < count], "control": control} for i in range(n)]
            report_runs.write_jsonl(run / f"eval/step-{step}" / name, rows)
    return run


@pytest.mark.parametrize(
    ("own", "blind", "words"),
    [
        ((40, 80), (20, 20), "Of a gain of +40 points on these questions, +40 points need the image"),
        ((40, 80), (40, 80), "it is not shown that the answers need the image"),
        ((60, 80), (10, 30), "it is not shown that the gain needs the image"),
        ((80, 40), (10, 10), "+30 points need the image"),
    ],
)
def test_the_page_says_in_words_how_much_of_the_gain_needs_the_image(tmp_path: Path, own, blind, words) -> None:
    run = report_runs.write_run(tmp_path / "run", steps=40)
    write_evaluations(run, 100, {"items.jsonl": own, "blind.jsonl": blind})
    found = run_headline(read_run(run))
    assert words in found.controls[0] and "another question's image" in found.controls[0]
    assert found.verdict == f"Held-out accuracy {'rose' if own[1] > own[0] else 'fell'} from {own[0]}% to {own[1]}%"


def test_a_page_of_a_run_that_has_just_evaluated_again_leaves_out_the_newest(tmp_path: Path) -> None:
    """Its items are read before those of its blind control, between which an evaluation may end."""
    run = report_runs.write_run(tmp_path / "run", steps=40)
    write_evaluations(run, 100, {"items.jsonl": (40, 80), "blind.jsonl": (20, 20)})
    found = read_run(run)
    before = found.evaluations()[:1]
    assert "are answered right" in blind_words(found, before)


def test_a_change_whose_interval_contains_zero_is_not_called_a_rise(tmp_path: Path) -> None:
    run = report_runs.write_run(tmp_path / "run", steps=40)
    write_evaluations(run, 30, {"items.jsonl": (10, 11)})
    found = run_headline(read_run(run))
    assert found.verdict == "No measurable change in held-out accuracy: 33%, then 37%"
    assert "No blind control in this run" in found.controls[0]


def test_a_whole_evaluation_can_be_blind(tmp_path: Path) -> None:
    world = write_world(tmp_path / "world")
    keys = {
        "data": [{"source": "vlm_r1", "path": str(world / "data.jsonl")}],
        "model": rl_recipe(world).model.path,
        "decoding": {"max_new_tokens": 4},
    }
    evaluate(EvalRecipe(**keys, out=str(tmp_path / "sighted")))
    evaluate(EvalRecipe(**keys, blind="swap", out=str(tmp_path / "blind")))
    own = {item.sample_id: item for item in read_items(tmp_path / "sighted/items.jsonl")}
    blind = read_items(tmp_path / "blind/items.jsonl")
    assert {item.sample_id for item in blind} == set(own)
    assert {item.control for item in blind} == {"image swapped"} and {item.control for item in own.values()} == {None}
    for item in blind:
        assert item.image_shas != own[item.sample_id].image_shas and item.gold == own[item.sample_id].gold


def test_a_blind_evaluation_without_images_is_refused(tmp_path: Path) -> None:
    row = {"image": [], "conversations": [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    data = [{"source": "vlm_r1", "path": str(tmp_path / "rows.jsonl"), "task": "count"}]
    with pytest.raises(ValueError, match="blind: swap: no question has an image"):
        plan(EvalRecipe(data=data, blind="swap"))

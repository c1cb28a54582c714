"""Rewards in other trainers: their rows and calls, our scores."""

from __future__ import annotations

import io
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from saccade.bridges import easyr1, verl
from saccade.bridges.frames import FRAMES, frame_of
from saccade.bridges.ms_swift import orm
from saccade.bridges.scorer import TASK_OF
from saccade.bridges.trl import reward_funcs
from saccade.geometry import from_original
from saccade.models.families import ADAPTERS
from saccade.rewards import PENALTIES, REWARDS, PartConfig
from saccade.types import Frame

IMAGE = Image.new("RGB", (640, 480))
BOX = [64, 48, 320, 240]
RIGHT = "<think>It is on the left.</think><answer>[100, 100, 500, 500]</answer>"
WRONG = "<think>It is on the right.</think><answer>[600, 600, 900, 900]</answer>"


def reply(answer: str) -> str:
    return f"<think>I look.</think><answer>{answer}</answer>"


def test_trl_gets_a_reward_per_completion_in_order() -> None:
    iou, form = reward_funcs("rec_iou", "format", frame="thousand")
    columns: dict[str, Any] = {"solution": [BOX, BOX, BOX], "image": [IMAGE] * 3, "trainer_state": object()}
    completions = [RIGHT, WRONG, "[100, 100, 500, 500]"]
    assert iou(prompts=["?"] * 3, completions=completions, **columns) == [pytest.approx(1.0), 0.0, 0.0]
    assert form(prompts=["?"] * 3, completions=completions, **columns) == [1.0, 1.0, 0.0]
    assert (iou.__name__, form.__name__) == ("rec_iou", "format")


def test_a_conversation_reads_as_its_last_message() -> None:
    (iou,) = reward_funcs("rec_iou", frame="thousand")
    parts = [{"role": "assistant", "content": [{"type": "text", "text": RIGHT}]}]
    said = [{"role": "assistant", "content": RIGHT}]
    assert iou(completions=[said, parts], solution=[BOX, BOX], image=[IMAGE, IMAGE]) == [1.0, 1.0]


@pytest.mark.parametrize(
    "gold",
    [
        [{"bbox_2d": BOX, "label": "cup"}],
        '[{"bbox_2d": [64, 48, 320, 240], "label": "cup"}]',
        '<answer>[{"bbox_2d": [64, 48, 320, 240], "label": "cup"}]</answer>',
    ],
)
@pytest.mark.parametrize("column", ["solution", "answer", "ground_truth", "label"])
def test_the_gold_is_read_in_the_forms_and_columns_that_rows_have(gold: Any, column: str) -> None:
    (reward,) = reward_funcs("detection_od_length", frame="pixels_original")
    answer = reply('[{"bbox_2d": [64, 48, 320, 240], "label": "cup"}]')
    assert reward(completions=[answer], images=[[IMAGE]], **{column: [gold]}) == [1.0]


def test_a_reward_with_options_and_a_template_that_opens_the_thought() -> None:
    (strict,) = reward_funcs(PartConfig(name="rec_iou_at", options={"threshold": 0.9}), frame="thousand")
    half = reply("[100, 100, 500, 300]")
    assert strict(completions=[RIGHT, half], solution=[BOX, BOX], image=[IMAGE, IMAGE]) == [1.0, 0.0]
    (opened,), (closed,) = reward_funcs("format", opening="<think>"), reward_funcs("format")
    rest = RIGHT.removeprefix("<think>")
    assert (opened(completions=[rest]), closed(completions=[rest])) == ([1.0], [0.0])


def test_what_cannot_be_scored_is_none_and_never_zero() -> None:
    broken, _ = reward_funcs("rec_iou", "format", frame="thousand")
    assert broken(completions=[RIGHT], solution=[BOX], image=[IMAGE], image_index=[3]) == [None]


@pytest.mark.parametrize("name", sorted(set(REWARDS) - {"hard", "cosine_length", "llm_judge"}) + sorted(PENALTIES))
def test_every_reward_scores_a_reply_of_another_trainer(name: str) -> None:
    boxes = {"detect": [{"bbox_2d": BOX, "label": "cup"}], "refer": BOX, "point": BOX}
    options = {"soft_overlong": {"max_length": 100, "buffer": 20}}.get(name, {})
    (reward,) = reward_funcs(PartConfig(name=name, options=options), frame="thousand")
    task = TASK_OF.get(name)
    gold = boxes.get(task or "", {"yes_no": "yes", "vlm_r1/yes_no": "yes"}.get(name, "B" if task else "7"))
    options_given = ["red", "blue"] if task in ("choice", "choices") else []
    row: dict[str, Any] = {"solution": [gold], "image": [IMAGE], "options": [options_given], "facts": [["a cup"]]}
    (value,) = reward(prompts=["What is it?"], completions=[RIGHT], completion_ids=[list(range(9))], **row)
    assert value is not None
    assert -1 <= value <= 1


def test_verl_gets_the_weighted_sum_and_every_part() -> None:
    score = verl.compute_score({"rec_iou": 0.75, "format": 0.25}, frame="thousand")
    extra = {"image_size": [640, 480], "index": 7}
    assert score("rec", RIGHT, BOX, extra) == {
        "score": pytest.approx(1.0),
        "rec_iou": pytest.approx(1.0),
        "format": 1.0,
    }
    assert score(data_source="rec", solution_str=WRONG, ground_truth=BOX, extra_info=extra)["score"] == 0.25


def test_verl_and_easyr1_raise_for_what_they_cannot_leave_out_unless_told_a_value() -> None:
    extra = {"image_size": [640, 480], "image_index": 5}
    with pytest.raises(RuntimeError, match=r"image 5.*masked=VALUE"):
        verl.compute_score({"rec_iou": 1.0}, frame="thousand")("rec", RIGHT, BOX, extra)
    told = verl.compute_score({"rec_iou": 1.0}, frame="thousand", masked=0.5)
    assert told("rec", RIGHT, BOX, extra)["score"] == 0.5


def test_easyr1_gets_a_dictionary_per_reply() -> None:
    scores = easyr1.compute_scores({"math": 0.9, "format": 0.1})
    found = scores([{"response": reply("1/2"), "ground_truth": "0.5"}, {"response": "0.5", "ground_truth": "0.5"}])
    assert [one["overall"] for one in found] == [pytest.approx(1.0), 0.0]
    assert set(found[0]) == {"overall", "math", "format"}


def test_ms_swift_makes_an_object_and_calls_it_with_columns() -> None:
    made, png = orm("rec_iou", frame="thousand")(args=SimpleNamespace()), io.BytesIO()
    IMAGE.save(png, "PNG")
    stored = {"bytes": png.getvalue(), "path": "elsewhere.png"}
    assert made([RIGHT, WRONG], messages=[[], []], solution=[BOX, BOX], images=[[IMAGE], [stored]]) == [
        pytest.approx(1.0),
        0.0,
    ]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: reward_funcs(), "no reward"),
        (lambda: reward_funcs("rec_iuo", frame="thousand"), "did you mean 'rec_iou'"),
        (lambda: reward_funcs("rec_iou"), "neither processor nor frame"),
        (lambda: reward_funcs("rec_iou", processor=object()), "processor object, expected a processor of Qwen2VL"),
        (lambda: reward_funcs("rec_iou", frame="thousands"), "expected one of pixels_resized"),
        (lambda: reward_funcs("rec_iou", frame="pixels_resized"), "pass processor= too"),
        (lambda: verl.compute_score({"rec_iou": 0.0}, frame="thousand"), "weights above 0"),
        (lambda: easyr1.compute_scores({}), "weights above 0"),
    ],
)
def test_a_wrong_call_is_refused_before_training(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"image": [IMAGE], "target": [BOX]},
            "no gold; expected a column answer.*got image, target; name it with gold=",
        ),
        ({"solution": [BOX]}, "needs each image's size: expected a column images, image or image_size"),
        ({"solution": ["a cup"], "image": [IMAGE]}, "row 'row'"),
    ],
)
def test_a_row_that_lacks_something_says_what(columns: dict[str, Any], message: str) -> None:
    (iou,) = reward_funcs("rec_iou", frame="thousand")
    with pytest.raises(ValueError, match=message):
        iou(completions=[RIGHT], **columns)
    if "target" in columns:
        (named,) = reward_funcs("rec_iou", frame="thousand", gold="target")
        assert named(completions=[RIGHT], **columns) == [pytest.approx(1.0)]


def test_the_frame_of_a_processor_is_that_of_its_family_s_adapter() -> None:
    limits = SimpleNamespace(patch_size=14, merge_size=2, size={"shortest_edge": 3136, "longest_edge": 10**6})
    for family, adapter in ADAPTERS.items():
        name = str(PROCESSOR_MAPPING_NAMES[family])
        made = type(name, (), {"image_processor": limits})()
        expected = adapter.__code__.co_consts
        assert frame_of(made)((640, 480)).name in expected, family
    assert set(FRAMES) == {str(PROCESSOR_MAPPING_NAMES[family]) for family in ADAPTERS}


@pytest.mark.parametrize("size", [(640, 480), (57, 1999), (4000, 3000), (28, 28)])
def test_the_size_of_a_resized_image_is_that_of_its_image_processor(size: tuple[int, int]) -> None:
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 512 * 28 * 28})
    processor = type("Qwen2_5_VLProcessor", (), {"image_processor": images})()
    grid = images(images=Image.new("RGB", size), return_tensors="np")["image_grid_thw"][0]
    frame = frame_of(processor)(size)
    assert frame == Frame("pixels_resized", size, (int(grid[2]) * 14, int(grid[1]) * 14))
    (iou,) = reward_funcs("rec_iou", processor=processor)
    box = [0, 0, size[0] // 2, size[1] // 2]
    answer = reply(str(list(from_original(box, frame))))
    assert iou(completions=[answer], solution=[box], image=[Image.new("RGB", size)]) == [pytest.approx(1.0)]


def test_bridges_load_without_torch_and_transformers() -> None:
    code = """
import sys
sys.modules.update(torch=None, transformers=None)
from saccade.bridges import easyr1, ms_swift, trl, verl
(f,) = trl.reward_funcs("rec_iou", frame="thousand")
reply = "<think>a</think><answer>[1, 2, 3, 4]</answer>"
print(f(completions=[reply], solution=[[1, 2, 3, 4]], image_size=[[1000, 1000]]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "[1.0]", done.stderr

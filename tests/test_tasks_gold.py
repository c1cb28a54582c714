"""Laws of tasks: the gold passes, a corrupted gold does not, a prompt has one marker per image."""

from __future__ import annotations

import pytest

from saccade.rewards import PENALTIES
from saccade.tasks import IMAGE, TASKS, TEMPLATES, find_template, write_question
from saccade.types import Completion, Frame, Sample, Score

FRAMES = {
    "pixels_resized": Frame("pixels_resized", (640, 427), (644, 420)),
    "pixels_original": Frame("pixels_original", (640, 427), (644, 420)),
    "thousand": Frame("thousand", (640, 427), (644, 420)),
    "unit": Frame("unit", (640, 427), (644, 420)),
    "thousand_yx": Frame("thousand_yx", (640, 427), (644, 420)),
    "bins_1024": Frame("bins_1024", (640, 427), (644, 420)),
}
BOX = [101, 33, 160, 59]
BOXES = [
    {"bbox_2d": BOX, "label": "red star"},
    {"bbox_2d": [3.25, 7.5, 9, 12], "label": "Dog"},
    {"bbox_2d": [1, 2, 600, 400], "label": "Dog"},
]


def sample(task: str, answer: object, images: int = 1, **meta: object) -> Sample:
    return Sample(f"{task}-1", (b"",) * images, "What is it?", answer, task, meta)


SAMPLES = [
    sample("refer", BOX),
    sample("refer", (10.2, 10.1, 10.4, 10.3)),  # smaller than a step of most frames
    sample("refer", [639.5, 426.5, 640, 427]),
    sample("difference", BOX, images=2, image_index=1),
    sample("detect", BOXES),
    sample("detect", []),
    sample("count", "3"),
    sample("count", 0),
    sample("arithmetic", "-17"),
    sample("arithmetic", 2.0),
    sample("compare", "2"),
    sample("compare", "red circle"),
    sample("chart", "12.5"),
    sample("chart", "blue"),
    sample("geometry", "30"),
    sample("geometry", "right angle"),
    sample("choice", "B", options=["red", "green", "blue"]),
    sample("choice", "C", options=["A", "B", "C"]),
    sample("choice", "D"),
    sample("yes_no", "yes"),
    sample("yes_no", False),
    sample("text", "No Defect"),
    sample("free_form", r"\frac{\sqrt{3}}{2}"),
    sample("free_form", "7"),
    sample("gui_defect", "Navigation Logic Error", images=2),
    sample("chart_qa", 12.5),
    sample("chart_qa", "Canada"),
    sample("ocr", "EXIT  12 B"),
    sample("ocr", ["colour", "color"]),
    sample("choices", ["A", "C"]),
    sample("point", BOX),
    sample("point", (10.2, 10.1, 10.4, 10.3)),
    sample("point", [639.5, 426.5, 640, 427]),
]
WRONG = {
    "refer": '{"bbox_2d": [600, 400, 630, 410]}',
    "difference": '{"bbox_2d": [600, 400, 630, 410]}',
    "detect": '[{"bbox_2d": [300, 300, 310, 310], "label": "cat"}]',
    "point": '{"point_2d": [600, 10]}',
    "choice": "A",
    "choices": "A",
    "yes_no": "perhaps",
}


def gold(item: Sample, frame: Frame) -> Completion:
    return Completion(
        TASKS[item.task].write_gold(item, (frame,) * len(item.images)), frames=(frame,) * len(item.images)
    )


def answering(item: Sample, answer: str, frame: Frame) -> Completion:
    return Completion(f"<think>So.</think><answer>{answer}</answer>", frames=(frame,) * len(item.images))


def score(item: Sample, completion: Completion, rubric: str) -> Score:
    return TASKS[item.task].rubric(rubric)(completion, item)


def test_every_task_has_a_sample_here():
    assert {item.task for item in SAMPLES} == set(TASKS)


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
@pytest.mark.parametrize("item", SAMPLES, ids=lambda item: f"{item.task}={item.answer}")
def test_gold_gets_full_marks_in_every_part_of_every_rubric(item: Sample, frame: Frame):
    for name in TASKS[item.task].rubrics:
        got = score(item, gold(item, frame), name)
        assert got.masked is None and got.reasons == {}
        assert got.parts and set(got.parts.values()) == {1.0}
    assert TASKS[item.task].correct(gold(item, frame), item).right is True


@pytest.mark.parametrize("item", SAMPLES, ids=lambda item: f"{item.task}={item.answer}")
def test_gold_is_not_penalised(item: Sample):
    options = {"soft_overlong": {"max_length": 64, "buffer": 16}}
    for name, penalty in PENALTIES.items():
        assert penalty(gold(item, FRAMES["thousand"]), item, **options.get(name, {})).value == 0.0


@pytest.mark.parametrize("item", SAMPLES, ids=lambda item: f"{item.task}={item.answer}")
def test_a_corrupted_gold_scores_less_in_every_rubric(item: Sample):
    frame = FRAMES["pixels_resized"]
    wrong = answering(item, WRONG.get(item.task, "99"), frame)
    unclosed = Completion(gold(item, frame).text.removesuffix("</answer>"), frames=wrong.frames)
    for name in TASKS[item.task].rubrics:
        best = score(item, gold(item, frame), name).value
        assert score(item, wrong, name).value < best
        assert score(item, unclosed, name).value < best
    assert TASKS[item.task].correct(wrong, item).right is False


@pytest.mark.parametrize("item", SAMPLES, ids=lambda item: f"{item.task}={item.answer}")
def test_hard_is_one_exactly_when_the_form_is_strict_and_the_answer_right(item: Sample):
    frame = FRAMES["thousand"]
    right = TASKS[item.task].write_answer(item, (frame,) * len(item.images))
    for answer in (right, WRONG.get(item.task, "99")):
        strict = answering(item, answer, frame)
        loose = Completion(strict.text + "\n", frames=strict.frames)
        verdict = TASKS[item.task].correct(strict, item).right
        assert score(item, strict, "hard").value == float(bool(verdict))
        assert score(item, loose, "hard").value == 0.0
        assert TASKS[item.task].correct(loose, item).right is verdict


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("item", SAMPLES, ids=lambda item: f"{item.task}={item.answer}")
def test_a_prompt_has_one_marker_per_image_and_the_question(item: Sample, template: str):
    prompt = TASKS[item.task].prompt(item, template)
    assert prompt.count(IMAGE) == len(item.images)
    assert item.question in prompt


def test_markers_in_a_question_stay_where_they_are():
    asked = Sample("1", (b"", b""), "Compare <image> with <image>.", "no", "yes_no")
    assert TASKS["yes_no"].prompt(asked) == "Compare <image> with <image>."


def test_a_wrong_number_of_markers_is_refused_with_the_sample_named():
    asked = Sample("s7", (b"",), "Compare <image> with <image>.", "no", "yes_no")
    with pytest.raises(ValueError, match=r"'s7': got 2 <image> markers for 1 images"):
        TASKS["yes_no"].prompt(asked)


def test_options_are_lines_with_letters_unless_they_are_only_letters():
    task = TASKS["choice"]
    assert task.prompt(sample("choice", "B", options=["red", "blue"])) == "<image>What is it?\nA) red\nB) blue"
    assert task.prompt(sample("choice", "B", options=["A", "B"])) == "<image>What is it?"


def test_braces_in_a_question_are_left_alone():
    asked = Sample("1", (), r"Find \frac{1}{2} of {question}.", "1", "free_form")
    assert TASKS["free_form"].prompt(asked) == r"Find \frac{1}{2} of {question}."


def test_answers_are_written_in_the_form_that_the_seams_name():
    frame = (FRAMES["pixels_original"],) * 2
    write = {item.task: TASKS[item.task].write_answer(item, frame) for item in reversed(SAMPLES)}
    assert write["refer"] == '{"bbox_2d": [101, 33, 160, 59]}'
    assert write["detect"].startswith('[{"bbox_2d": [101, 33, 160, 59], "label": "red star"}, ')
    assert TASKS["detect"].write_answer(sample("detect", []), frame) == "[]"
    assert (write["count"], write["choice"], write["yes_no"], write["arithmetic"]) == ("3", "B", "yes", "-17")


def test_unknown_rubrics_and_templates_are_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'hard'"):
        TASKS["count"].rubric("hrad")
    with pytest.raises(ValueError, match="did you mean 'vlm_r1'"):
        TASKS["count"].prompt(sample("count", "3"), "vlm_r2")


def test_evaluation_reads_replies_without_tags_but_never_a_thought():
    item, task = sample("count", "3"), TASKS["count"]
    for text in (
        "3",
        "There are several. The answer is 3.",
        r"<think>four</think> so \boxed{3}",
        "<think>4</think><answer>3</answer>",
    ):
        assert task.correct(Completion(text), item).right is True
    for text in ("<think>3", "<think><answer>3</answer></think>", "", "<think>3</think>", "3 or 4"):
        assert task.correct(Completion(text), item).right is False


def test_a_wording_never_changes_under_its_id():
    ours = "First think it through in <think> </think> tags, then give the final answer in <answer> </answer> tags."
    theirs = (
        "First output the thinking process in <think> </think> tags and then output the final answer in <answer> "
        "</answer> tags."
    )
    mind = (
        "irst thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
        "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., "
    )
    here = "<think> reasoning process here </think>"
    assert {template.id: template.text for template in TEMPLATES.values()} == {
        "bare.v1": "{question}",
        "vlm_r1.v1": "{question} " + ours,
        "vlm_r1_json.v1": "{question} " + ours + " Write the final answer in JSON.",
        "vlm_r1.v2": "{question} " + theirs,
        "vlm_r1_json.v2": "{question} " + theirs + " Output the final answer in JSON format.",
        "vlm_r1_od_length.v1": "F" + mind + here + "<answer> answer here </answer>\n{question}",
        "vlm_r1_ic.v1": "{question} F" + mind + here + "<answer> json format answer here </answer>",
        "vision_r1.v1": "{question}",
        "vision_r1_zero.v1": "A conversation between User and Assistant. The user asks a question, and the Assistant "
        "solves it. The assistant f" + mind + here + " <answer> answer here </answer>.\n{question}",
    }
    assert find_template(TASKS["refer"].template).id == "bare.v1"
    assert find_template("vlm_r1_json").id == "vlm_r1_json.v2"
    assert find_template("vlm_r1_json.v1").id == "vlm_r1_json.v1"


def test_questions_that_data_imply_are_worded_as_published():
    assert write_question("refer", expression="the {labels} sign") == (
        "Please provide the bounding box coordinate of the region this sentence describes: the {labels} sign."
    )
    detect = write_question("detect", labels="cat, dog")
    assert detect.startswith("Please carefully check the image and detect the following objects: cat, dog. Output")
    assert '    {"bbox_2d": [x1, y1, x2, y2], "label": "target name"},\n' in detect
    assert detect.endswith("If there are no such targets in the image, simply respond with None.")


def test_images_come_before_words_that_a_template_puts_in_front():
    asked = Sample("1", (b"",), "Where is it?", [1, 2, 3, 4], "refer")
    shown = Sample("2", (b"",), "<image>\nWhere is it?", [1, 2, 3, 4], "refer")
    for one, lead in ((asked, "<image>"), (shown, "<image>\n")):
        prompt = TASKS["refer"].prompt(one, "vlm_r1_od_length")
        assert prompt.startswith(lead + "First thinks") and prompt.endswith("</answer>\nWhere is it?")


def test_a_comparison_of_two_screenshots_has_two():
    with pytest.raises(ValueError, match="'gui_defect-1': got 1 images, expected 2"):
        TASKS["gui_defect"].prompt(sample("gui_defect", "No Defect"))


def test_a_chart_number_within_five_percent_is_right_and_a_text_is_not():
    item, task = sample("chart_qa", 100), TASKS["chart_qa"]
    said = {
        answer: task.correct(Completion(f"<answer>{answer}</answer>"), item).right for answer in ("105", "106", "x")
    }
    assert said == {"105": True, "106": False, "x": False}


def test_a_gold_reply_needs_a_thought():
    with pytest.raises(ValueError, match="empty think"):
        TASKS["count"].write_gold(sample("count", "3"), think=" ")

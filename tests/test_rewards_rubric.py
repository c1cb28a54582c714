"""Laws of the rubric: a weighted sum with names; what fails on our side masks and never scores 0."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from saccade.rewards import PENALTIES, REWARDS, Part, PartConfig, Rubric, RubricConfig, check_row, score_all
from saccade.rewards.naming import as_score
from saccade.rewards.table import bind, reads_answer
from saccade.tasks import TASKS
from saccade.types import Completion, Frame, Sample, Score

SAMPLE = Sample("s", (), "?", "3", "count")
FRAME = Frame("pixels_original", (99, 99), (99, 99))
RIGHT = Completion("<think>a</think><answer>3</answer>")
WRONG = Completion("<think>a</think><answer>4</answer>")


def rubric(*parts: tuple[str, float], truncated: str = "score_zero") -> Rubric:
    parts_ = [PartConfig(name=name, weight=weight) for name, weight in parts]
    return RubricConfig(parts=tuple(parts_), truncated=truncated).build()


def test_the_total_is_the_weighted_sum_of_the_named_parts():
    score = rubric(("format", 0.25), ("number", 2.0))(RIGHT, SAMPLE)
    assert score == Score(2.25, None, {"format": 1.0, "number": 1.0}, {}, None)


def test_what_is_not_full_marks_says_why():
    score = rubric(("format", 0.25), ("number", 2.0))(WRONG, SAMPLE)
    assert (score.value, score.reason) == (0.25, "got 4")
    assert (score.parts, score.reasons) == ({"format": 1.0, "number": 0.0}, {"number": "got 4"})


def test_penalties_take_away():
    loop = Completion("<think>" + "a " * 50 + "</think><answer>3</answer>")
    assert rubric(("number", 1.0), ("repetition", 0.5))(loop, SAMPLE).value < 0.6


@pytest.mark.parametrize(
    ("truncated", "value", "masked"), [("score_zero", 0.0, None), ("mask", 0.0, "truncated"), ("as_is", 1.0, None)]
)
def test_a_truncated_reply_scores_zero_or_is_masked_or_scores_as_it_is(truncated, value, masked):
    cut = Completion(RIGHT.text, finish_reason="length")
    score = rubric(("number", 1.0), truncated=truncated)(cut, SAMPLE)
    assert (score.value, score.masked) == (value, masked)
    assert rubric(("number", 1.0), truncated=truncated)(RIGHT, SAMPLE).value == 1.0


OVERLONG = PartConfig(name="soft_overlong", options={"max_length": 100, "buffer": 50})


def long_reply(text: str, tokens: int) -> Completion:
    return Completion(text, (7,) * tokens, finish_reason="length" if tokens == 100 else "stop")


@pytest.mark.parametrize(
    "parts", [(), (PartConfig(name="repetition", weight=0.5),)], ids=["overlong", "and repetition"]
)
@pytest.mark.parametrize("gate", [None, "zeroes"])
@pytest.mark.parametrize("text", [RIGHT.text, "no idea " * 30])
def test_running_into_the_limit_never_pays(text, gate, parts):
    format_part = PartConfig(name="format", gate=gate) if gate else PartConfig(name="format")
    rubric = RubricConfig(parts=(PartConfig(name="number"), format_part, OVERLONG, *parts)).build()
    values = [rubric(long_reply(text, tokens), SAMPLE).value for tokens in (40, 60, 99, 100)]
    assert values == sorted(values, reverse=True) and values[-1] <= -1.0


def test_a_negative_reward_of_ones_own_stays_when_a_reply_is_truncated():
    own, gate = constant("mine.py:f", -0.5), dataclasses.replace(constant("format", 0.0), gate="zeroes")
    rubric = Rubric([dataclasses.replace(own, weight=2.0), constant("number", 1.0), gate])
    assert rubric(long_reply(RIGHT.text, 100), SAMPLE).value == -1.0


def gated(gate: str, *more: PartConfig) -> Rubric:
    parts = (PartConfig(name="number", weight=2.0), PartConfig(name="exact_text"), *more)
    return RubricConfig(parts=(*parts, PartConfig(name="format", gate=gate))).build()


def test_a_gate_adds_nothing_and_lets_the_other_rewards_through_or_not():
    loose = Completion("<answer>3</answer>")
    for gate in ("multiplies", "zeroes"):
        score = gated(gate)(RIGHT, SAMPLE)
        assert score.value == 3.0 and score.parts == {"number": 1.0, "exact_text": 1.0, "format": 1.0}
        score = gated(gate)(loose, SAMPLE)
        assert score.value == 0.0 and score.parts == {"number": 1.0, "exact_text": 1.0, "format": 0.0}


def test_a_gate_that_multiplies_lets_part_through():
    near = Completion("<think>a</think><answer>4</answer>")
    parts = (PartConfig(name="format"), PartConfig(name="counting", gate="multiplies"))
    assert RubricConfig(parts=parts).build()(near, SAMPLE).value == pytest.approx(2 / 3)
    parts = (PartConfig(name="format"), PartConfig(name="counting", gate="zeroes"))
    assert RubricConfig(parts=parts).build()(near, SAMPLE).value == 0.0


def test_breaking_a_gate_is_no_way_around_a_penalty():
    loop = Completion("a " * 50)
    assert gated("zeroes", PartConfig(name="repetition"))(loop, SAMPLE).value < -0.8


def row(**meta: object) -> Sample:
    return Sample("s", (), "?", "3", "count", meta)


BY_ROW = RubricConfig(parts=(PartConfig(name="number", by_row=True), PartConfig(name="format")))


def test_a_row_may_name_its_own_reward():
    rubric = BY_ROW.build()
    assert rubric(WRONG, row()).value == 1.0
    assert rubric(WRONG, row(reward="counting")).parts == {"number": pytest.approx(2 / 3), "format": 1.0}
    assert rubric(WRONG, row(reward={"name": "number", "options": {"absolute": 1}})).value == 2.0
    assert rubric(WRONG, row(accu_reward_method="all_match")).value == 1.0
    assert rubric(RIGHT, row(accu_reward_method="default")).value == 2.0
    fixed = RubricConfig(parts=(PartConfig(name="number"),)).build()
    assert fixed(WRONG, row(reward="counting")).value == 0.0, "a part that does not go by rows stays as it is"


def test_the_row_decides_what_hard_is_hard_about():
    options = {"accuracy": "number"}
    hard = RubricConfig(parts=(PartConfig(name="hard", options=options, by_row=True),)).build()
    near = row(reward={"name": "number", "options": {"absolute": 1}})
    assert [hard(WRONG, one).value for one in (row(), near)] == [0.0, 1.0]
    assert hard(Completion(WRONG.text + "."), near).value == 0.0


def test_every_task_goes_by_rows():
    boxes = Completion('<think>a</think><answer>[{"bbox_2d": [0, 0, 9, 9], "label": "a"}]</answer>', frames=(FRAME,))
    gold = [{"bbox_2d": [0, 0, 9, 9], "label": "a"}, {"bbox_2d": [20, 20, 29, 29], "label": "a"}]
    for method, value in (("od_ap50", 51 / 101), ("odLength", 51 / 101), ("weighted_sum", 0.7 / 2 + 0.3 * 0.75)):
        sample = Sample("s", (b"",), "?", gold, "detect", {"accu_reward_method": method})
        assert TASKS["detect"].rubric("format_and_accuracy")(boxes, sample).value == pytest.approx(1 + value)


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ({"reward": "nmber"}, "sample 's': unknown reward 'nmber'; did you mean 'number'"),
        ({"reward": 0.7}, "sample 's': got reward 0.7, expected a name"),
        ({"reward": "repetition"}, "a row may name one of REWARDS only"),
        ({"reward": "x.py:f"}, "a row may name one of REWARDS only"),
        ({"accu_reward_method": "mcp"}, "unknown reward 'mcp'; did you mean 'mcq'"),
        ({"reward": {"name": "number", "options": {"a": 1}}}, "has no option 'a'"),
    ],
)
def test_a_row_with_a_reward_that_is_not_there_is_refused_by_name(meta, words):
    with pytest.raises(ValueError, match=words):
        check_row(row(**meta))
    (score,) = score_all([(BY_ROW.build(), RIGHT, row(**meta))])
    assert score.masked is not None and score.value == 0.0


def broken(completion: Completion, sample: Sample) -> float:
    return [0.5][len(completion.text)]


@pytest.mark.parametrize("value", [math.nan, math.inf, 1.5, -0.1])
def test_a_value_out_of_range_masks(value):
    score = Rubric([Part("mine", lambda c, s: value)])(RIGHT, SAMPLE)
    assert score.masked is not None and score.value == 0.0 and "expected a value in [0, 1]" in score.masked


def test_an_exception_masks_with_its_name_and_place():
    score = Rubric([Part("mine", broken), Part("other", lambda c, s: 1.0)])(RIGHT, SAMPLE)
    assert score.masked is not None
    assert score.masked.startswith("mine: IndexError: list index out of range (")
    assert "test_rewards_rubric.py" in score.masked and "in broken" in score.masked
    assert score.value == 0.0 and math.isfinite(score.parts["mine"])


def test_a_completion_without_frames_is_our_failure_not_the_models():
    sample = Sample("s9", (b"",), "?", [1, 2, 3, 4], "refer")
    score = rubric(("rec_iou", 1.0))(Completion("<think>a</think><answer>[1, 2, 3, 4]</answer>"), sample)
    assert score.masked is not None and "'s9'" in score.masked


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([], "at least one part"),
        ([{"name": "format"}, {"name": "format"}], "'format' is given twice"),
        ([{"name": "formt"}], "did you mean 'format'"),
        ([{"name": "number", "weight": 0}], "greater than 0"),
        ([{"name": "number", "weight": -1}], "greater than 0"),
        ([{"name": "number", "weight": math.nan}], "finite|greater than 0"),
        ([{"name": "number", "options": {"relativ": 0.1}}], "no option 'relativ'; did you mean 'relative'"),
        ([{"name": "soft_overlong"}], "needs the option 'max_length'"),
        ([{"name": "hard", "options": {"accuracy": "nmber"}}], "did you mean 'number'"),
        ([{"name": "number", "wieght": 1}], "Extra inputs"),
        ([{"name": "mcq"}, {"name": "choice"}], "'choice' is given twice"),
        ([{"name": "number", "options": {"relative": -1}}], "option 'relative': got -1; input should be greater"),
        ([{"name": "number", "options": {"relative": "much"}}], "option 'relative': got 'much'"),
        ([{"name": "soft_overlong", "options": {"max_length": 9, "buffer": 10}}], "expected 0 < buffer <= max_length"),
        ([{"name": "soft_overlong", "options": {"max_length": 9.5, "buffer": 1}}], "option 'max_length': got 9.5"),
        ([{"name": "detection_map", "options": {"thresholds": [0.5, 1.5]}}], "option 'thresholds'"),
        ([{"name": "detection_od_length", "options": {"thresholds": []}}], "option 'thresholds'"),
        ([{"name": "vlm_r1/map", "options": {"thresholds": [0.5] * 101}}], "option 'thresholds'"),
        ([{"name": "format", "options": {"form": "bx"}}], "option 'form': got 'bx'"),
        ([{"name": "hard", "options": {"accuracy": "number", "options": {"relativ": 1}}}], "did you mean 'relative'"),
        ([{"name": "format", "gate": "zeroes"}], "a gate needs a reward for it to act on"),
        ([{"name": "format", "gate": "zeroes"}, {"name": "repetition"}], "a gate needs a reward for it to act on"),
        ([{"name": "format", "gate": "zeroes", "weight": 0.5}, {"name": "number"}], "a gate takes no weight"),
        ([{"name": "repetition", "gate": "zeroes"}, {"name": "number"}], "it is never 1"),
    ],
)
def test_an_impossible_rubric_is_refused_when_it_is_read(parts, words):
    with pytest.raises(ValidationError, match=words):
        RubricConfig.model_validate({"parts": parts})


def test_a_rubric_from_parts_is_checked_too():
    with pytest.raises(ValueError, match="positive number"):
        Rubric([Part("a", broken, -1.0)])
    with pytest.raises(ValueError, match="given twice"):
        Rubric([Part("a", broken), Part("a", broken)])


def test_a_users_own_reward_comes_from_a_file(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text("def short(completion, sample, limit):\n    return float(len(completion.text) < limit)\n")
    config = RubricConfig(parts=(PartConfig(name=f"{file}:short", options={"limit": 99}), PartConfig(name="number")))
    assert config.build()(RIGHT, SAMPLE).parts == {f"{file}:short": 1.0, "number": 1.0}


def test_a_file_or_function_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="there is no file"):
        RubricConfig(parts=(PartConfig(name=f"{tmp_path}/none.py:f"),)).build()
    (tmp_path / "mine.py").write_text("def short(completion, sample):\n    return 1.0\n")
    with pytest.raises(ValueError, match="did you mean 'short'"):
        RubricConfig(parts=(PartConfig(name=f"{tmp_path}/mine.py:shrt"),)).build()


def test_a_rubric_survives_being_written_and_read():
    config = RubricConfig(parts=(PartConfig(name="number", options={"relative": 0.05}),), truncated="mask")
    assert RubricConfig.model_validate(config.model_dump(mode="json")) == config


def test_rewards_and_tasks_import_quickly_and_without_torch():
    code = (
        "import sys, time; start = time.process_time(); import saccade.rewards, saccade.tasks; "
        "assert 'torch' not in sys.modules and 'sympy' not in sys.modules; assert time.process_time() - start < 1"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


BOXED = Completion(r"<think>I see \boxed{4}.</think>So there are \boxed{3}.")
LINE = Completion("Three and none. Final answer: 3")


@pytest.mark.parametrize(
    ("where", "values"), [("tag", [1.0, 0.0, 0.0]), ("boxed", [0.0, 1.0, 0.0]), ("final", [1.0, 1.0, 1.0])]
)
def test_a_part_reads_the_answer_where_it_is_told_to(where, values):
    part = PartConfig.model_validate({"name": "number", "where": where})
    built = RubricConfig(parts=(part,)).build()
    assert [built(completion, SAMPLE).value for completion in (RIGHT, BOXED, LINE)] == values
    judged = RubricConfig(parts=(PartConfig(name="number", options={"where": where}),)).build()
    assert [judged(completion, SAMPLE).value for completion in (RIGHT, BOXED, LINE)] == values


def test_every_reward_that_reads_an_answer_can_read_it_from_a_box():
    texts = {"choice": "B", "choices": "B", "yes_no": "yes", "exact_text": "red", "char_similarity": "red", "math": "3"}
    golds: dict[str, object] = {name: texts.get(name, "3") for name in REWARDS if reads_answer(name)}
    lists = [{"bbox_2d": [1, 2, 30, 40], "label": "a"}]
    for name in golds:
        if name.startswith(("rec_", "point")):
            golds[name] = [1, 2, 30, 40]
        elif name.startswith("detection"):
            golds[name] = lists
    around = {"hard", "cosine_length", "llm_judge"}
    assert {"choice", "rec_iou", "point_in_box", "detection_map", "math", *around} <= golds.keys()
    assert not any(reads_answer(name) for name in (*PENALTIES, "format", "language_consistency", "vlm_r1/map"))
    for name, gold in golds.items():
        if name in around:
            continue
        said = '{"point": [9, 9]}' if name.startswith("point") else json.dumps(gold) if isinstance(gold, list) else gold
        completion = Completion(rf"<think>a</think>It is \boxed{{{said}}}.", frames=(FRAME,))
        sample = Sample("s", (), "?", gold, "any")
        assert as_score(bind(name, {"where": "boxed"})(completion, sample)).value == 1.0, name
        assert as_score(bind(name, {})(completion, sample)).value == 0.0, name


def test_rewards_around_another_one_and_rewards_of_rows_read_the_answer_there_too():
    around = PartConfig(name="cosine_length", options={"accuracy": "number", "max_length": 9}, where="boxed").build()
    assert as_score(around.function(BOXED, SAMPLE)).value == 1.0
    by_row = RubricConfig(parts=(PartConfig(name="exact_text", where="boxed", by_row=True),)).build()
    row = Sample("s", (), "?", "3.0", "any", {"reward": "number"})
    listed = Sample("s", (), "?", [], "any", {"reward": "vlm_r1/map"})
    assert by_row(BOXED, row).value == 1.0 and by_row(RIGHT, row).reason == "no boxed answer"
    assert by_row(BOXED, listed).masked is not None, "it reads no such answer, and the frame is missing"
    strict = PartConfig(name="hard", options={"accuracy": "number"}, where="boxed").build()
    inside = Completion(r"<think>a</think><answer>\boxed{3}</answer>")
    assert [as_score(strict.function(one, SAMPLE)).value for one in (inside, BOXED, RIGHT)] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ({"name": "format", "where": "boxed"}, "'where' is not an option of this reward"),
        ({"name": "repetition", "where": "final"}, "'where' is not an option of this reward"),
        ({"name": "mine.py:f", "where": "boxed"}, "'where' is not an option of this reward"),
        ({"name": "number", "where": "boxed", "options": {"where": "final"}}, "given twice"),
        ({"name": "number", "where": "box"}, "'tag', 'boxed' or 'final'"),
        ({"name": "number", "options": {"where": "box"}}, "option 'where': got 'box'"),
    ],
)
def test_a_place_that_cannot_be_is_refused(part, problem):
    with pytest.raises(ValidationError, match=problem):
        PartConfig.model_validate(part)


def constant(name: str, value: float, weight: float = 1.0, **more: object) -> Part:
    return Part(name, lambda completion, sample: value, weight, **more)


@pytest.mark.parametrize(
    ("parts", "total"),
    [
        ([constant("a", 0.5, 2.0), constant("b", 1.0, 0.25)], 1.25),
        ([constant("a", 0.5, 2.0), constant("p", -0.5, 4.0, penalty=True)], 1.0 - 2.0),
        ([constant("a", 0.5, 2.0), constant("g", 0.25, gate="multiplies")], 0.25),
        (
            [constant("a", 0.5, 2.0), constant("g", 0.25, gate="multiplies"), constant("h", 0.5, gate="multiplies")],
            0.125,
        ),
        ([constant("a", 0.5, 2.0), constant("g", 0.999, gate="zeroes")], 0.0),
        ([constant("a", 0.5, 2.0), constant("g", 1.0, gate="zeroes")], 1.0),
        (
            [constant("a", 0.5), constant("g", 0.5, gate="multiplies"), constant("p", -0.5, 3.0, penalty=True)],
            0.25 - 1.5,
        ),
    ],
)
def test_rewards_gates_and_penalties_add_up_to_the_number(parts: list[Part], total: float):
    assert Rubric(parts)(RIGHT, SAMPLE).value == pytest.approx(total)


@pytest.mark.parametrize(
    ("part", "masks"),
    [
        (constant("a", 0.0), False),
        (constant("a", 1.0), False),
        (constant("a", -0.001), True),
        (constant("a", 1.001), True),
        (constant("p", -1.0, penalty=True), False),
        (constant("p", 0.0, penalty=True), False),
        (constant("p", -1.001, penalty=True), True),
        (constant("p", 0.001, penalty=True), True),
        (constant("mine.py:f", -1.0), False),
        (constant("mine.py:f", 1.0), False),
        (constant("mine.py:f", -1.001), True),
        (constant("mine.py:f", 1.001), True),
    ],
)
def test_a_reward_is_zero_to_one_a_penalty_below_zero_and_ones_own_either(part: Part, masks: bool):
    assert (Rubric([part])(RIGHT, SAMPLE).masked is not None) is masks


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
def test_a_part_needs_a_weight_that_is_positive_and_finite(weight: float):
    with pytest.raises(ValueError, match="positive number"):
        Rubric([constant("a", 1.0, weight)])
    assert Rubric([constant("a", 1.0, 1e-3)])(RIGHT, SAMPLE).value == 1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "number", "deadline_s": 1.0}, "'deadline_s' is only for your own reward"),
        ({"name": "number", "workers": 1}, "'workers' is only for your own reward"),
        ({"name": "mine.py:f", "deadline_s": 0}, "greater than 0"),
        ({"name": "mine.py:f", "deadline_s": math.inf}, "finite"),
        ({"name": "mine.py:f", "workers": 0}, "greater than or equal to 1"),
        ({"name": "number", "weight": math.inf}, "finite"),
        ({"name": "format", "gate": "multiplies", "weight": 2.0}, "a gate takes no weight"),
    ],
)
def test_an_impossible_part_is_refused(options: dict[str, object], words: str):
    with pytest.raises(ValidationError, match=words):
        PartConfig.model_validate(options)


def test_a_part_takes_the_smallest_options_and_is_plain_unless_it_says_more():
    own = PartConfig(name="mine.py:f", deadline_s=1e-3, workers=1, weight=1e-3)
    assert (own.deadline_s, own.workers, own.by_row, own.gate) == (1e-3, 1, False, None)
    assert PartConfig(name="number").model_dump() == {
        "name": "number",
        "weight": 1.0,
        "options": {},
        "gate": None,
        "by_row": False,
        "deadline_s": None,
        "memory_gb": None,
        "workers": None,
        "where": "tag",
    }
    assert RubricConfig(parts=(own,)).truncated == "score_zero"
    part = PartConfig(name="repetition", weight=0.5).build()
    assert (part.name, part.weight, part.penalty, part.gate, part.row_override) == ("repetition", 0.5, True, None, None)
    assert (Part("a", broken).weight, Part("a", broken).penalty) == (1.0, False)


def test_a_truncated_reply_says_so_and_a_masked_one_keeps_the_parts():
    cut = Completion(RIGHT.text, finish_reason="length")
    assert rubric(("number", 1.0))(cut, SAMPLE) == Score(0.0, "truncated", {"number": 1.0}, {}, None)
    assert rubric(("number", 1.0), truncated="mask")(cut, SAMPLE) == Score(
        0.0, "truncated", {}, {}, "truncated", truncated=True
    )
    masked = Rubric([constant("a", 0.5), constant("b", 2.0), constant("c", 3.0)])(RIGHT, SAMPLE)
    assert (masked.value, masked.parts) == (0.0, {"a": 0.5, "b": 0.0, "c": 0.0})
    assert masked.masked == "b: got 2.0, expected a value in [0, 1]", "the first failure is named"


def test_the_first_part_that_is_not_full_gives_the_reason():
    score = rubric(("format", 1.0), ("number", 1.0), ("exact_text", 1.0))(WRONG, SAMPLE)
    assert list(score.reasons) == ["number", "exact_text"] and score.reason == score.reasons["number"]


def test_a_part_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        constant("a", 1.0).weight = 2.0

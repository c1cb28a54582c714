"""Laws of the rubric: a weighted sum with names; what fails on our side masks and never scores 0."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from saccade.rewards import Part, PartConfig, Rubric, RubricConfig
from saccade.types import Completion, Sample, Score

SAMPLE = Sample("s", (), "?", "3", "count")
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

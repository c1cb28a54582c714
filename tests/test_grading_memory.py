"""A reply is graded once in a step, whoever asks for the verdict."""

from __future__ import annotations

import pytest

from saccade import grading
from saccade.grading.memory import LONGEST, remembered
from saccade.grading.verdict import Verdict
from saccade.rollout.collect import score_groups
from saccade.rollout.prompts import Prompt
from saccade.tasks import TASKS
from saccade.training.group_metrics import group_metrics
from saccade.training.heldout import right
from saccade.types import Completion, Sample

GRADED = {
    "count": (grading.grade_number, 3, "3", "4"),
    "free_form": (grading.grade_math, r"\frac{1}{2}", "0.5", "2"),
    "choice": (grading.grade_choice, "B", "B", "A"),
    "yes_no": (grading.grade_yes_no, "yes", "yes", "no"),
    "text": (grading.grade_text, "a red door", "A red door.", "a blue door"),
    "compare": (grading.grade_value, "left", "left", "right"),
}


@pytest.mark.parametrize("task", GRADED)
def test_rewards_and_metrics_of_a_step_grade_each_reply_once(task: str) -> None:
    grade, gold, good, bad = GRADED[task]
    sample = Sample(f"memory-{task}", (), "?", gold, task, {"options": ("x", "y")} if task == "choice" else {})
    replies = [Completion(f"<think>because</think><answer> {text} </answer>") for text in (good, bad, good)]
    prompt = Prompt(sample, None, ())  # type: ignore[arg-type]  # nothing encodes it here
    grade.cache_clear()
    before = grade.cache_info()
    groups = score_groups("g", {0: prompt}, [replies], lambda name: TASKS[name].rubric())
    accuracy = group_metrics(groups, right)[f"accuracy/{task}"]
    after = grade.cache_info()
    assert accuracy == pytest.approx(2 / 3)
    assert (after.misses - before.misses, after.hits - before.hits) == (2, 4)


def test_a_verdict_without_a_decision_is_asked_for_again_and_defaults_are_one_with_their_values() -> None:
    calls: list[tuple[object, ...]] = []

    @remembered
    def grade(answer: str, gold: object, tolerance: float = 0.0) -> Verdict:
        calls.append((answer, gold, tolerance))
        return Verdict(None if answer == "busy" else answer == str(gold), "test")

    assert grade("3", 3).right and grade("3", 3, 0.0).right and len(calls) == 1
    assert grade("3", 3, 0.5).right and len(calls) == 2
    assert grade("True", True).right and not grade("1", True).right and grade("1", 1).right  # 1 == True in Python
    assert grade("busy", 3).right is None and grade("busy", 3).right is None and calls.count(("busy", 3, 0.0)) == 2
    long = "x" * (LONGEST + 1)
    assert not grade(long, 3).right and not grade(long, 3).right and calls.count((long, 3, 0.0)) == 2
    assert not grade("3", [3]).right

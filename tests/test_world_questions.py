from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from saccade.parsing import read_reply
from saccade.tasks import TASKS
from saccade.types import Completion, Frame
from saccade.world import FIRST_WORDS, HABITS, Question, World, WorldConfig
from saccade.world.checker import check
from saccade.world.config import HELD_OUT
from saccade.world.generator import KINDS, WorldItem
from saccade.world.splits import ALL_TASKS, SPLITS
from saccade.world.summary import answer_shares

GRID = World()
FREE = World(WorldConfig(layout="free"))
PAIRS = [(split, task) for split, rules in SPLITS.items() for task in rules.tasks]
CLASSES = {"count": 6, "compare": 4, "choice": 4, "yes_no": 2, "arithmetic": 40, "chart": 19, "geometry": 50}


@pytest.fixture(scope="module")
def items() -> dict[tuple[str, str], list[WorldItem]]:
    return {(split, task): [GRID.item(7, k, task, split) for k in range(16)] for split, task in PAIRS}


def test_every_question_kind_has_a_task() -> None:
    assert set(KINDS) == set(ALL_TASKS) <= set(TASKS)


@pytest.mark.parametrize(("split", "task"), PAIRS)
def test_text_and_pixels_give_the_gold_answer(items, split: str, task: str) -> None:
    assert [reason for item in items[split, task] if (reason := check(item))] == []


@pytest.mark.parametrize("task", ALL_TASKS)
def test_text_and_pixels_give_the_gold_answer_with_overlaps(task: str) -> None:
    found = [FREE.item(7, k, task) for k in range(8)]
    assert [reason for item in found if (reason := check(item))] == []


@pytest.mark.parametrize("task", ALL_TASKS)
def test_the_checker_refuses_a_wrong_gold(items, task: str) -> None:
    for item in items["train", task][:5]:
        _, wrong = GRID.wrong_chain(item.question, Random(0))
        assert wrong != item.sample.answer
        assert check(replace(item, sample=replace(item.sample, answer=wrong))) is not None


def test_the_checker_sees_a_hidden_object(items) -> None:
    found = (FREE.item(9, k, "count") for k in range(60))
    item = next(item for item in found if min(thing.visible for thing in item.scene.objects) < 0.9)
    assert check(item) is None
    assert "shows" in str(check(item, visible_share=0.999))


@pytest.mark.parametrize("task", CLASSES)
def test_no_answer_is_much_more_frequent_than_the_others(task: str) -> None:
    n = 200
    shares = answer_shares([GRID.item(1, k, task, "test") for k in range(n)])
    slack = 1.64 * (0.25 / n) ** 0.5  # standard error of a share estimated from n items
    assert max(shares.values()) <= max(0.30, 1 / CLASSES[task] + 0.05) + slack
    if task in ("count", "compare", "choice", "yes_no"):
        assert len(shares) == CLASSES[task]


def test_items_are_reproducible_and_record_their_origin() -> None:
    item, again = GRID.item(4, 9, "refer", "ood_style"), World().item(4, 9, "refer", "ood_style")
    assert item.sample.id == "world/ood_style/refer/4/9"
    assert item.scene == again.scene
    assert item.sample.images[0].tobytes() == again.sample.images[0].tobytes()
    meta = item.sample.meta
    assert (meta["source"], meta["split"], meta["seed"], meta["index"]) == ("world", "ood_style", 4, 9)
    assert meta["difficulty"] == len(item.question.targets) == 1


def test_train_and_test_share_no_scene() -> None:
    train = {GRID.scene(0, k).objects for k in range(200)}
    train |= {GRID.item(0, k, "count").scene.objects for k in range(100)}
    assert not any(GRID.item(0, k, "count", "test").scene.objects in train for k in range(100))


def test_training_questions_never_name_a_held_out_pair(items) -> None:
    for (split, _), found in items.items():
        for item in found:
            text = " ".join([item.question.text, *item.question.options])
            named = any(f"{color} {shape}" in text for color, shape in HELD_OUT)
            assert split == "ood_combination" or not named


def test_held_out_questions_are_about_a_held_out_pair(items) -> None:
    for (split, _), found in items.items():
        if split == "ood_combination":
            assert all(HELD_OUT & {(t.color, t.shape) for t in item.question.targets} for item in found)


def test_relations_are_one_hop_in_training_and_two_in_their_split(items) -> None:
    assert all(item.question.query.anchor.kind == "relation" for item in items["ood_relation", "refer"])
    anchors = [i.question.query.anchor for i in items["train", "refer"] if i.question.level == "relation"]
    assert anchors and all(anchor.kind == "attribute" for anchor in anchors)


def test_questions_about_one_scene_are_distinct_and_spread_over_tasks_and_answers() -> None:
    for index in range(10):
        found = GRID.questions(GRID.scene(0, index), Random(index), 6, ["count", "compare", "yes_no"])
        assert len({q.text for q in found}) == 6
        assert Counter(q.task for q in found) == {"count": 2, "compare": 2, "yes_no": 2}
        counts = [q.answer for q in found if q.task == "count"]
        assert len(set(counts)) == len(counts)


def test_tasks_that_do_not_fit_a_scene_are_skipped() -> None:
    assert GRID.questions(GRID.scene(0, 0, kind="chart"), Random(0), 3, ["count"]) == []
    assert {q.task for q in GRID.questions(GRID.scene(0, 0, kind="digits"), Random(0), 6)} == {
        "count",
        "arithmetic",
        "compare",
    }
    with pytest.raises(ValueError, match="unknown task 'cuont'"):
        GRID.questions(GRID.scene(0, 0), Random(0), 3, ["cuont"])


def test_every_habit_starts_with_its_word_and_does_not_change_the_question(items) -> None:
    for found in items.values():
        for item in found[:6]:
            for habit in HABITS:
                think = GRID.chain(item.question, habit, Random(0))
                assert think.split()[0] == FIRST_WORDS[habit]
                assert think == GRID.chain(item.question, habit, Random(0))
                assert "<" not in think
            assert item.question.answer == item.sample.answer


def _says(question: Question, think: str) -> bool:
    """The chain's last words state the answer."""
    last = think.split()[-1].strip(".,")
    if question.task in ("refer", "difference"):
        return last == question.targets[0].cell
    return last == str(question.answer)


def test_chains_end_in_the_true_answer(items) -> None:
    tasks = ("arithmetic", "compare", "refer", "difference", "chart", "geometry", "choice", "yes_no")
    for (_, task), found in items.items():
        for item in found[:8] if task in tasks else ():
            for habit in ("enumerate", "check", "ramble"):
                assert _says(item.question, GRID.chain(item.question, habit, Random(1)))
            if task not in ("refer", "difference"):
                assert _says(item.question, GRID.chain(item.question, "terse", Random(1)))


def test_counting_chains_list_each_target_once_with_a_running_tally(items) -> None:
    for item in items["train", "count"]:
        expected = ", ".join(f"{t.cell} {k}" for k, t in enumerate(item.question.targets, 1)) or "none"
        assert GRID.chain(item.question, "enumerate", Random(0)) == f"scan {expected}"


def test_habits_differ_in_how_much_they_write_out(items) -> None:
    for item in items["train", "arithmetic"]:
        words = {habit: len(GRID.chain(item.question, habit, Random(3)).split()) for habit in HABITS}
        assert words["terse"] < words["enumerate"] < words["check"] < words["ramble"]
        assert words["ramble"] >= 45
    with pytest.raises(ValueError, match="unknown habit 'muse'"):
        GRID.chain(items["train", "count"][0].question, "muse", Random(0))


def test_wrong_chains_lead_to_a_wrong_answer_that_the_task_marks_wrong(items) -> None:
    for task in ("count", "arithmetic", "compare", "choice", "yes_no"):
        for item in items["train", task]:
            think, wrong = GRID.wrong_chain(item.question, Random(2))
            reply = Completion(f"<think>{think}</think><answer>{wrong}</answer>")
            assert TASKS[task].correct(reply, item.sample).right is False


@pytest.mark.parametrize("task", ALL_TASKS)
def test_the_gold_reply_with_any_habit_gets_full_marks(items, task: str) -> None:
    for item in items["train", task][:4]:
        frames = tuple(Frame("pixels_resized", image.size, image.size) for image in item.sample.images)
        for habit in HABITS:
            think = GRID.chain(item.question, habit, Random(0))
            text = TASKS[task].write_gold(item.sample, frames, think=think)
            assert read_reply(text).strict
            assert TASKS[task].rubric("hard")(Completion(text, frames=frames), item.sample).value == 1.0


def test_a_task_that_a_split_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(ValueError, match="'ood_relation' has no task 'count'; it has refer"):
        GRID.item(0, 0, "count", "ood_relation")
    with pytest.raises(ValueError, match="raise objects_max"):
        World(WorldConfig(objects_max=3, count_max=5)).item(0, 3, "count")

"""The cold-start set: right answers in every habit, readable by SFT, the same for the same seed."""

from __future__ import annotations

import json

import pytest

from saccade.base.tiny import write_checkpoint
from saccade.models.config import ModelConfig
from saccade.models.policy import load_policy
from saccade.studies.chains import ChainSource, frames_of, write_chains
from saccade.tasks import TASKS
from saccade.training.config import ExampleConfig
from saccade.training.examples import read_examples
from saccade.types import Completion
from saccade.world import HABITS, World

WEIGHTS = {"terse": 1.0, "enumerate": 1.0, "check": 1.0, "ramble": 1.0}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    directory = write_checkpoint(tmp_path_factory.mktemp("tiny"), "S", seed=0)
    return load_policy(ModelConfig(path=str(directory))).adapter


def source(adapter, seed=0, habits=WEIGHTS):
    return ChainSource(World(), adapter, ("count", "arithmetic", "compare", "refer"), habits, seed)


def test_every_reply_of_every_habit_gets_the_hard_reward(adapter):
    chains = source(adapter)
    seen = set()
    for index in range(60):
        item, habit, reply = chains.item(index)
        seen.add(habit)
        completion = Completion(reply, frames=frames_of(adapter, item.sample))
        assert TASKS[item.sample.task].rubric("hard")(completion, item.sample).value == 1.0, (habit, reply)
    assert seen == set(HABITS)


def test_habits_differ_in_their_text_and_never_in_the_answer(adapter):
    answers = {}
    for habit in HABITS:
        replies = [source(adapter, habits={habit: 1.0}).item(i)[2] for i in range(12)]
        answers[habit] = [reply.partition("<answer>")[2] for reply in replies]
    assert len({tuple(one) for one in answers.values()}) == 1


def test_sft_can_read_the_set_on_disk(adapter, tmp_path):
    path = write_chains(source(adapter), tmp_path, 16)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    examples = read_examples(ExampleConfig(path=path))
    assert (
        [e.reply for e in examples]
        == [row["response"] for row in rows]
        == [source(adapter).item(i)[2] for i in range(16)]
    )
    assert len(rows) == 16 and {row["meta"]["habit"] for row in rows} <= set(HABITS)
    assert not (tmp_path / "train.jsonl.part").exists()


def test_another_seed_gives_other_questions(adapter):
    assert [source(adapter, 0).item(i)[2] for i in range(8)] != [source(adapter, 1).item(i)[2] for i in range(8)]

"""Alarms: each has a scripted policy that sets it off; the demo's healthy run sets off none."""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from saccade.cli.resume import resume
from saccade.models.adapter import EncodedPrompt
from saccade.rollout.groups import Group, Rollout
from saccade.rollout.prompts import Prompt
from saccade.runs.alarms import ALARMS, AlarmConfig, AlarmWatch, judge, read_alarms
from saccade.training.group_metrics import group_metrics
from saccade.training.heldout import right
from saccade.training.reply_metrics import repetition
from saccade.training.rl import train
from saccade.types import Completion, Frame, Sample, Score
from tests.training_runs import rl_recipe, write_world

SIZE = (112, 112)
STEPS = 60
HEALTHY = Path(__file__).parent / "cases" / "healthy_demo.jsonl"
"""metrics.jsonl of the demo's RL run, seed 0, with the keys that rules read."""
Row = dict[str, Any]
Reply = Callable[[int, Sample, random.Random], tuple[str, float]]
"""(step, question, randomness) -> (text, reward)."""


def encoded() -> EncodedPrompt:
    found = EncodedPrompt.__new__(EncodedPrompt)
    for name, value in {"image_shas": ("a",), "prompt_id": "p"}.items():
        object.__setattr__(found, name, value)
    return found


def counts(rng: random.Random) -> list[Sample]:
    return [Sample(f"c{i}", (), "How many?", str(rng.randint(0, 9)), "count") for i in range(8)]


def boxes(rng: random.Random) -> list[Sample]:
    found = []
    for i in range(8):
        x, y = rng.randint(0, 80), rng.randint(0, 80)
        found.append(Sample(f"b{i}", (), "Where is it?", [x, y, x + 25, y + 25], "refer"))
    return found


def step_row(step: int, reply: Reply, samples: list[Sample], rng: random.Random) -> Row:
    groups = []
    for sample in samples:
        made = [reply(step, sample, rng) for _ in range(4)]
        frame = Frame("pixels_original", SIZE, SIZE)
        mean = sum(reward for _, reward in made) / 4
        rollouts = tuple(
            Rollout(Completion(text, tuple(range(len(text.split()))), frames=(frame,)), Score(reward), reward - mean)
            for text, reward in made
        )
        groups.append(Group(f"{step}-{sample.id}", Prompt(sample, encoded()), rollouts))
    return {"step": step, "stage": "one", "policy/entropy": 0.5, "tokens/per_s": 1000.0, **group_metrics(groups, right)}


def run_of(reply: Reply, samples: Callable[[random.Random], list[Sample]] = counts, **extra: Any) -> Iterator[Row]:
    """The metrics of a run whose policy is a script; `extra` are functions of the step for metrics not of replies."""
    rng = random.Random(0)
    for step in range(1, STEPS + 1):
        yield step_row(step, reply, samples(rng), rng) | {k.replace("__", "/"): f(step) for k, f in extra.items()}


def answer(value: object, think: str = "I count them one by one") -> str:
    return f"<think>{think}</think><answer>{value}</answer>"


def learns(step: int, sample: Sample, rng: random.Random) -> tuple[str, float]:
    """Right ever more often, at the same length and with other answers where it is wrong."""
    ok = rng.random() < 0.2 + 0.6 * step / STEPS
    return answer(sample.answer if ok else rng.randint(10, 20)), float(ok)


def guesses(step: int, sample: Sample, rng: random.Random) -> tuple[str, float]:
    value = rng.randint(0, 9)
    return answer(value), float(str(value) == sample.answer)


def form_only(step: int, sample: Sample, rng: random.Random) -> tuple[str, float]:
    formed = rng.random() < step / 15
    value = rng.randint(10, 19)  # never right
    return (answer(value), 0.5) if formed else (f"the answer is {value}", 0.0)


def shrinks(step: int, sample: Sample, rng: random.Random) -> tuple[str, float]:
    return answer(rng.randint(0, 9), "word " * max(0, 40 - 2 * step)), rng.random()


def grows(step: int, sample: Sample, rng: random.Random) -> tuple[str, float]:
    words = " ".join(str(rng.random()) for _ in range(10 + 2 * step))
    return answer(rng.randint(0, 9), words), rng.random()


def repeats(step: int, sample: Sample, rng: random.Random) -> tuple[str, float]:
    return answer(rng.randint(0, 9), "so I look again at it " * 10), rng.random()


def always_three(step: int, sample: Sample, rng: random.Random) -> tuple[str, float]:
    return answer(3 if rng.random() < step / 20 else rng.randint(0, 9)), rng.random()


def one_box(step: int, sample: Sample, rng: random.Random) -> tuple[str, float]:
    box = [0, 0, 112, 112] if rng.random() < step / 20 else sample.answer
    return answer(json.dumps({"bbox_2d": box})), rng.random()


def many_boxes(step: int, sample: Sample, rng: random.Random) -> tuple[str, float]:
    made = [[rng.randint(0, 50), rng.randint(0, 50), rng.randint(60, 112), rng.randint(60, 112)] for _ in range(6)]
    return answer(json.dumps([{"bbox_2d": box, "label": "it"} for box in made])), rng.random()


def looks(step: int, sample: Sample, rng: random.Random) -> tuple[str, float]:
    """Near the true box, a little off."""
    box = [value + rng.randint(-6, 6) for value in sample.answer]
    return answer(json.dumps({"bbox_2d": box})), rng.random()


def nothing_right(step: int, sample: Sample, rng: random.Random) -> tuple[str, float]:
    return answer(rng.randint(10, 19)), 0.0


def masked_row(step: int) -> float:
    return 0.6 if step > 20 else 0.0


CHEATS: dict[str, Callable[[], Iterator[Row]]] = {
    "format_alone": lambda: run_of(form_only),
    "length_collapse": lambda: run_of(shrinks),
    "length_explosion": lambda: run_of(grows),
    "repetition": lambda: run_of(repeats),
    "box_inflation": lambda: run_of(many_boxes, boxes),
    "constant_answer": lambda: run_of(always_three),
    "copied_box": lambda: run_of(one_box, boxes),
    "no_signal": lambda: run_of(nothing_right),
    "kl_explosion": lambda: run_of(guesses, policy__kl=lambda step: 0.001 * 1.2**step),
    "sampler_gap": lambda: run_of(guesses, sampler__gap_mean=lambda step: 1e-4 * 1.15**step),
    "entropy_collapse": lambda: run_of(guesses, policy__entropy=lambda step: 0.5 * 0.9**step),
    "heldout_falls": lambda: run_of(
        guesses,
        reward__total=lambda step: step / STEPS,
        eval__score=lambda step: 0.6 - abs(step - 20) / 100,
        eval__n=lambda step: 400.0,
    ),
    "masked_share": lambda: run_of(guesses, rollouts__masked=masked_row),
    "throughput_drop": lambda: run_of(guesses, tokens__per_s=lambda step: 1000.0 if step < 30 else 60.0),
}


def names(rows: Iterator[Row]) -> list[str]:
    return [alarm.name for alarm in judge(list(rows))]


@pytest.mark.parametrize("name", CHEATS)
def test_each_alarm_is_set_off_by_the_policy_that_it_is_for_once_and_says_what_to_try(name: str) -> None:
    alarms = judge(list(CHEATS[name]()))
    assert [alarm.name for alarm in alarms].count(name) == 1
    (alarm,) = (one for one in alarms if one.name == name)
    assert any(char.isdigit() for char in alarm.reason) and alarm.advice and 10 <= alarm.step <= STEPS


def test_the_alarm_of_the_sampler_names_the_likely_cause_of_most_replies_and_its_cure() -> None:
    rows = [
        {"step": i, "reward/total": 0.5, "sampler/gap_mean": 0.2, "sampler/cause/temperature": 3.0}
        | ({"sampler/cause/weights": 1.0} if i % 2 else {})
        for i in range(1, 11)
    ]
    (alarm,) = (one for one in judge(rows) if one.name == "sampler_gap")
    assert "likely cause, by replies: temperature of 30, weights of 5" in alarm.reason
    assert "--logprobs-mode processed_logprobs" in alarm.advice


def test_every_alarm_has_its_scripted_policy() -> None:
    assert set(CHEATS) == set(AlarmConfig.model_fields) - {"on", "window"}


@pytest.mark.parametrize(("policy", "samples"), [(learns, counts), (guesses, counts), (looks, boxes)])
def test_a_policy_that_learns_or_merely_guesses_sets_off_no_alarm(policy: Reply, samples: Any) -> None:
    assert names(run_of(policy, samples)) == []


def test_the_healthy_run_of_the_demo_sets_off_no_alarm() -> None:
    rows = [json.loads(line) for line in HEALTHY.read_text().splitlines()]
    assert len(rows) > 100 and {"replies/repetition", "boxes/copied", "answers/excess", "eval/score"} <= {
        key for row in rows for key in row
    }
    assert names(iter(rows)) == []


def test_an_alarm_that_is_null_stays_silent() -> None:
    watch = AlarmWatch(AlarmConfig(constant_answer=None))
    assert "constant_answer" not in {a.name for row in CHEATS["constant_answer"]() for a in watch.after(row)}


@pytest.mark.parametrize(
    ("text", "most"), [("a b c d " * 9, 1.0), ("one two three four five six seven", 0.0), ("", 0.0)]
)
def test_repetition_is_the_share_of_repeated_sequences(text: str, most: float) -> None:
    assert repetition(text) == pytest.approx(most, abs=0.15)


def test_a_run_with_a_planted_hack_stops_saves_and_resumes_past_its_alarm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    world = write_world(tmp_path / "world")
    alarms = {"on": "stop", "window": 2}
    recipe = rl_recipe(world, "nothing", num_steps=5, alarms=alarms, checkpoint={"every": 10, "keep": 2})
    with caplog.at_level(logging.WARNING):
        result = train(recipe, tmp_path / "run")
    assert result.step == 2 and result.stopped is not None
    assert "alarm no_signal at step 2" in result.stopped and "saccade resume" in result.stopped
    assert "equal rewards, all near zero" in caplog.text and "try: easier questions" in caplog.text
    assert [alarm.name for alarm in read_alarms(tmp_path / "run")] == ["no_signal"]
    resume(tmp_path / "run")
    assert "5 steps done" in capsys.readouterr().out
    assert len((tmp_path / "run" / ALARMS).read_text().splitlines()) == 1


def test_a_long_run_keeps_few_rows_and_its_alarms_are_those_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step drew what the rules read from the same generator; accuracy, length and speed drift in three stages."""

    def rows_of_a_long_run(seed: int) -> Iterator[Row]:
        rng = random.Random(seed)
        level = dict.fromkeys(("accuracy/all", "format/strict", "reward/total"), 0.5)
        length, speed, score = 100.0, 1000.0, 0.5
        for step in range(1, 3001):
            level = {key: min(1.0, max(0.0, value + rng.gauss(0, 0.01))) for key, value in level.items()}
            length, speed = length * math.exp(rng.gauss(0, 0.02)), speed * math.exp(rng.gauss(0, 0.02))
            row: Row = {
                "step": step,
                "stage": f"s{step // 1100}",
                "length/mean": length,
                "tokens/per_s": speed,
                **level,
            }
            row |= {"policy/entropy": math.exp(rng.gauss(0, 0.3)), "groups/zero_variance": rng.random()}
            if step % 100 == 0:
                score = min(1.0, max(0.0, score + rng.gauss(0, 0.1)))
                row |= {"eval/score": score, "eval/n": 200}
            yield row

    def found(seed: int) -> tuple[list[tuple[str, int]], int]:
        watch, most = AlarmWatch(AlarmConfig(window=5)), 0
        alarms = []
        for row in rows_of_a_long_run(seed):
            alarms += [(alarm.name, alarm.step) for alarm in watch.after(row)]
            most = max(most, len(watch.rows))
        return alarms, most

    few = [found(seed) for seed in range(6)]
    monkeypatch.setattr("saccade.runs.alarms.KEPT", 10**6)
    whole = [found(seed) for seed in range(6)]
    assert [alarms for alarms, _ in few] == [alarms for alarms, _ in whole]
    assert sum(len(alarms) for alarms, _ in whole) > 6
    assert all(most < 1000 for _, most in few) and all(most == 3000 for _, most in whole)

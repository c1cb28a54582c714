"""A user's own reward: it sees everything, costs only its own reply when it fails or hangs, and is never a 0."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
from PIL import Image

from saccade.rewards import PartConfig, RubricConfig, own, score_all
from saccade.rewards.own import OwnReward, close_all, load
from saccade.rollout.collect import StageRubrics
from saccade.rollout.stages import Stage
from saccade.tasks import TASKS
from saccade.types import Completion, Frame, Sample, Score

FILE = '''
import asyncio
import re
import time

from saccade.parsing import read_reply
from saccade.types import Score

import beside

CALLS = []


def sees(completion, sample, bonus=0.0):
    """Text, parsed answer, gold, images, sizes, meta: all are there."""
    print("this is no answer")
    right = read_reply(completion.text).answer == sample.answer == beside.GOLD
    sizes = completion.frames[0].size_original == sample.images[0].size
    return float(right and sizes and sample.meta["level"] == 3) - bonus


def remembers(completion, sample):
    CALLS.append(1)
    return Score(min(1.0, len(CALLS) / 10), "so far")


def moody(completion, sample):
    if "hang" in completion.text:
        while True:
            pass
    if "regex" in completion.text:
        re.match(r"(a+)+$", "a" * 60 + "b")  # a call into C that holds the interpreter
    if "die" in completion.text:
        import os
        os._exit(3)
    if "signal" in completion.text:
        import os, signal
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU):
            os.kill(os.getpid(), number)
    if "raise" in completion.text:
        raise KeyError("server down")
    if "word" in completion.text:
        return "very good"
    return 2.0 if "two" in completion.text else 0.25


async def waits(completion, sample, seconds=0.4):
    if "hang" in completion.text:
        await asyncio.sleep(60)
    if "block" in completion.text:
        time.sleep(60)
    if "raise" in completion.text:
        raise KeyError("server down")
    await asyncio.sleep(seconds)
    return 0.5


NUMBER = 3
'''
SAMPLE = Sample("s", (Image.new("RGB", (30, 20)),), "?", "3", "count", {"level": 3})


def reply(text: str) -> Completion:
    frame = Frame("pixels_original", (30, 20), (28, 28))
    return Completion(f"<think>{text}</think><answer>3</answer>", frames=(frame,))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "beside.py").write_text('GOLD = "3"\n')
    (folder / "mine.py").write_text(FILE)
    yield folder / "mine.py"
    close_all()


def many(reward: OwnReward, *texts: str) -> list[Score]:
    return reward.score([(reply(text), SAMPLE) for text in texts])


def test_it_gets_text_answer_gold_images_sizes_and_meta(file: Path):
    assert load(f"{file}:sees", {})(reply("a"), SAMPLE) == Score(1.0)
    assert load(f"{file}:sees", {"bonus": 0.25})(reply("a"), SAMPLE) == Score(0.75)


def test_what_it_remembers_lives_from_one_rubric_to_the_next(file: Path):
    values = [load(f"{file}:remembers", {})(reply("a"), SAMPLE).value for _ in range(3)]
    assert values == pytest.approx([0.1, 0.2, 0.3])


def test_a_failure_masks_its_own_reply_and_is_shown_once(file: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "saccade"):
        scores = many(load(f"{file}:moody", {}), "a", "raise", "a", "raise", "word", "a")
        many(load(f"{file}:moody", {}), "raise")  # the next step builds its rubric anew
    assert [score.value for score in scores] == [0.25, 0.0, 0.25, 0.0, 0.0, 0.25]
    assert [score.masked is None for score in scores] == [True, False, True, False, False, True]
    assert "KeyError: 'server down' (" in (scores[1].masked or "") and "mine.py:" in (scores[1].masked or "")
    assert "expected a number or a Score" in (scores[4].masked or "")
    assert caplog.text.count("raise KeyError") == 1, "the traceback, once"
    assert "own_worker.py" not in caplog.text and caplog.text.count("Traceback") == 1, "none of our own code"


@pytest.mark.parametrize("trouble", ["hang", "regex"])
def test_a_hang_is_killed_at_its_deadline_and_costs_one_reply(file: Path, trouble: str):
    reward = load(f"{file}:moody", {}, deadline_s=0.5)
    start = time.monotonic()
    scores = many(reward, "a", trouble, "a", "a")
    assert time.monotonic() - start < 30
    assert [score.value for score in scores] == [0.25, 0.0, 0.25, 0.25]
    assert scores[1].masked == "no answer in 0.5 s"


def test_a_process_that_dies_costs_one_reply(file: Path):
    scores = many(load(f"{file}:moody", {}), "a", "die", "a")
    assert [score.masked for score in scores] == [None, "its process ended with status 3", None]


def test_signals_that_a_scheduler_sends_to_every_process_cost_no_reply(file: Path):
    """The run itself stops after its step, for which all of the rewards still count."""
    scores = many(load(f"{file}:moody", {}), "a", "signal", "a")
    assert [(score.value, score.masked) for score in scores] == [(0.25, None)] * 3


def test_coroutines_run_at_once(file: Path):
    reward = load(f"{file}:waits", {})
    start = time.monotonic()
    assert [score.value for score in many(reward, *"abcdefghijklmnop")] == [0.5] * 16
    assert time.monotonic() - start < 16 * 0.4 / 2


def test_a_coroutine_that_hangs_or_blocks_costs_what_ran_beside_it_at_most(
    file: Path, caplog: pytest.LogCaptureFixture
):
    reward = load(f"{file}:waits", {"seconds": 0.0}, deadline_s=0.5)
    masked = [score.masked for score in many(reward, "a", "hang", "raise", "a")]
    assert "mine.py" in caplog.text and "own_worker.py" not in caplog.text and "asyncio/" not in caplog.text
    assert masked[0] is masked[3] is None
    assert masked[1] == "no answer in 0.5 s" and "KeyError" in (masked[2] or "")
    blocked = many(reward, "block")
    assert (blocked[0].masked or "").startswith("no answer in")


def test_functions_take_turns_in_several_processes(file: Path):
    scores = many(load(f"{file}:moody", {}, workers=2), "a", "raise", "a", "a", "word")
    assert [score.masked is None for score in scores] == [True, False, True, True, False]


def test_a_rubric_scores_all_replies_as_it_would_one_by_one(file: Path):
    own = PartConfig(name=f"{file}:moody", weight=0.5, deadline_s=20)
    rubric = RubricConfig(
        parts=(own, PartConfig(name="number"), PartConfig(name="repetition")), truncated="mask"
    ).build()
    items = [(rubric, reply(text), SAMPLE) for text in ("a", "raise", "two")]
    items.append((rubric, Completion("x", finish_reason="length"), SAMPLE))
    scores = score_all(items)
    assert scores == [rubric(completion, sample) for _, completion, sample in items]
    assert list(scores[0].parts) == [f"{file}:moody", "number", "repetition"]
    assert scores[0].value == 1.125
    assert "expected a value in [-1, 1]" in (scores[2].masked or "")
    assert [score.failed for score in scores].count(True) == 2, "a reply that is cut off is no failure"


def refused(name: str, words: str, options: dict | None = None) -> bool:
    with pytest.raises(ValueError, match=words):
        load(name, options or {})
    return True


def test_what_is_wrong_with_a_file_is_said_before_a_run_begins(file: Path, caplog: pytest.LogCaptureFixture):
    assert refused(f"{file.parent}/none.py:f", "there is no file")
    assert refused(f"{file.parent}:f", "is no regular file")
    assert refused(f"{file}:moodi", "defines no function 'moodi'; did you mean 'moody'")
    assert refused(f"{file}:NUMBER", "defines no function 'NUMBER'")
    assert refused(f"{file}:sees", "has no option 'bonis'; did you mean 'bonus'", {"bonis": 1})
    broken = file.parent / "broken.py"
    broken.write_text("import a_module_that_is_not_there\n")
    assert refused(f"{broken}:f", "cannot be loaded: ModuleNotFoundError")
    assert 'broken.py", line 1' in caplog.text
    for text in ("def f(completion, sample) return 1", "def f(completion, sample): return 1\0"):
        caplog.clear()
        broken.write_text(text)
        assert refused(f"{broken}:f", "cannot be loaded: (SyntaxError|ValueError)")  # of a null byte in Python 3.11.2
        assert "Traceback" not in caplog.text and ("SyntaxError: " in caplog.text or "\0" in text)
    for odd in ("f.__wrapped__ = f", "f.__signature__ = 5", "f.__signature__ = lambda: 1 / 0"):
        caplog.clear()
        broken.write_text(f"def f(completion, sample): return 1\n{odd}\n")
        assert refused(f"{broken}:f", r"broken\.py: 'f' has no parameters that can be read \(.*; write def score")
        assert "Traceback" not in caplog.text
    broken.write_text("raise ValueError('no data')\n")
    assert refused(f"{broken}:f", r"broken\.py cannot be loaded: ValueError: no data")


def test_deadline_and_workers_are_for_a_reward_of_ones_own(file: Path):
    with pytest.raises(ValueError, match="'deadline_s' is only for your own reward"):
        PartConfig(name="number", deadline_s=3)
    with pytest.raises(ValueError, match="greater than 0"):
        PartConfig(name=f"{file}:sees", deadline_s=0)


def test_no_file_of_the_working_directory_takes_the_place_of_an_installed_module(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    for name in ("psutil", "asyncio", "pickle"):
        Path(f"{name}.py").write_text("raise SystemExit('a file of the data was run')\n")
    Path("mine.py").write_text("HALF = 0.5\n")
    (tmp_path / "own.py").write_text("import psutil\nfrom mine import HALF\ndef half(c, s): return HALF\n")
    assert load(f"{tmp_path / 'own.py'}:half", {})(reply("a"), SAMPLE) == Score(0.5)


def test_a_file_counts_as_it_was_when_the_run_began_also_in_a_new_process(tmp_path: Path, monkeypatch) -> None:
    mine = tmp_path / "own.py"
    mine.write_text("import os\ndef half(c, s): return os._exit(1) if 'die' in c.text else 0.5\n")
    config = RubricConfig.model_validate({"parts": [{"name": f"{mine}:half"}], "truncated": "as_is"})
    rubrics, stage = StageRubrics(TASKS, {"mine": config}), Stage(max_new_tokens=9, group_size=2, rubric="mine")
    assert rubrics(stage)("count")(reply("a"), SAMPLE).value == 0.5
    mine.write_text("((( being edited")
    (folder := tmp_path / "removed").mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert rubrics(stage)("count")(reply("die"), SAMPLE).masked
    mine.unlink()
    assert rubrics(stage)("count")(reply("a"), SAMPLE).value == 0.5
    with pytest.raises(ValueError, match="there is no file"):
        config.build()


def test_files_beside_it_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("0.25")
    (tmp_path / "own.py").write_text(
        "import pkgutil\ndef read(c, s): return float(pkgutil.get_data(__name__, 'words.txt'))\n"
    )
    assert load(f"{tmp_path / 'own.py'}:read", {})(reply("a"), SAMPLE) == Score(0.25)


def test_a_file_that_loads_for_long_is_said_meanwhile(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(own, "PATIENCE_S", 0.05)
    (tmp_path / "own.py").write_text("def half(c, s): return 0.5\n")
    assert load(f"{tmp_path / 'own.py'}:half", {})(reply("a"), SAMPLE) == Score(0.5)
    assert "is still being loaded after 0.05 s; it is given 300 s" in caplog.text

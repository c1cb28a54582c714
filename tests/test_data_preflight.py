"""Preflight: valid data passes, and each kind of fault is found, counted and located."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.data import DataConfig, open_source
from saccade.data.preflight import PreflightEntry, preflight
from saccade.data.records import BoxError
from saccade.types import Frame, Sample, Turn
from saccade.world.splits import ALL_TASKS

PICTURE = Image.new("RGB", (60, 40))


def sample(**more) -> Sample:
    return replace(Sample("1", (PICTURE,), "Where?", (1.0, 2.0, 30.0, 40.0), "refer"), **more)


def test_valid_samples_pass() -> None:
    report = preflight([sample(), sample(id="2", answer=3, task="count")])
    assert report.ok
    assert report.samples == 2


LATER = [{"role": "user", "content": "<image><image>"}, {"role": "assistant", "content": "3"}] * 2


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        (sample(id="0"), "duplicate id", "was used before"),
        (sample(answer=(1.0, 2.0, 30.0, 41.0)), "box outside", "not inside its image"),
        (sample(answer=[{"bbox_2d": [1, 2, 61, 4], "label": "cat"}], task="detect"), "box outside", "not inside"),
        (sample(images=("gone.png",)), "image", "gone.png: there is no such image file"),
        (sample(answer="many", task="count"), "gold", "scores 0 under its own task 'count'"),
        (sample(answer="perhaps", task="yes_no"), "gold", "cannot be written"),
        (sample(meta={"image_index": float("inf")}), "gold", "cannot be written"),
        (sample(meta={"options": 5}), "row", "meta.options is 5, expected a list"),
        (sample(meta={"turns": LATER}), "row", "meta.turns has 4 <image> markers for 1 images"),
        (sample(task="dance"), "task", "unknown task 'dance'"),
        (sample(answer=(30.0, 2.0, 1.0, 40.0)), "box", "has x1 > x2 or y1 > y2"),
        (sample(answer=(3.0, 2.0, 3.0, 40.0)), "box", "is empty"),
        (sample(question="Where is <|image_pad|>?"), "placeholder", "the text contains <|image_pad|>"),
        (sample(task="count", answer=3, question="<image><image>?"), "prompt", "cannot be written"),
        (BoxError("answer box [3, 1, 2, 4]"), "box", "answer box"),
        (ValueError("not JSON"), "row", "not JSON"),
    ],
)
def test_each_fault_is_found_and_located(wrong: Sample | ValueError, kind: str, words: str) -> None:
    report = preflight([sample(id="0", question="What?"), ("train.jsonl:9", wrong)])
    assert report.counts.get(kind) == 1
    assert any(line.startswith("train.jsonl:9: ") and words in line for line in report.findings)


@dataclass(frozen=True)
class Length:
    """One token per letter of text, and one per column of an image."""

    total: int
    images: tuple[int, ...]
    frames: tuple[Frame, ...]
    opened: str = ""


class ByLetters:
    def prompt(self, text: str, sizes: Sequence[tuple[int, int]], before: Sequence[Turn] = ()) -> Length:
        if "unreadable" in text:
            raise ValueError("no such token")
        words = len(text.replace("<image>", ""))
        images = tuple(width for width, _ in sizes)
        return Length(words + sum(images), images, tuple(Frame("thousand", size, size) for size in sizes))

    def reply(self, text: str, opened: str = "") -> int:
        return len(text)

    def read_back(self, text: str, opened: str = "") -> str:
        return text


def test_prompts_over_budget_are_counted_and_lengths_reported() -> None:
    report = preflight([sample(), sample(id="2", question="Where is it?")], ByLetters(), 70)
    assert report.counts == {"prompt over budget": 1}
    assert max(report.prompt_tokens) == 60 + len("Where is it?")
    assert (report.prompt_tokens, report.image_tokens) == ({66: 1, 72: 1}, {60: 2})
    assert "the prompt has 72 tokens (60 of images), expected 70 at most" in report.findings[0]


def test_a_prompt_that_the_model_cannot_read_is_found() -> None:
    report = preflight([sample(question="unreadable")], ByLetters(), 70)
    assert report.counts == {"prompt": 1}
    assert "no such token" in report.findings[0]


def test_a_reply_to_train_on_is_counted_and_needs_no_gold() -> None:
    row = PreflightEntry("t.jsonl:1", sample(answer=None, task="sft"), prompt="Say it.", reply="It.")
    report = preflight([row], ByLetters(), 69)
    assert (report.counts, report.reply_tokens) == ({"prompt over budget": 1}, {3: 1})
    assert preflight([row], ByLetters(), 70).ok


def test_duplicate_rows_are_found_despite_other_ids_and_files(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "copy.png")
    rows = [sample(), sample(id="2", images=(str(tmp_path / "copy.png"),)), sample(id="3", answer=(1.0, 2.0, 3.0, 4.0))]
    report = preflight([(f"t.jsonl:{k}", row) for k, row in enumerate(rows, 1)])
    assert report.counts == {"duplicate row": 1, "two answers": 1}
    assert report.findings[0] == "t.jsonl:2: has the images, question and answer of t.jsonl:1"


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 60, 3), dtype=np.uint8))


def test_evaluation_questions_must_not_be_trained_on() -> None:
    asked = [
        sample(images=(noise(1),), question="Where is the cup?", id="e1"),
        sample(images=(), task="count", answer=1),
    ]
    trained = [
        sample(images=(noise(1),), question=" where is the CUP? ", id="1"),
        sample(images=(noise(1),), question="Where is the plate?", id="2"),
        sample(images=(noise(2),), question="Where is the cup?", id="3"),
        sample(images=(), task="count", answer=1, id="4"),
        sample(images=(noise(3),), question="Where is the plate?", id="5"),
    ]
    entries = [PreflightEntry(f"e.jsonl:{k}", one, "eval") for k, one in enumerate(asked, 1)]
    entries += [PreflightEntry(f"t.jsonl:{k}", one) for k, one in enumerate(trained, 1)]
    report = preflight(entries)
    assert report.counts == {"in the evaluation": 2, "picture of the evaluation": 1}
    assert [line.split(": ")[0] for line in sorted(report.findings)] == ["t.jsonl:1", "t.jsonl:2", "t.jsonl:4"]
    assert any("is in e.jsonl:1" in line for line in report.findings)
    assert report.notes["questions of the evaluation about other pictures"] == 1


def test_ids_may_repeat_in_another_source() -> None:
    twice = [PreflightEntry("a:1", sample(), source="a"), PreflightEntry("b:1", sample(question="When?"), source="b")]
    assert preflight(twice).ok
    assert preflight([replace(one, source="a") for one in twice]).counts == {"duplicate id": 1}


def test_findings_alternate_between_kinds() -> None:
    tasks = ["dance", "sing", "jump"]
    many = [sample(id=str(i), task=task, images=(noise(i),)) for i, task in enumerate(tasks)]
    many += [sample(id="d", answer=(1.0, 2.0, 99.0, 9.0)), sample(id="x", images=("gone.png",))]
    report = preflight(many, keep=3)
    assert report.counts == {"task": 3, "box outside": 1, "image": 1}
    assert len(report.findings) == 3
    assert any("gone.png" in line for line in report.findings)


def test_the_same_fault_on_many_rows_is_one_line_with_a_count_and_three_places() -> None:
    many = [sample(id=str(i), question=str(i), answer=(1.0, 2.0, 90.0 + i / 10, 9.0)) for i in range(2000)]
    report = preflight((f"t.jsonl:{k}", one) for k, one in enumerate(many, 1))
    assert report.counts == {"box outside": 2000}
    (line,) = report.findings
    assert line.startswith("t.jsonl:1: box [1.0, 2.0, 90.0, 9.0] is not inside")
    assert line.endswith("[2,000 rows: t.jsonl:1, t.jsonl:2, t.jsonl:3, ..]")
    assert report.hidden == 0


def test_an_animation_is_noted(tmp_path: Path) -> None:
    noise(1).save(tmp_path / "a.gif", save_all=True, append_images=[noise(2)])
    report = preflight([sample(images=(str(tmp_path / "a.gif"),))])
    assert report.ok
    assert report.notes == {"animations, of which the first frame is used": 1}


def test_findings_are_bounded_and_counts_are_not() -> None:
    wrong = [ValueError(f"no {'x' * n}") for n in range(50)]
    report = preflight(((f"t.jsonl:{n}", one) for n, one in enumerate(wrong)), keep=3)
    assert len(report.findings) == 3
    assert (report.counts, report.hidden) == ({"row": 50}, 47)


@pytest.mark.parametrize("task", ALL_TASKS)
def test_the_world_passes_its_own_preflight(task: str) -> None:
    report = preflight(open_source(DataConfig(source="world", task=task, limit=12)))
    assert report.findings == ()


def test_every_real_gold_answer_scores_one_under_its_own_task(real_data: Path) -> None:
    entries = [("math_vision", "math_vision/train.jsonl"), ("math_vision", "math_vision/testmini.jsonl")]
    for source, path in [*entries, ("geometry3k", "geometry3k")]:
        report = preflight(open_source(DataConfig(source=source, path=real_data / path)))
        assert report.findings == ()
        assert report.samples in (360, 200, 10)


def test_no_finding_about_a_long_name_fills_the_screen() -> None:
    found = preflight([sample(id="i" * 9_000, task="t" * 9_000)] * 2).findings
    assert found and all(len(finding) < 1_000 for finding in found)


def test_a_gold_that_was_right_before_is_looked_at_again_in_another_task_or_with_other_options() -> None:
    def choice(number: int, *options: str) -> Sample:
        return Sample(f"s{number}", (), f"Which, {number}?", "C", "choice", {"options": list(options)})

    rows = [choice(1, "a", "b", "c"), choice(2, "a", "b", "c"), choice(3, "a", "b"), sample(id="s4", answer="C")]
    report = preflight(rows)
    assert report.counts == {"gold": 2} and len(report.findings) == 2
    named = [replace(choice(n, "a", "b", "c"), meta={"options": ["a"], "reward": "choice"}) for n in (1, 2)]
    assert preflight(named).counts["gold"] == 2, "rows that name a reward of their own are all tried"


def test_rows_that_lost_their_image_are_noted(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    pictured = [sample(id=f"s{n}", question=f"{n}?", images=(str(tmp_path / "a.png"),)) for n in range(3)]
    bare = sample(id="bare", question="Which?", images=(), answer=3, task="count")
    assert preflight([*pictured, bare]).notes == {"rows without an image, among rows with one": 1}
    assert not preflight([bare, replace(bare, id="other")]).notes

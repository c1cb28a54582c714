"""No text takes more than linear time: every regular expression, reader, reward and writer is pumped with its worst."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from pumping import Shape, calls_of, cpu_seconds, patterns, shapes_of, slope, text_of, worst_of
from test_parsing_total import HOSTILE, READERS
from test_rewards_fuzz import BOUND, FRAME, GOLDS

from saccade.parsing.markup import fold, normalized, plain
from saccade.parsing.points import read_points
from saccade.types import Completion, Sample

PATTERNS = patterns()
SHORT = {
    "_WORDS_SAID": 300,
    "_BARE": 100,
    "_TIGHT": 60,
    "_JOIN": 60,
    "HUB_NAME": 200,
}
"""Patterns that see no longer text than this (their callers cut it)."""
PUMPED: dict[str, Shape] = {
    "spaces behind a letter": ("A", " ", "zz"),
    "line breaks behind a letter": ("A", "\n", "z"),
    "spaces behind 'is'": ("is", " ", "x"),
    "quotes behind a letter": ("A", '"', "z"),
    "thousands": ("1", ",111", "x"),
    "marks of two classes": ("a", "\u0301\u0316", "b"),
    "marks that appear when normalized": ("a", "\u0301\uff9e", "b"),
    "a closing tag and opening ones": ("</answer>", "<answer>", ""),
    "opening tags": ("", "<answer>", "</answer>"),
    "thoughts": ("</think>", "<think>", ""),
    "boxes": ("[", '{"bbox_2d":[1,2,3,4],"label":"a"},', "]"),
    "braces": ("", "{", ""),
    "claims": ("", "the answer is ", "B"),
    "dollars": ("", "$1$ ", ""),
    "words": ("", "word ", ""),
}


BRIEF, QUICK_S = 1_500, 0.0001
"""A quadratic pattern that takes no longer than this for 1.5 kB takes no more than 70 ms for 40 kB."""


def limit_of(name: str) -> int | None:
    return next((size for short, size in SHORT.items() if f".{short}:" in name), None)


PACKAGES = sorted({name.split(".")[0].split(":")[0] for name in PATTERNS})


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_the_regular_expressions_of_a_package_take_linear_time_for_their_worst_case(package: str) -> None:
    for name in PATTERNS:
        if name.split(".")[0].split(":")[0] == package:
            check_pattern(name, most=14, bound=1.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", PATTERNS)
def test_a_regular_expression_takes_linear_time_for_all_shapes(name: str) -> None:
    check_pattern(name, most=400, bound=1.2)


def check_pattern(name: str, most: int, bound: float) -> None:
    pattern, used = PATTERNS[name]
    for how, call in calls_of(pattern, used).items():
        longest = limit_of(name)
        worst = worst_of(call, shapes_of(pattern, most), longest or BRIEF)
        if longest is not None:
            start = time.thread_time()
            call(text_of(worst, longest))
            assert time.thread_time() - start < 0.01, (name, how, worst)
        else:
            quick = most < 100 and cpu_seconds(call, text_of(worst, BRIEF), 2) < QUICK_S
            found = 0.0 if quick else slope(call, worst)
            assert found < bound, (name, how, worst, found)


@pytest.mark.parametrize("shape", PUMPED.values(), ids=PUMPED)
def test_a_reader_or_reward_takes_linear_time(shape: Shape) -> None:
    for name, call in targets().items():
        found = slope(call, shape, times=2)
        assert found < 1.5 or slope(call, shape) < 1.5, (name, found)


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_reader_or_reward_takes_linear_time_for_every_hostile_text(text: str) -> None:
    shape = ("", text[:2_000], "")
    for name, call in targets().items():
        found = slope(call, shape, times=2)
        assert found < 1.2 or slope(call, shape, times=9) < 1.3, (name, found)  # on a busy machine; quadratic is 2


def targets() -> dict[str, Callable[[str], Any]]:
    """Readers, normalizers and rewards as functions of a text."""
    found: dict[str, Callable[[str], Any]] = {**READERS, "points": read_points, "plain": plain, "fold": fold}
    found["normalized"] = normalized
    for name in BOUND:
        found[name] = lambda text, name=name: scored(name, text)
    return found


def scored(name: str, text: str) -> Any:
    sample = Sample("s", (), "How many?", GOLDS.get(name, "3"), "any", {"facts": ["a red circle"]})
    return BOUND[name](Completion(f"<think>a</think><answer>{text}</answer>", (0,) * 20, frames=(FRAME,)), sample)


@pytest.mark.slow
def test_99_of_100_rewards_of_50_kilobytes_take_less_than_50_ms() -> None:
    taken = []
    for shape in [*PUMPED.values(), *(("", text[:2_000], "") for text in HOSTILE.values())]:
        text = text_of(shape, 50_000)
        for name in BOUND:
            start = time.thread_time()
            scored(name, text)
            taken.append(time.thread_time() - start)
    taken.sort()
    assert taken[int(0.99 * len(taken))] < 0.05


def test_normalizing_changes_nothing_that_people_write() -> None:
    for text in ("e\u0301", "\u1112\u1161\u11ab", "x\u0323\u0307" * 9, "\u0915\u094d\u0937\u093f", "\u30cf\uff9e"):
        assert normalized(text * 3) == unicodedata.normalize("NFKC", text * 3)
    assert len(normalized("a" + "\u0301" * 500)) == 30

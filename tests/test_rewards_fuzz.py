"""Any text whatever: every reader gives a value or None, every reward a number in its range, in time linear in it."""

from __future__ import annotations

import inspect
import math
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property_search import examples

from saccade import parsing
from saccade.rewards import PENALTIES, REWARDS
from saccade.rewards.table import bind
from saccade.types import Completion, Frame, Sample, Score

FRAME = Frame("pixels_resized", (200, 100), (100, 100))
BOX, ITEMS = [0, 0, 10, 10], [{"bbox_2d": [0, 0, 10, 10], "label": "a"}, {"bbox_2d": [50, 0, 80, 90], "label": "b"}]
ASKS_OTHERS = {"math", "llm_judge"}
"""A process, a server: their laws stand in their own tests."""
NUMBER = {"accuracy": "number"}
OPTIONS: dict[str, dict[str, Any]] = {
    "hard": NUMBER,
    "cosine_length": {**NUMBER, "max_length": 10},
    "language_consistency": {"script": "latin"},
    "soft_overlong": {"max_length": 10, "buffer": 5},
}
OF_ONE_BOX = ("rec_iou", "rec_iou_at", "rec_iou_dynamic", "point_in_box", "vlm_r1/iou")
OF_LISTS = tuple(name for name in [*REWARDS, *PENALTIES] if "detection" in name or name == "box_repetition")
OF_LISTS += tuple(f"vlm_r1/{name}" for name in ("map", "od_ap", "od_ap50", "odLength", "weighted_sum"))
GOLDS: dict[str, Any] = {
    **dict.fromkeys(OF_ONE_BOX, BOX),
    **dict.fromkeys(OF_LISTS, ITEMS),
    **{"choice": "B", "choices": "B", "yes_no": "yes", "exact_text": "red", "char_similarity": "red"},
}
BOUND = {name: bind(name, OPTIONS.get(name, {})) for name in sorted((REWARDS | PENALTIES).keys() - ASKS_OTHERS)}
READERS = [getattr(parsing, name) for name in parsing.__all__ if name.startswith("read_")]
READERS = [one for one in READERS if sum(p.default is p.empty for p in inspect.signature(one).parameters.values()) == 1]

PIECES = [
    *(
        "<think>a</think>",
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "< answer >",
        "Final Answer:",
        "```json\n",
        "```",
    ),
    *(
        '{"bbox_2d": [',
        '"label": "a"',
        "1, 2, 3, 4",
        "]}",
        "[",
        "]",
        "{",
        "}",
        "(",
        ")",
        "[[[[",
        "<point x=",
        "<loc0001>",
    ),
    *("<|box_start|>(1,2),(3,4)<|box_end|>", "NaN", "Infinity", "-1e308", "1e999", "9" * 40, "0x1f", "\u0661\u0662"),
    *(r"\boxed{", r"\frac{1}{0}", r"\sqrt", "^^", "10**10**10", "%", "\u00b0", "\u2212", "1,000", "1 000", ".5", "5."),
    *("A", "B)", "(C)", "or", "yes", "no", "know", "\u662f", "\u4e0d", "\u7b54\u6848", "None", "null", "a b c d e f "),
    *("\ud800", "\udfff", "\u202e", "\u200f", "\u0000", "\ufeff", "\u0301", "\U0001f600", "\n", "\t", " ", "\r\n"),
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=24).map("".join) | st.text(max_size=80)
REPLIES = TEXTS | TEXTS.map(lambda text: f"<think>a</think><answer>{text}</answer>")


def check(text: str, tokens: int) -> int:
    """How many rewards and penalties were tried."""
    tried = 0
    for reader in READERS:
        reader(text)
    completion = Completion(text, (0,) * tokens, frames=(FRAME,), weights_version=tokens)
    for name, reward in BOUND.items():
        sample = Sample("s", (), "How many?", GOLDS.get(name, "3"), "any", {"facts": ["a red circle", ["two", "2"]]})
        score = reward(completion, sample)
        assert isinstance(score, Score) and score.masked is None, (name, score)
        low, high = (-1.0, 0.0) if name in PENALTIES else (0.0, 1.0)
        assert math.isfinite(score.value) and low <= score.value <= high, (name, score)
        assert score.value == high or score.reason, (name, score)
        tried += 1
    return tried


@given(text=REPLIES, tokens=st.integers(0, 20))
@settings(max_examples=examples(2_000, random=20_000), suppress_health_check=list(HealthCheck))
def test_any_text_gets_a_value_in_range_from_every_reward(text: str, tokens: int):
    assert check(text, tokens) >= len(PENALTIES)


SEEDS = [
    *(
        "[",
        "{",
        "(",
        "[[1, 2, 3, 4], ",
        '{"bbox_2d": [1, 2, 3, 4], "label": "a"}, ',
        "<think>",
        "<answer>",
        "</answer>",
    ),
    *(
        "</think>   ",
        "<answer>1</answer>",
        "```json\n[]\n```",
        "1, ",
        "1 ",
        "9",
        "[1,",
        "(1, 2)",
        " ",
        "\n",
        "a",
        "A. ",
    ),
    *(
        r"\boxed{",
        r"\frac{1}{2}",
        "answer is ",
        "is ",
        "yes ",
        "<|box_start|>(1,2),",
        "<point x=",
        '"',
        "\\",
        "-",
        "\u662f",
    ),
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "in an answer"])
def test_fifty_thousand_characters_take_a_moment(seed: str, wrapped: bool):
    text = seed * (50_000 // len(seed))
    text = f"<think>a</think><answer>{text}</answer>" if wrapped else text
    completion = Completion(text, (0,) * 20, frames=(FRAME,))
    slowest: dict[str, float] = {}
    for name, reward in BOUND.items():
        sample = Sample("s", (), "How many?", GOLDS.get(name, "3"), "any", {"facts": ["a red circle"]})
        start = time.thread_time()
        assert reward(completion, sample).masked is None
        slowest[name] = time.thread_time() - start
    worst = max(slowest, key=lambda one: slowest[one])
    assert slowest[worst] < 2.0, (worst, slowest[worst])
